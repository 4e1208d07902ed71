"""Models: what is here, how large, under which licence; load, convert, fetch, free memory."""

import pandas as pd
import streamlit as st
from elements import ended, failed, job_here, owner, plain, studio, watch, worked

from studio.server import catalog
from studio.server.media import KINDS


def table(entries: list) -> None:
    """All models in rows."""
    rows = [
        {
            "name": e.name,
            "makes": f"{KINDS[e.medium].noun}s" if e.generates else "tokenizer",
            "generators": ", ".join(e.generators),
            "tokenizer": e.tokenizer,
            "MB": round(e.bytes / 1e6, 1),
            "licence": catalog.licence(e.folder),
            "from": e.origin,
        }
        for e in entries
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, alt="the models that are here")


def memory() -> None:
    """What is loaded, and how to let go of it."""
    place, held = studio(), studio().keeper.loaded()
    text = ", ".join(f"{name} ({size / 1e6:.0f} MB)" for name, size in held)
    with st.container(horizontal=True, vertical_alignment="center"):
        used = catalog.memory_used()
        st.caption(f"Loaded: {text or 'nothing'}. This process holds {used / 1e6:.0f} MB.")
        if held and st.button("Free memory", icon=":material/memory:"):
            job = failed(
                place.run, lambda job: place.keeper.free(), kind="free", title="free memory",
                owner=owner(), urgent=True,
            )  # fmt: skip
            if job is not None:
                job.wait(timeout=20)
                st.rerun()


def submit(work, kind: str, title: str) -> None:
    """Puts long work into the queue."""
    job = failed(studio().run, work, kind=kind, title=title, owner=owner())
    if job is not None:
        st.query_params["job"] = job.id
        st.rerun()


def card(entries: list) -> None:
    """The card of one model, and what can be done with it."""
    place = studio()
    name = st.selectbox("Model", [entry.name for entry in entries], key="models-one")
    entry = place.keeper.find(name)
    with st.container(horizontal=True):
        if st.button("Load now", icon=":material/download_for_offline:"):
            submit(lambda job: bool(place.keeper.open(name)), "load", f"loading {name}")
        ours = entry.origin in ("workspace", "hub")
        pressed = ours and st.button("Remove", icon=":material/delete:")
        if pressed and worked(place.keeper.remove, name):
            st.rerun()
    text = catalog.card_text(entry.folder)
    with st.container(border=True, height=420):
        st.markdown(text or "This model has no card.")


def from_hub() -> None:
    """A model of the Hub."""
    place = studio()
    name = st.text_input("Hub id", placeholder="owner/name", max_chars=200, key="hub-id")
    if st.button("Fetch", disabled=not name, icon=":material/cloud_download:"):
        submit(lambda job: bool(place.keeper.fetch(name)), "fetch", f"fetching {name[:60]}")


def from_checkpoint() -> None:
    """Official weights that lie in the workspace."""
    place, files = studio(), catalog.checkpoints(studio().workspace)
    st.caption(
        f"Put official weights into `{place.workspace.folder.name}/checkpoints`, and a folder of "
        f"ours into `{place.workspace.folder.name}/models`; then they are here."
    )
    file = st.selectbox("File", files, index=0 if files else None, placeholder="none is there")
    family = st.selectbox("Family", catalog.families())
    name = st.text_input("Name", max_chars=64, key="convert-name")
    if st.button("Convert", disabled=not (file and name), icon=":material/transform:"):
        submit(
            lambda job: catalog.convert(place.workspace, place.keeper, file, family, name),
            "convert",
            f"converting {file}",
        )


st.title("Models", anchor=False)
job = job_here("load", "fetch", "convert", lasting=False)
if job is not None and not job.finished:
    watch(job)
elif job is not None and ended(job.snapshot()):
    st.success(f"Done: {plain(job.title)}.", icon=":material/check:")
entries = studio().keeper.entries()
table(entries)
memory()
left, right = st.columns([3, 2], gap="large")
with left:
    card(entries)
with right:
    with st.expander("From the Hub", icon=":material/cloud_download:"):
        from_hub()
    with st.expander("Convert official weights", icon=":material/transform:"):
        from_checkpoint()
    with st.expander("REST API", icon=":material/api:"):
        st.markdown(
            "The API is at `/api/v1` on this address, described by "
            "[`/api/v1/openapi.json`](/api/v1/openapi.json). Its token is in the file `api-token` "
            "of the workspace."
        )
