"""Create: words in, pictures, sounds and clips out; with a queue, previews, grids and presets."""

import re

import streamlit as st
from elements import (
    ended,
    failed,
    owner,
    plain,
    settings_of_drop,
    status,
    studio,
    tiles,
    watch,
    worked,
)

from studio.pipelines.request import number_fields
from studio.server import catalog, settings
from studio.server.gallery import title_of
from studio.server.keeper import Entry
from studio.server.media import KINDS

SHOWN = 8  # jobs that the page remembers in its address
OWN = "the model's own"
NUMBERS = {
    "guidance_scale": ("Guidance", 0.0, 1000.0, 0.5, "How much the words count"),
    "temperature": ("Temperature", 0.0, 100.0, 0.1, "0 takes the best token each time"),
    "top_p": ("Top p", 0.0, 1.0, 0.05, "Draw from this share of probability"),
    "top_k": ("Top k", 0, 10**7, 1, "Draw from the best k tokens; 0 for all"),
}
SLIDERS = {"speed": 1.0, "pitch": 0.0, "strength": 0.6}  # which can't be empty
RANGES = number_fields()  # what a file that is dropped may bring must fit into the widgets
KEYS = ("model", "generator", "prompt", "seed", "count", "decoding", "options", "num_tokens")
KEYS += ("num_inference_steps", "strength", "num_frames", "voice", "speed", "pitch", *NUMBERS)


def restore(request: dict) -> None:
    """Puts a request's settings into the widgets; before they are made."""
    state = st.session_state
    for key in KEYS:
        state[f"make-{key}"] = request.get(key, SLIDERS.get(key))
    entries = {entry.name: entry for entry in studio().keeper.entries() if entry.generates}
    name = request.get("model")
    if name not in entries:
        st.toast(f"The model {plain(str(name))} is not here; another one is chosen.")
        state["make-model"] = next(iter(entries), None)
    else:
        here = settings.other_revision(entries[name], request.get("revision"))
        if here is not None:
            st.toast(
                f"This was made by revision {plain(request['revision'])} of {plain(name)}, and "
                f"here is {plain(here[:12])}: the result may differ.",
                icon=":material/warning:",
            )
    state["make-prompt"] = request.get("prompt") or str(request.get("class_label", ""))
    state["make-seed"] = str(request.get("seed", 0))
    state["make-count"] = request.get("count", 1)
    state["make-options"] = settings.options_text(request.get("decoding_options", {}))
    start_with(request.get("input"))


def start_with(name: str | None) -> None:
    """Begins with a picture that is here, or with none, in place of one that was uploaded."""
    st.session_state["make-input"] = name
    st.session_state["make-starts"] = st.session_state.get("make-starts", 0) + 1


def from_preset() -> None:
    """Settings of sampling from a preset."""
    values = settings.presets(studio().workspace).get(st.session_state["make-preset"], {})
    for key in settings.SAMPLING:
        if key == "decoding_options":
            st.session_state["make-options"] = settings.options_text(values.get(key, {}))
        else:
            st.session_state[f"make-{key}"] = values.get(key)


def new_seed(step: int | None) -> None:
    """Another seed: by a step, or at random."""
    try:
        seed = settings.seed_of(st.session_state["make-seed"])
    except ValueError:
        seed, step = 0, None
    made = settings.random_seed() if step is None else max(0, seed + step)
    st.session_state["make-seed"] = str(made)


def field(kind, name: str, label: str, **options):
    """A widget whose value outlives a visit to another page."""
    return kind(label, key=f"make-{name}", persist_state="session", **options)


def choose_model(entries: list[Entry]) -> tuple[Entry, str | None]:
    """The model, and which of its generators."""
    by_name = {entry.name: entry for entry in entries}
    name = field(
        st.selectbox,
        "model",
        "Model",
        options=list(by_name),
        format_func=lambda n: f"{n} · {KINDS[by_name[n].medium].noun}s",
    )
    entry = by_name[name]
    if len(entry.generators) < 2:
        return entry, None
    if st.session_state.get("make-generator") not in (None, *entry.generators):
        st.session_state["make-generator"] = None
    kind = field(
        st.segmented_control, "generator", "Generator", options=list(entry.generators),
        help=f"{entry.generators[0]} when none is chosen",
    )  # fmt: skip
    return entry, kind


