"""Tokens: what each one changes, which codes are used, swapping them, pictures as token files."""

import dataclasses
import io
from collections.abc import Callable

import pandas as pd
import streamlit as st
from elements import ended, failed, job_here, owner, plain, show, small_step, studio, watch

from studio.server import coding, token_view
from studio.server.jobs import one_line

WIDTH = 256


def pictures() -> list:
    """Tokenizers of pictures."""
    return [entry.name for entry in studio().keeper.entries() if entry.medium == "image"]


def encoded(name: str, upload) -> tuple:
    """The job's work: an upload as tokens and as the tokenizer sees it, with a note on it."""
    place, data = studio(), upload.getvalue()
    if upload.name.lower().endswith(".tokens"):
        opened = place.keeper.open_tokenizer(name)
        tokens, note = token_view.from_file(opened, data)
        shown = token_view.decoded(opened, tokens, "the picture of the token file")
        return opened, tokens, shown, note
    with place.workspace.uploaded(upload.name, data) as path:
        opened = place.keeper.open_tokenizer(name)
        coded = coding.encode(opened, path)
        return opened, coded.tokens, coded.original, ""


def once(slot: str, wish: tuple, work: Callable, title: str):
    """What quick work gives; kept, as is a mistake, until there is another wish: the page runs all
    its tabs at every click."""

    def careful(job) -> tuple:
        try:
            return work(job), ""
        except ValueError as error:
            return None, one_line(error)

    if st.session_state.get(slot, (None,))[0] != wish:
        made = small_step(careful, kind="tokens", title=title)
        if made is None:
            return None
        st.session_state[slot] = (wish, *made)
    _, value, mistake = st.session_state[slot]
    if mistake:
        st.error(plain(mistake), icon=":material/error:")
    return value


def noted(*notes: str) -> None:
    """Shows notes, each once."""
    for note in dict.fromkeys(filter(None, notes)):
        st.warning(plain(note), icon=":material/warning:")


def open_up(name: str, upload) -> None:
    """Puts the anatomy of a picture into the queue."""

    def work(job):
        job.say(f"loading {name}")
        opened, tokens, seen, note = encoded(name, upload)
        found = token_view.anatomy(job, opened, tokens, seen)
        return dataclasses.replace(found, note=note), token_view.to_file(opened, tokens)

    job = failed(studio().run, work, kind="tokens", title=f"tokens of {name}", owner=owner())
    if job is not None:
        st.query_params["job"] = job.id


def anatomy(found: token_view.Anatomy, file: bytes) -> None:
    """A picture opened up."""
    noted(found.note)
    total = len(found.tokens)
    left, middle, right = st.columns(3)
    with left:
        st.markdown("**What the tokenizer sees**")
        show(found.seen, width=WIDTH)
        st.download_button(
            f"Download as tokens, {len(file)} bytes", file, file_name="picture.tokens",
            on_click="ignore", icon=":material/download:",
        )  # fmt: skip
    with middle:
        index = st.slider("Token", 0, total - 1, 0, key="token-index")
        show(found.overlay(index), width=WIDTH)
        place = ""
        if found.grid is not None:
            place = f", row {index // found.grid[1]}, column {index % found.grid[1]}"
        share = found.strength[index] / max(float(found.strength.sum()), 1e-9)
        st.caption(f"code {found.tokens[index]}{place}; {share:.1%} of all change")
    with right:
        st.markdown("**Who changes what most**")
        show(found.map(), width=WIDTH)
        st.caption("A colour for each token: the first ones red, the last ones violet.")
    st.markdown("**How much each token changes**")
    rows = pd.DataFrame({"token": range(total), "change": found.strength})
    st.bar_chart(rows, x="token", y="change", height=180, alt="mean change of each token in turn")


def use_of_codes(found: token_view.Anatomy) -> None:
    """Which codes there are."""
    use = token_view.usage(found.tokens, found.vocab_size)
    left, right = st.columns([1, 2])
    with left:
        show(token_view.code_picture(found.tokens, found.grid, found.vocab_size), width=WIDTH)
    with right:
        st.metric("Distinct codes", f"{use.distinct} of {use.tokens} tokens")
        st.metric("Entropy", f"{use.entropy:.2f} of {use.most:.2f} bits")
        rows = pd.DataFrame(use.top, columns=["code", "times"]).astype({"code": str})
        st.bar_chart(
            rows, x="code", y="times", height=180, alt="how often the commonest codes occur"
        )


