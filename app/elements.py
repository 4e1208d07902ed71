"""What pages have in common: the studio, jobs as they run, tiles of results."""

import re
import secrets
import time
from base64 import b64encode
from collections.abc import Callable, Sequence

import streamlit as st

from studio.server import looking, visitors
from studio.server.gallery import Item
from studio.server.jobs import FAILED, QUEUED, RUNNING, Job, Picture, Snapshot
from studio.server.media import KINDS
from studio.server.settings import described, settings_of_file
from studio.server.studio import Studio, current

POLL_SECONDS = 0.5
SLOWEST_POLL = 3.0  # of a job with others before it: many visitors' polls would keep it waiting
PATIENCE = 60  # seconds that somebody waits for a small step
INLINE = 2**18  # bytes of a picture that travels with the page
TILE = 140  # pixels


def studio() -> Studio:
    """The studio that all visitors share."""
    return current()


def owner() -> str:
    """A name of this visitor, so that visitors take turns and end what is theirs, after a reload
    too."""
    own = visitors.name_in(st.context.cookies.to_dict())
    return own or st.session_state.setdefault("owner", secrets.token_hex(16))


def clock(seconds: float) -> str:
    """Seconds as 3 s, 0:42, 12:34 or 1:02:03."""
    if seconds < 10:
        return f"{seconds:.0f} s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def show(media: Picture | tuple[str, bytes], *, alt: str = "", width: int | str = "stretch"):
    """A picture, a sound or a clip, by its type."""
    mime, data = (media.mime, media.data) if isinstance(media, Picture) else media
    alt = alt or (media.alt if isinstance(media, Picture) else "")
    # As a file, a picture is gone with the page's next run, and a browser that is late finds
    # nothing; an animation would be made a still.
    if mime == "image/webp" or (mime.startswith("image/") and len(data) <= INLINE):
        st.image(f"data:{mime};base64,{b64encode(data).decode()}", width=width, alt=alt)
    elif mime.startswith("image/"):
        st.image(data, width=width, alt=alt, output_format="PNG")
    elif mime.startswith("audio/"):
        st.audio(data, format=mime, alt=alt, width=width)
    else:
        st.video(data, format=mime, alt=alt, width=width, loop=True, muted=True, autoplay=True)


_MARKS = re.compile(r"([\\`*_{}\[\]()#+\-.!|~$:<>])")


def plain(text: str) -> str:
    """Words of visitors and files as words: what would be markup, a picture from the net among it,
    is shown as it was typed."""
    return _MARKS.sub(r"\\\1", " ".join(str(text).split()))


def failed(call: Callable, *args, **options):
    """What a call gives; a mistake is shown in its own words and gives None."""
    try:
        return call(*args, **options)
    except (ValueError, OSError, ImportError) as error:
        st.error(plain(str(error)), icon=":material/error:")
        return None


def worked(call: Callable, *args, **options) -> bool:
    """Whether a call went well; a mistake is shown in its own words."""
    return failed(lambda: (call(*args, **options),)) is not None


def settings_of_drop(key: str) -> bool:
    """A place to drop a file that was made here; True when one came whose settings wait, once, for
    the page Create."""
    kinds = [suffix[1:] for kind in KINDS.values() for suffix in kind.suffixes]
    upload = st.file_uploader(
        "A file made here brings its settings back", type=kinds, max_upload_size=64,
        key=f"{key}-drop",
    )  # fmt: skip
    seen = f"{key}-drop-seen"
    if upload is None:
        st.session_state.pop(seen, None)
        return False
    if st.session_state.get(seen) == upload.file_id:
        return False
    found = failed(settings_of_file, studio().workspace, upload.name, upload.getvalue())
    if found is None:
        return False
    st.session_state[seen] = upload.file_id
    st.session_state["restore"] = found.to_dict()  # before the widgets are made anew
    return True


# --- jobs ----------------------------------------------------------------------------------------


def status(snapshot: Snapshot, ahead: int) -> str:
    """How a job stands, in a few words."""
    if snapshot.state == QUEUED:
        return "next" if ahead == 0 else f"waiting, {ahead} before it"
    if snapshot.state == RUNNING:
        left = "" if snapshot.left is None else f", {clock(snapshot.left)} left"
        return f"{plain(snapshot.note or 'starting')}{left}"
    return snapshot.state


def watch(job: Job, *, key: str = "") -> None:
    """Shows a job while it runs, with a button that ends it; the page runs anew when the job begins
    (it is looked at more often then) and when it is over."""
    before = studio().queue.ahead(job.id)
    every = min(POLL_SECONDS * (1 + before), SLOWEST_POLL)

    @st.fragment(run_every=every)
    def panel() -> None:
        snapshot = job.snapshot()
        if snapshot.finished or (before and snapshot.state != QUEUED):
            st.rerun()
        with st.container(horizontal=True, vertical_alignment="center"):
            text = f"{status(snapshot, studio().queue.ahead(job.id))}"
            st.progress(snapshot.share, text=text)
            if st.button("Cancel", key=f"cancel{key}{job.id}", icon=":material/close:"):
                studio().queue.cancel(job.id)
        if snapshot.previews:
            with st.container(horizontal=True):
                for picture in snapshot.previews:
                    wide = TILE if picture.mime.startswith("image/") else "stretch"
                    show(picture, width=wide)

    panel()


