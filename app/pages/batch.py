"""Batch: a table of jobs, edited or uploaded, rendered beside the queue, stopped and resumed."""

import contextlib
import json
from collections.abc import Callable

import pandas as pd
import streamlit as st
from elements import clock, failed, plain, show, studio, worked

from studio.pipelines.request import number_fields
from studio.server.media import MIMES
from studio.server.settings import seed_of

POLL = 1.0
START = [
    {"prompt": "red apple", "seed": 1, "count": 2, "model": None, "output": None},
    {"prompt": "rocket", "seed": 2, "count": 2, "model": None, "output": None},
]


def text_of(table: pd.DataFrame) -> str:
    """The editor's table as JSON lines, without empty cells. Raises ValueError for a seed that is
    none."""
    lines, numbers = [], number_fields()
    for row in table.to_dict("records"):
        kept = {k: v for k, v in row.items() if not is_empty(v)}
        if "seed" in kept:
            kept["seed"] = seed_of(str(kept["seed"]))
        for name in kept:
            if name in numbers and numbers[name][0] is int:
                kept[name] = int(kept[name])
        if kept:
            lines.append(json.dumps(kept, ensure_ascii=False, default=str))
    return "\n".join(lines) + "\n"


def is_empty(value: object) -> bool:
    """Whether a cell says nothing; lists, as options of decoding may be, always say something."""
    return bool(pd.api.types.is_scalar(value) and (pd.isna(value) or value == ""))


def editable(rows: list[dict]) -> pd.DataFrame:
    """Rows as the editor's table. Seeds are text: numbers above 2^53 are not exact in a browser,
    nor in a column with gaps."""
    rows = [dict.fromkeys(START[0]) | row for row in rows]
    for row in rows:
        row["seed"] = None if is_empty(row["seed"]) else str(row["seed"])
    return pd.DataFrame(rows).convert_dtypes().astype({"seed": "string"})


def new_batch() -> None:
    """A table from nothing, or from a file."""
    state = st.session_state
    if "batch-kept" in state:  # by the run before
        st.toast(state.pop("batch-kept"), icon=":material/save:")
        edit("")
    edits = state.get("batch-edits", 0)
    state.setdefault("batch-name", studio().batches.free_name())
    name = st.text_input("Name", max_chars=64, key="batch-name")
    source = state.get("batch-source", "")
    replace = bool(name) and name == source
    if name in studio().batches.names() and not replace:
        text = f"Replace {plain(name)}, which is here already"
        replace = st.checkbox(text, key=f"batch-replace-{name}-{edits}")
    upload = st.file_uploader(
        "A jobs table", type=["jsonl", "csv"], max_upload_size=8, key=f"batch-file-{edits}",
        help="One job a line: prompt, seed, count, model, ... as for studio render",
    )  # fmt: skip
    if upload is not None:
        suffix = ".csv" if upload.name.lower().endswith(".csv") else ".jsonl"
        if st.button("Keep this file", type="primary", icon=":material/save:"):
            keep(name, lambda: upload.getvalue().decode("utf-8"), suffix, replace=replace)
        return
    rows = failed(studio().batches.rows, source) if source else None
    names = [entry.name for entry in studio().keeper.entries() if entry.generates]
    table = st.data_editor(
        editable(rows or START), num_rows="dynamic", hide_index=True,
        key=f"batch-table-{edits}", alt="the jobs of the batch",
        column_config={
            "prompt": st.column_config.TextColumn(width="medium", max_chars=1000),
            "seed": st.column_config.TextColumn(width="small", validate=r"^\d{1,19}$"),
            "count": st.column_config.NumberColumn(width="small", min_value=1, step=1),
            "model": st.column_config.SelectboxColumn(options=names),
        },
    )  # fmt: skip
    if st.button("Keep this table", type="primary", icon=":material/save:"):
        keep(name, lambda: text_of(table), ".jsonl", replace=replace)


def edit(name: str) -> None:
    """Puts a batch's table into the editor, or with "" a new one; before its widgets are made."""
    state = st.session_state
    state["batch-source"] = name
    state["batch-name"] = name or studio().batches.free_name()
    state["batch-edits"] = state.get("batch-edits", 0) + 1
    state["batch-open"] = bool(name)


def keep(name: str, text: Callable[[], str], suffix: str, *, replace: bool) -> None:
    """Keeps a table and turns to it."""

    def save() -> int:
        return studio().batches.save(name, text(), suffix=suffix, replace=replace)

    count = failed(save)
    if count is not None:
        state = st.session_state
        st.query_params["batch"] = state["batch-chosen"] = name
        state["batch-open"] = False
        state["batch-kept"] = f"{count} jobs are kept as {name}."
        st.rerun()


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
                start(name)
            if standing.failed and st.button("Try failed jobs again"):
                start(name, retry_failed=True)
    panel()
    failures = batches.failures(name)
    if failures:
        st.dataframe(pd.DataFrame(failures), hide_index=True, alt="jobs that failed, and why")


def start(name: str, **options) -> None:
    """Runs a batch, and the page anew to watch it."""
    if worked(studio().batches.start, name, **options):
        st.rerun()


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