def places(name: str, shape: tuple[int, ...]) -> list[int]:
    """Which tokens are swapped: a stretch of a row, or a rectangle of a grid."""
    if len(shape) == 1:
        first, last = stretch("Tokens of the second picture", shape[0], name)
        return list(range(first, last + 1))
    left, right = st.columns(2)
    with left:
        top, bottom = stretch("Rows of the second picture", shape[0], name)
    with right:
        start, end = stretch("Columns of the second picture", shape[1], name)
    return token_view.cells(shape, top, start, bottom, end)


def stretch(label: str, count: int, name: str) -> tuple[int, int]:
    """A stretch of so many, the first half to begin with."""
    key = f"swap-{label}-{name}-{count}"
    return st.slider(label, 0, max(1, count - 1), (0, count // 2), key=key)


def swap(name: str) -> None:
    """Tokens of one picture in another."""
    left, right = st.columns(2)
    with left:
        ours = st.file_uploader("First picture", type=TYPES, key="swap-a", max_upload_size=32)
    with right:
        theirs = st.file_uploader("Second picture", type=TYPES, key="swap-b", max_upload_size=32)
    if ours is None or theirs is None:
        st.caption("Two pictures, or token files, that change tokens with each other.")
        return
    shape = st.session_state.get("swap-shape", {}).get(name, (64,))
    wanted = places(name, shape)

    def work(job):
        opened, a, _, first = encoded(name, ours)
        _, b, _, second = encoded(name, theirs)
        chosen = [p for p in wanted if p < a.shape[1]]
        mixed = [token_view.swapped(a, b, chosen), token_view.swapped(b, a, chosen)]
        alts = (
            "first picture with tokens of the second",
            "second picture with tokens of the first",
        )
        shown = [token_view.decoded(opened, t, text) for t, text in zip(mixed, alts, strict=True)]
        file, found = token_view.to_file(opened, mixed[0]), token_view.shape_of(opened, a)
        return shown, file, found, (first, second)

    wish = (name, ours.file_id, theirs.file_id, wanted)
    value = once("swapped", wish, work, "swapping")
    if value is None:
        return
    shown, file, found, notes = value
    if found != shape:
        st.session_state.setdefault("swap-shape", {})[name] = found
        st.rerun()
    noted(*notes)
    for column, picture in zip(st.columns(2), shown, strict=True):
        with column:
            show(picture, width=WIDTH)
            st.caption(picture.alt)
    st.download_button(
        f"Download the first as tokens, {len(file)} bytes", file, file_name="mixed.tokens",
        on_click="ignore", icon=":material/download:",
    )  # fmt: skip


def open_file(name: str) -> None:
    """A token file as a picture again."""
    upload = st.file_uploader("A token file", type=["tokens"], max_upload_size=1, key="open-tokens")
    if upload is None:
        st.caption("A picture that was downloaded as tokens opens again, bit for bit.")
        return
    wish = (name, upload.file_id)
    value = once("opened", wish, lambda job: encoded(name, upload)[2:], "opening")
    if value is not None:
        shown, note = value
        noted(note)
        show(shown, width=WIDTH)
        st.download_button("Download as PNG", io.BytesIO(shown.data), file_name="picture.png")


TYPES = ["png", "jpg", "jpeg", "webp", "tokens"]
st.title("Tokens", anchor=False)
names = pictures()
if not names:
    st.info("No tokenizer of pictures is here.")
    st.stop()
model = st.selectbox("Tokenizer", names, key="tokens-model", persist_state="session")
look, trade, reopen = st.tabs(["Look inside", "Swap", "Open a token file"])
with look:
    upload = st.file_uploader("A picture", type=TYPES, key="look-inside", max_upload_size=32)
    if upload is not None and st.button("Look inside", type="primary", icon=":material/search:"):
        open_up(model, upload)
    job = job_here("tokens")
    if job is not None and not job.finished:
        watch(job)
    elif job is not None and ended(job.snapshot()) and job.value is not None:
        anatomy(*job.value)
        use_of_codes(job.value[0])
with trade:
    swap(model)
with reopen:
    open_file(model)