def sampling(entry: Entry, kind: str | None) -> dict:
    """How tokens are drawn."""
    kind = kind or entry.generators[0]
    values: dict = {}
    names = list(NUMBERS) if entry.medium != "audio" else ["temperature", "top_p", "top_k"]
    columns = st.columns(2)
    for i, name in enumerate(names):
        label, low, high, step, text = NUMBERS[name]
        with columns[i % 2]:
            values[name] = field(
                st.number_input, name, label, min_value=low, max_value=high, step=step,
                value=None, placeholder=OWN, help=text,
            )  # fmt: skip
    with columns[0]:
        if entry.medium != "audio":
            values["num_tokens"] = field(
                st.number_input, "num_tokens", "Tokens", min_value=1, max_value=10**6, value=None,
                placeholder="all", help="Make only the first so many, where tokens are ordered",
            )  # fmt: skip
    with columns[1]:
        if kind == "masked":
            values["num_inference_steps"] = field(
                st.number_input, "num_inference_steps", "Steps", min_value=1, max_value=10_000,
                value=None, placeholder=OWN,
            )  # fmt: skip
    texts = settings.modes_text() if kind == "autoregressive" else {}
    held = st.session_state.get("make-decoding")
    if held in settings.strategies(kind):
        texts[held] = "with the options below"
    if texts:
        values["decoding"] = field(
            st.selectbox, "decoding", "Decoding", options=list(texts), index=None,
            placeholder="the same tokens as fast as this machine can",
            format_func=lambda name: f"{name} · {texts[name]}",
        )  # fmt: skip
    values["options"] = field(
        st.text_input, "options", "Other options of decoding", placeholder="min_p=0.1, window=16"
    )
    return values


def of_medium(entry: Entry) -> dict:
    """What only sounds or clips have."""
    values: dict = {}
    if entry.medium == "video":
        values["num_frames"] = field(
            st.number_input, "num_frames", "Frames", min_value=1, max_value=RANGES["num_frames"][2],
            value=None, placeholder=OWN,
        )  # fmt: skip
    if entry.medium == "audio":
        names = catalog.voices(entry.folder)
        if st.session_state.get("make-voice") not in (None, *names):
            st.session_state["make-voice"] = None
        values["voice"] = field(
            st.selectbox, "voice", "Voice", options=names, index=None, placeholder="the first one"
        )
        values["speed"] = field(
            st.slider, "speed", "Speed", min_value=0.5, max_value=2.0, value=1.0, step=0.05
        )
        values["pitch"] = field(
            st.slider, "pitch", "Pitch", min_value=-1.0, max_value=1.0, value=0.0, step=0.05
        )
    return values


def start_picture(entry: Entry) -> dict:
    """A picture to begin with."""
    upload = st.file_uploader(
        "A picture to vary" if entry.medium == "image" else "The first frame",
        type=["png", "jpg", "jpeg", "webp"],
        max_upload_size=32,
        key=f"make-start-{st.session_state.get('make-starts', 0)}",
    )
    name = st.session_state.get("make-input")
    if upload is not None:
        name = failed(studio().workspace.keep_input, upload.getvalue())
        st.session_state["make-input"] = name
    if not name:
        return {}
    try:
        st.image(studio().workspace.input_path(name).read_bytes(), width=96, alt="where it begins")
    except ValueError:
        st.warning("The picture that this was made from is not here; upload it again.")
    st.button(
        "Without it", icon=":material/close:", type="tertiary", on_click=start_with, args=(None,)
    )
    values: dict = {"input": name}
    if entry.medium == "image":
        values["strength"] = field(
            st.slider, "strength", "Strength", min_value=0.0, max_value=1.0, value=0.6,
            help="Share of the tokens that are made anew",
        )  # fmt: skip
    return values


def axes() -> tuple[tuple[str, str], tuple[str, str] | None] | None:
    """The two parameters of a grid; None for no grid."""
    found = []
    for side in ("X", "Y"):
        left, right = st.columns([2, 3])
        with left:
            name = st.selectbox(
                f"{side} axis", list(settings.AXES), index=None, key=f"make-axis-{side}",
                format_func=lambda name: settings.AXES.get(name, name), placeholder="none",
                accept_new_options=True, help="Type option.NAME for an option of decoding",
            )  # fmt: skip
        with right:
            text = st.text_input(
                f"{side} values", key=f"make-values-{side}", placeholder="1, 2, 4 or 0..9"
            )
        if name:
            found.append((name, text))
    if not found:
        return None
    return found[0], found[1] if len(found) > 1 else None


def keep_presets(request_values: dict) -> None:
    """Choosing, keeping and dropping presets."""
    names = list(settings.presets(studio().workspace))
    st.selectbox("Preset", names, index=None, key="make-preset", on_change=from_preset,
                 placeholder="choose settings of sampling")  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input("Keep these settings as", key="make-preset-name")
        if st.button("Keep", key="make-preset-keep") and name:
            request = failed(request_from, request_values)
            if request is not None and worked(
                settings.keep_preset, studio().workspace, name, request
            ):
                st.rerun()
        chosen = st.session_state.get("make-preset")
        if chosen and chosen not in settings.BUILT_IN and st.button("Drop"):
            settings.drop_preset(studio().workspace, chosen)
            st.rerun()


def request_from(values: dict):
    """The request of what was set."""
    values = dict(values)
    values["decoding_options"] = settings.options_of(values.pop("options", "") or "")
    values["seed"] = settings.seed_of(values["seed"])
    return settings.request_of(values)


def submit(values: dict, sides) -> None:
    """Puts what was set into the queue."""
    try:
        request = request_from(values)
        if sides is None:
            job = studio().generate(settings.spelled_out(request), owner=owner())
        else:
            laid = settings.grid(request, *sides)
            job = studio().generate(laid.requests, owner=owner(), about=laid)
    except ValueError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    ids = [job.id, *st.query_params.get_all("job")][:SHOWN]
    st.query_params["job"] = st.session_state["create-jobs"] = ids


