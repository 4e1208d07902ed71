"""The frame of the app: which pages there are. Run by `serve.py`, once for every visit."""

from pathlib import Path

import streamlit as st

# A picture of our own: icons by name would be fetched from the net.
ICON = Path(__file__).with_name("icon.png")
st.set_page_config(page_title="studio", page_icon=str(ICON), layout="wide")
st.navigation(
    [
        st.Page("pages/create.py", title="Create", icon=":material/brush:", default=True),
        st.Page("pages/gallery.py", title="Gallery", icon=":material/photo_library:"),
        st.Page("pages/reconstruct.py", title="Reconstruct", icon=":material/compare:"),
        st.Page("pages/tokens.py", title="Tokens", icon=":material/grid_view:"),
        st.Page("pages/decoding.py", title="Decoding", icon=":material/speed:"),
        st.Page("pages/batch.py", title="Batch", icon=":material/table_rows:"),
        st.Page("pages/models.py", title="Models", icon=":material/database:"),
    ],
    position="top",
).run()
