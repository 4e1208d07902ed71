"""Batch: a table of jobs, edited or uploaded, rendered beside the queue, stopped and resumed."""

import contextlib
import json

import pandas as pd
import streamlit as st
from elements import clock, failed, plain, show, studio

from studio.pipelines.request import number_fields
from studio.server.media import MIMES

POLL = 1.0
START = [
    {"prompt": "red apple", "seed": 1, "count": 2, "model": None, "output": None},
    {"prompt": "rocket", "seed": 2, "count": 2, "model": None, "output": None},
]


def text_of(table: pd.DataFrame) -> str:
    """The editor's table as JSON lines, without empty cells."""
    lines, numbers = [], number_fields()
    for row in table.to_dict("records"):
        kept = {k: v for k, v in row.items() if not is_empty(v)}
        for name in kept:
            if name in numbers and numbers[name][0] is int:
                kept[name] = int(kept[name])
        if kept:
            lines.append(json.dumps(kept, ensure_ascii=False, default=str))
    return "\n".join(lines) + "\n"


def is_empty(value: object) -> bool:
    """Whether a cell says nothing; lists, as options of decoding may be, always say something."""
    return bool(pd.api.types.is_scalar(value) and (pd.isna(value) or value == ""))


def new_batch() -> None:
    """A table from nothing, or from a file."""
    st.session_state.setdefault("batch-name", "batch-1")
    name = st.text_input("Name", max_chars=64, key="batch-name")
    upload = st.file_uploader(
        "A jobs table", type=["jsonl", "csv"], max_upload_size=8, key="batch-file",
        help="One job a line: prompt, seed, count, model, ... as for studio render",
    )  # fmt: skip
    if upload is not None:
        suffix = ".csv" if upload.name.lower().endswith(".csv") else ".jsonl"
        if st.button("Keep this file", type="primary", icon=":material/save:"):
            text = failed(lambda: upload.getvalue().decode("utf-8"))
            if text is not None:
                keep(name, text, suffix)
        return
    source = st.session_state.get("batch-source", "")
    rows = failed(studio().batches.rows, source) if source else None
    start = pd.DataFrame([dict.fromkeys(START[0]) | row for row in rows or START])
    names = [entry.name for entry in studio().keeper.entries() if entry.generates]
    table = st.data_editor(
        start.convert_dtypes(), num_rows="dynamic", hide_index=True,
        key=f"batch-table-{st.session_state.get('batch-edits', 0)}", alt="the jobs of the batch",
        column_config={
            "prompt": st.column_config.TextColumn(width="medium", max_chars=1000),
            "seed": st.column_config.NumberColumn(width="small", min_value=0, step=1),
            "count": st.column_config.NumberColumn(width="small", min_value=1, step=1),
            "model": st.column_config.SelectboxColumn(options=names),
        },
    )  # fmt: skip
    if st.button("Keep this table", type="primary", icon=":material/save:"):
        keep(name, text_of(table), ".jsonl")


def edit(name: str) -> None:
    """Puts a batch's table into the editor; before its widgets are made."""
    st.session_state["batch-source"] = st.session_state["batch-name"] = name
    st.session_state["batch-edits"] = st.session_state.get("batch-edits", 0) + 1
    st.session_state["batch-open"] = True


def keep(name: str, text: str, suffix: str) -> None:
    """Keeps a table and turns to it."""
    count = failed(studio().batches.save, name, text, suffix=suffix)
    if count is not None:
        st.query_params["batch"] = name
        st.session_state["batch-chosen"] = name
        st.session_state["batch-open"] = False
        st.toast(f"{count} jobs are kept as {name}.", icon=":material/save:")


def progress(name: str) -> None:
    """How a batch stands, with its buttons; renews itself while it runs."""
    batches = studio().batches
    running = batches.running() == name

    @st.fragment(run_every=POLL if running else None)
    def panel() -> None:
        now = batches.standing(name)
        if running and batches.running() != name:
            st.rerun()
        settled = now.done + now.failed
        left = "" if now.left is None else f", {clock(now.left)} left"
        fails = f", {now.failed} failed" if now.failed else ""
        if now.total:
            st.progress(settled / now.total, f"{now.done} of {now.total} done{fails}{left}")
        else:
            st.caption("Not begun.")
        if now.error:
            st.error(plain(now.error), icon=":material/error:")
        newest(name)

    with st.container(horizontal=True):
        if running:
            st.button("Stop", on_click=batches.stop, icon=":material/stop:")
        else:
            standing = batches.standing(name)
            word = "Resume" if standing.total and not standing.finished else "Run"
            if st.button(word, type="primary", icon=":material/play_arrow:"):
                failed(batches.start, name)
                st.rerun()
            if standing.failed and st.button("Try failed jobs again"):
                failed(batches.start, name, retry_failed=True)
                st.rerun()
    panel()
    failures = batches.failures(name)
    if failures:
        st.dataframe(pd.DataFrame(failures), hide_index=True, alt="jobs that failed, and why")


def newest(name: str) -> None:
    """The newest results."""
    with st.container(horizontal=True):
        for path in studio().batches.results(name, last=24):
            mime = MIMES[path.suffix.lower()]
            with contextlib.suppress(OSError):  # somebody deletes it
                wide = 96 if mime.startswith("image/") else 240
                show((mime, path.read_bytes()), alt=path.stem, width=wide)


st.title("Batch", anchor=False)
known = studio().batches.names()
asked = st.query_params.get("batch")
left, right = st.columns(2, gap="large")
with left:
    opened = not known or st.session_state.get("batch-open", False)
    with st.expander("New table", expanded=opened, icon=":material/add:"):
        new_batch()
    known = studio().batches.names()
    if known:
        st.session_state.setdefault("batch-chosen", asked if asked in known else known[0])
        if st.session_state["batch-chosen"] not in known:
            st.session_state["batch-chosen"] = known[0]
        chosen = st.selectbox("Batch", known, key="batch-chosen")
        st.query_params["batch"] = chosen
        text, suffix = studio().batches.text(chosen)
        table = pd.DataFrame(failed(studio().batches.rows, chosen) or [])
        st.dataframe(table, hide_index=True, height=240, alt=f"the jobs of {chosen}")
        with st.container(horizontal=True):
            st.button("Edit", on_click=edit, args=(chosen,), icon=":material/edit:")
            st.download_button("Download the table", text, file_name=f"{chosen}{suffix}")
with right:
    if known:
        st.subheader(chosen, anchor=False)
        progress(chosen)
    else:
        st.caption("A batch runs beside the queue; stopped, it goes on where it was.")
