"""Gallery: everything that was made, searched, starred, compared, deleted."""

import streamlit as st
from elements import alt_of, media_of, plain, settings_of_drop, show, studio, tile

from studio.server.media import KINDS
from studio.server.settings import described

PAGE = 24
MOST = 4  # side by side
MEDIA = {kind.noun.capitalize() + "s": name for name, kind in KINDS.items()}


def filters() -> list:
    """The items that are wanted."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        words = st.text_input(
            "Search", key="gallery-words", type="search", icon=":material/search:",
            placeholder="words, seeds, models", persist_state="session",
        )  # fmt: skip
        medium = st.pills("Medium", list(MEDIA), key="gallery-medium", label_visibility="collapsed")
        starred = st.toggle("Starred", key="gallery-starred")
        st.toggle("Compare", key="gallery-choosing", help="Up to four, side by side")
    return studio().gallery.search(words or "", medium=MEDIA.get(medium), starred=starred)


def choose(name: str) -> None:
    """Takes an item to those that are compared, or away from them."""
    chosen = st.session_state["gallery-chosen"]
    chosen.remove(name) if name in chosen else chosen.append(name)


def choose_none() -> None:
    """Takes all away from those that are compared."""
    for name in st.session_state["gallery-chosen"]:
        st.session_state[f"compare{name}"] = False
    st.session_state["gallery-chosen"] = []


def compare(items: list) -> None:
    """Chosen items side by side, with what differs."""
    keys = {key for item in items for key in item.request}
    differs = [k for k in sorted(keys) if len({str(i.request.get(k)) for i in items}) > 1]
    columns = st.columns(len(items))
    for column, item in zip(columns, items, strict=True):
        with column:
            media = media_of(item)
            if media is not None:
                show(media, alt=alt_of(item))
            same = [k for k in item.request if k not in differs]
            st.caption(plain(f"{item.title} · {described(item.request, without=same)}"))


def shown(items: list) -> None:
    """One page of tiles."""
    names = st.session_state["gallery-chosen"]
    pages = -(-len(items) // PAGE)
    page = 1
    if pages > 1:
        page = st.segmented_control(
            "Page", range(1, pages + 1), default=1, required=True, label_visibility="collapsed"
        )
    with st.container(horizontal=True, gap="medium"):
        for item in items[(page - 1) * PAGE : page * PAGE]:
            with st.container(width="content", gap="xsmall"):
                tile(item, key="gallery")
                if choosing:
                    ours = item.id in names
                    st.checkbox(
                        "Compare", ours, key=f"compare{item.id}", on_change=choose, args=(item.id,),
                        disabled=len(names) >= MOST and not ours,
                    )  # fmt: skip


st.title("Gallery", anchor=False)
with st.expander("Settings from a file", icon=":material/upload_file:"):
    if settings_of_drop("gallery"):
        st.switch_page("pages/create.py")
items = filters()
choosing = st.session_state["gallery-choosing"]
found = [studio().gallery.get(name) for name in st.session_state.get("gallery-chosen", [])]
chosen = [item for item in found if item is not None]  # of any page and search
st.session_state["gallery-chosen"] = [item.id for item in chosen]
if choosing and chosen:
    if len(chosen) > 1:
        compare(chosen)
    st.button(f"Compare none of the {len(chosen)}", icon=":material/close:", on_click=choose_none)
if items:
    st.caption(f"{len(items)} of {len(studio().gallery)}")
    shown(items)
else:
    st.info("Nothing here yet." if not len(studio().gallery) else "Nothing fits the search.")