def form(entries: list[Entry]) -> None:
    """The left side: everything that can be set."""
    st.session_state.setdefault("make-seed", str(settings.random_seed()))
    entry, kind = choose_model(entries)
    values: dict = {"model": entry.name, "generator": kind}
    if entry.words:
        values["prompt"] = field(
            st.text_area, "prompt", "Prompt", height=84, max_chars=1000,
            placeholder="red apple — or {red|blue} apple for both",
        )  # fmt: skip
    else:
        label = field(st.text_input, "prompt", "Class", placeholder="0")
        values["class_label"] = int(label) if re.fullmatch(r"[0-9]{1,9}", label or "") else None
    with st.container(horizontal=True, vertical_alignment="bottom", gap="xsmall"):
        values["seed"] = field(st.text_input, "seed", "Seed", max_chars=19, width=130)
        st.button(":material/remove:", on_click=new_seed, args=(-1,), help="Seed before")
        st.button(":material/add:", on_click=new_seed, args=(1,), help="Seed after")
        st.button(":material/casino:", on_click=new_seed, args=(None,), help="A random seed")
        values["count"] = field(
            st.number_input, "count", "Count", min_value=1, max_value=RANGES["count"][2], value=1,
            width=110,
        )  # fmt: skip
    place = st.container()
    values |= of_medium(entry)
    with st.expander("Sampling", icon=":material/tune:"):
        values |= sampling(entry, kind)
    if entry.medium != "audio":
        with st.expander("Begin with a picture", icon=":material/image:"):
            values |= start_picture(entry)
    with st.expander("Grid of two parameters", icon=":material/grid_on:"):
        sides = axes()
    with st.expander("Presets", icon=":material/bookmark:"):
        keep_presets(values)
    with st.expander("Settings from a file", icon=":material/upload_file:"):
        if settings_of_drop("make"):
            st.rerun()
    with place:
        pressed = st.button(
            "Generate", type="primary", icon=":material/auto_awesome:", width="stretch",
            shortcut="Ctrl+Enter",
        )  # fmt: skip
        if pressed:
            submit(values, sides)


def grid_of(job) -> None:
    """Results of a grid under the names of their columns and rows."""
    laid, gallery = job.about, studio().gallery
    found = [gallery.get(name) for name in job.snapshot().results]
    across, down = (settings.AXES.get(name, name) for name in (laid.x, laid.y))
    for i, row in enumerate(laid.rows):
        if laid.y:
            st.caption(plain(f"{down} {row}"))
        start = i * len(laid.columns)
        cells = list(zip(found[start:], laid.columns, strict=False))
        there = [(item, f"{across} {name}") for item, name in cells if item is not None]
        tiles([item for item, _ in there], key=f"{job.id}{i}", names=[name for _, name in there])


def show_jobs() -> None:
    """The right side: the jobs of this page, newest first."""
    if "job" not in st.query_params and st.session_state.get("create-jobs"):
        st.query_params["job"] = st.session_state["create-jobs"]  # back from another page
    jobs = [studio().queue.get(name) for name in st.query_params.get_all("job")[:SHOWN]]
    jobs = [job for job in jobs if job is not None]
    if not jobs:
        st.caption("What you make appears here, and stays in the gallery.")
    for job in jobs:
        with st.container(border=True):
            st.markdown(f"**{plain(job.title)}**")
            snapshot = job.snapshot()
            if not snapshot.finished:
                watch(job)
                continue
            ended(snapshot)
            if isinstance(job.about, settings.Grid):
                grid_of(job)
                continue
            items = [studio().gallery.get(name) for name in snapshot.results]
            tiles([item for item in items if item is not None], key=job.id)


def show_queue() -> None:
    """What everybody waits for."""
    jobs = [job for job in studio().queue.jobs() if not job.finished]
    with st.popover(f"Queue · {len(jobs)}", icon=":material/stacks:"):
        if not jobs:
            st.caption("Nothing waits.")
        for job in reversed(jobs):
            mine = "yours" if job.owner == owner() else "another visitor's"
            ahead = studio().queue.ahead(job.id)
            st.markdown(f"{plain(job.title)}  \n:small[{status(job.snapshot(), ahead)} · {mine}]")
            if job.owner == owner() and st.button("Cancel", key=f"queue{job.id}"):
                studio().queue.cancel(job.id)
                st.rerun()


if st.session_state.get("restore"):
    wanted = st.session_state.pop("restore")
    restore(wanted)
    st.toast(f"Settings of {plain(title_of(wanted))} are back.", icon=":material/tune:")
st.title("Create", anchor=False)
usable = [entry for entry in studio().keeper.entries() if entry.generates]
if not usable:
    st.info("No model is here yet: see Models.")
    st.stop()
settings_side, results_side = st.columns([2, 3], gap="large")
with settings_side:
    form(usable)
with results_side:
    show_queue()
    show_jobs()