def small_step(work: Callable, *, kind: str, title: str):
    """What quick work gives, which goes before other jobs and is waited for here; None when it gave
    nothing, with the reason shown. It is cancelled when nobody waits for it any more: it took too
    long, a slider was moved on, the page was left."""
    queue = studio().queue
    job = failed(studio().run, work, kind=kind, title=title, owner=owner(), urgent=True)
    if job is None:
        return None
    try:
        with st.spinner(title):
            line, until = st.empty(), time.monotonic() + PATIENCE
            end = job.wait(timeout=POLL_SECONDS)
            while not end.finished and time.monotonic() < until:
                line.caption(status(end, queue.ahead(job.id)))  # ends this run if another waits
                end = job.wait(timeout=POLL_SECONDS)
    finally:
        late = queue.cancel(job.id)
    if late:
        st.error("The queue is busy; try again when its jobs are done.")
    elif end.error:
        st.error(plain(end.error))
    return job.value


def job_here(*kinds: str, lasting: bool = True) -> Job | None:
    """The job in the page's address, when it is of one of these kinds; back from another page,
    which empties the address, the one that was `lasting`."""
    last = f"last-{kinds[0]}"
    for name in (st.query_params.get("job", ""), st.session_state.get(last, "")):
        job = studio().queue.get(name)
        if job is not None and job.kind in kinds:
            if lasting:
                st.query_params["job"] = st.session_state[last] = job.id
            return job
    return None


def ended(snapshot: Snapshot) -> bool:
    """Says so when a finished job did not end well; True when it did."""
    if snapshot.state == FAILED:
        st.error(plain(snapshot.error or "failed"), icon=":material/error:")
    elif snapshot.state != "done":
        st.info("Cancelled; what was finished before is kept.", icon=":material/block:")
    return snapshot.state == "done"


# --- results -------------------------------------------------------------------------------------


def media_of(item: Item) -> tuple[str, bytes] | None:
    """The type and bytes of an item's file; None when it is gone."""
    try:
        return item.mime, studio().gallery.read(item)
    except ValueError:
        return None


def alt_of(item: Item) -> str:
    """Words for those who don't see an item."""
    return f"{item.title}, {described(item.request, without=('generator',))}"


def tiles(items: Sequence[Item], *, key: str, names: Sequence[str] = ()) -> None:
    """Items beside each other, each with its buttons, under names or else their titles."""
    with st.container(horizontal=True, gap="small"):
        for i, item in enumerate(items):
            tile(item, key=key, name=names[i] if names else "")


def tile(item: Item, *, key: str, name: str = "") -> None:
    """One item: what it shows, its name or else title and seed, and its details."""
    wide = TILE if item.medium == "image" else 2 * TILE
    with st.container(width=wide, gap="xsmall"):
        media = media_of(item)
        if media is None:
            st.caption("its file is gone")
            return
        show(media, alt=alt_of(item), width=wide)
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
            star = ":material/star: " if item.starred else ""
            text = name or f"{item.title[:40]} · {item.request.get('seed', '')}"
            st.caption(f"{star}{plain(text)}", width="stretch")
            if st.button(
                ":material/more_horiz:",
                key=f"{key}open{item.id}",
                type="tertiary",
                help="Details: settings, download, star, delete",
            ):
                details(item)


def star_button(item: Item, *, key: str) -> None:
    """Marks an item, or takes the mark away."""
    name = ":material/star: Starred" if item.starred else ":material/star_border: Star"
    star = studio().gallery.star
    if st.button(name, key=f"{key}star{item.id}", on_click=star, args=(item.id, not item.starred)):
        st.rerun()


def closely(item: Item) -> None:
    """A sound's wave and spectrogram; a clip's frames, one at a time, when asked."""
    path = studio().gallery.path(item)
    if item.medium == "audio":
        shown = failed(looking.wave_and_spectrogram, path)
        if shown is not None:
            show(shown)
    elif item.medium == "video" and st.toggle("Frame by frame", key="details-frames"):
        count = failed(looking.frame_count, path)
        if count:
            index = st.slider("Frame", 0, max(1, count - 1), 0, key="details-frame")
            shown = failed(looking.frame, path, min(index, count - 1))
            if shown is not None:
                show(shown)


@st.dialog("Details", width="large")
def details(item: Item) -> None:
    """An item large, with its settings and everything that can be done with it."""
    gallery, media = studio().gallery, media_of(item)
    item = gallery.get(item.id) or item
    if media is None:
        st.caption("its file is gone")
        return
    left, right = st.columns([3, 2])
    with left:
        show(media, alt=alt_of(item), width=400 if item.medium == "image" else "stretch")
        closely(item)
    with right:
        st.markdown(f"**{plain(item.title)}**")
        values = {k: v for k, v in item.request.items() if k not in ("schema", "count", "prompt")}
        st.table(
            {k.replace("_", " "): plain(str(v)[:24]) for k, v in values.items()},
            border="horizontal",
            alt="settings",
        )
        cost = [f"{v} {k}" for k, v in item.stats.items() if k in ("tokens", "passes")]
        if "seconds" in item.stats:
            cost.append(f"{item.stats['seconds']:.2f} s")
        st.caption(", ".join(cost))
    with st.container(horizontal=True):
        if st.button("Use settings", key="details-use", icon=":material/tune:", type="primary"):
            st.session_state["restore"] = item.request
            st.switch_page("pages/create.py")
        name = f"{item.title[:40].strip() or item.id}-{item.request.get('seed', 0)}{item.suffix}"
        st.download_button(
            "Download",
            media[1],
            file_name=name,
            mime=media[0],
            icon=":material/download:",
            on_click="ignore",
        )
        star_button(item, key="details")
        if st.button(
            "Delete",
            key="details-delete",
            icon=":material/delete:",
            on_click=gallery.delete,
            args=(item.id,),
        ):
            st.rerun()
