"""Decoding: ways to decode raced on one prompt, what each pass made, and whether it is the same."""

import pandas as pd
import streamlit as st
from elements import ended, failed, job_here, owner, plain, show, studio, watch

from studio.server import racing, settings


def begin(values: dict, modes: list[str]) -> None:
    """Puts the race into the queue."""
    place = studio()
    if not str(values.get("class_label", 0)).isdigit():
        st.error("The class must be a whole number.", icon=":material/error:")
        return
    request = failed(settings.request_of, values)
    if request is None:
        return
    title = f"race on {request.prompt or values['model']}"

    def work(job):
        return racing.race(job, place.keeper, request, modes)

    job = failed(place.run, work, kind="race", title=title[:80], owner=owner())
    if job is not None:
        st.query_params["job"] = job.id


def table(lanes: list[racing.Lane]) -> None:
    """All figures in rows."""
    plain = next((lane for lane in lanes if lane.mode == "plain" and not lane.error), None)
    rows = []
    for lane in lanes:
        if lane.error:
            continue
        same = {True: "the same tokens", False: "other tokens", None: ""}[lane.same]
        rows.append(
            {
                "way": lane.mode,
                "passes": lane.passes,
                "seconds": round(lane.seconds, 3),
                "fewer passes": f"{plain.passes / lane.passes:.2f} x" if plain else "",
                "faster": f"{plain.seconds / lane.seconds:.2f} x" if plain else "",
                "drafts": f"{lane.accepted} of {lane.proposed}" if lane.proposed else "",
                "check": same,
            }
        )
    st.dataframe(pd.DataFrame(rows), hide_index=True, alt="passes and seconds of every way")


def lane_of(lane: racing.Lane) -> None:
    """One way: picture and heat map."""
    st.markdown(f"**{lane.mode}**")
    if lane.error or lane.shown is None:
        st.caption(plain(lane.error or "no picture"))
        return
    with st.container(horizontal=True):
        show(lane.shown, width=144)
        show(lane.heat(), width=144)
    text = f"{lane.passes} passes, {lane.seconds:.2f} s"
    if lane.same is not None:
        icon = ":material/check_circle:" if lane.same else ":material/cancel:"
        text += f" · {icon} {'the same tokens as plain' if lane.same else 'other tokens'}"
    st.caption(text)


st.title("Decoding", anchor=False)
entries = [e for e in studio().keeper.entries() if e.generates and e.medium == "image"]
if not entries:
    st.info("No model that makes pictures is here.")
    st.stop()
by_name = {entry.name: entry for entry in entries}
left, right = st.columns([2, 3])
with left:
    name = st.selectbox("Model", list(by_name), key="race-model", persist_state="session")
    entry = by_name[name]
with right:
    prompt = st.text_input(
        "Prompt" if entry.words else "Class", "red apple" if entry.words else "0", max_chars=1000,
        key="race-prompt", persist_state="session",
    )  # fmt: skip
texts = settings.modes_text() if "autoregressive" in entry.generators else {}
if "masked" in entry.generators:
    texts["masked"] = "another network: many tokens in a few steps"
modes = st.multiselect(
    "Ways", list(texts), default=[m for m in racing.DEFAULT if m in texts] or list(texts)[:1],
    format_func=lambda m: f"{m} · {texts[m]}", max_selections=racing.MAX_LANES, key=f"ways-{name}",
)  # fmt: skip
with st.container(horizontal=True, vertical_alignment="bottom"):
    seed = st.number_input("Seed", 0, 2**31, 7, key="race-seed", width=160)
    pressed = st.button("Race", type="primary", icon=":material/flag:", disabled=not modes)
if pressed:
    values = {"model": name, "seed": seed}
    label = int(prompt) if prompt.isascii() and prompt.isdigit() else prompt
    values |= {"prompt": prompt} if entry.words else {"class_label": label}
    begin(values, modes)
job = job_here("race")
if job is None:
    st.caption(
        "Every way gets the same prompt and seed. Plain decoding always runs as the measure."
    )
elif not job.finished:
    watch(job)
elif ended(job.snapshot()) and job.value is not None:
    table(job.value)
    columns = st.columns(2)
    for i, lane in enumerate(job.value):
        with columns[i % 2]:
            lane_of(lane)
    st.caption(
        "The maps show the tokens: green where a draft stood, grey where a pass drew it itself, "
        "darker the earlier. On a busy machine seconds vary; passes do not."
    )
