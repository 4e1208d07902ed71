"""The frame of the app: which pages there are. Run by `serve.py`, once for every visit."""

import streamlit as st

st.set_page_config(page_title="studio", page_icon=":material/palette:", layout="wide")
st.navigation(
    [
        st.Page("pages/create.py", title="Create", icon=":material/brush:", default=True),
        st.Page("pages/gallery.py", title="Gallery", icon=":material/photo_library:"),
    ],
    position="top",
).run()
