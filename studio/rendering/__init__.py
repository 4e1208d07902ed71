"""Batches: jobs files, the store that loses no job and doubles none, workers, engines.

`jobs` and `grid` read what is wanted, `plan` gives every result its key, `store` keeps what is
claimed, done and failed on disk, `worker` makes results, `engines` start workers, `render` watches
them.
"""
