"""What the app and the REST API stand on: one queue, one loaded model, one workspace.

Plain Python: nothing here knows Streamlit, and only `api.py` knows HTTP.
"""
