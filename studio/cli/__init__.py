"""The command line: one file a verb. Heavy modules are imported inside the verbs, so that help is
quick.
"""
