"""Reconstruct: what tokenizers keep of a picture, a sound or a clip, and at what cost."""

import altair as alt
import pandas as pd
import streamlit as st
from elements import ended, failed, job_here, owner, show, small_step, studio, watch

from studio.server import codecs, coding
from studio.server.measuring import common
from studio.server.media import KINDS, kind_of_file


def begin(upload, models: list[str]) -> None:
    """Puts the comparison into the queue."""
    data, name, place = upload.getvalue(), upload.name, studio()

    def work(job):
        with place.workspace.uploaded(name, data) as path:
            return coding.comparison(job, place.keeper, path, models)

    title = f"reconstructions by {', '.join(models)}"
    job = failed(place.run, work, kind="reconstruct", title=title, owner=owner())
    if job is not None:
        st.query_params["job"] = job.id


def decoded(coded: coding.Coded, count: int):
    """The first tokens decoded; by the worker, unless they were before."""
    if count in coded.shown:
        return coded.shown[count]
    place = studio()

    def work(job):
        return coding.decode(place.keeper.open_tokenizer(coded.name), coded, count)

    return small_step(work, kind="prefix", title="a prefix")


def figures(coded: coding.Coded, count: int) -> None:
    """What a count costs and keeps."""
    point = coded.point(count)
    if point is None:
        return
    bits = coded.bits(count)
    unit = f"{bits / 8:.0f} bytes" if bits < 80_000 else f"{bits / 8192:.1f} KiB"
    parts = [f"{count} tokens", unit, *point.text(coded.medium)]
    if coded.medium == "audio":
        parts.append(f"{bits / coded.seconds:.0f} bits a second")
    st.caption(" · ".join(parts))


def one(coded: coding.Coded) -> None:
    """One tokenizer: slider and reconstruction."""
    st.markdown(f"**{coded.name}**")
    count = coded.counts[-1]
    if len(coded.counts) > 1:
        count = st.select_slider(
            "Tokens", coded.counts, value=count, key=f"count-{coded.name}",
            help="Decodes the first so many tokens",
        )  # fmt: skip
    shown = decoded(coded, count)
    if shown is not None:
        show(shown, width=280 if coded.medium != "audio" else "stretch")
    if count in coded.spectra:
        show(coded.spectra[count])
    figures(coded, count)


def curve(found: coding.Comparison) -> None:
    """Quality against bytes, of tokenizers and codecs."""
    points, medium = found.points(), found.medium
    measure = common(medium, points)
    if measure is None or (len(points) < 3 and medium == "image"):
        return
    st.subheader("Rate and distortion", anchor=False)
    if len(points) > 2:
        rows = pd.DataFrame(
            [{"bytes": p.bytes, "by": p.name, "of": "tokens" if p.tokens else "codec", **p.scores}
             for p in points]
        )  # fmt: skip
        lower = ", lower is better" if measure.lower else ""
        title = f"{measure.name}{f' in {measure.unit}' if measure.unit else ''}{lower}"
        drawn(rows, measure.name, title)
        with st.expander("As a table"):
            st.dataframe(rows, hide_index=True, alt="the points of the curve")
    ask_for_codecs(found)


def drawn(rows: pd.DataFrame, quality: str, title: str) -> None:
    """The curves themselves."""
    lines = (
        alt.Chart(rows)
        .mark_line(point=True)
        .encode(
            x=alt.X("bytes:Q", scale=alt.Scale(type="log"), title="bytes"),
            y=alt.Y(f"{quality}:Q", scale=alt.Scale(zero=False), title=title),
            color=alt.Color("by:N", title=None, legend=alt.Legend(orient="bottom")),
            strokeDash=alt.StrokeDash("of:N", legend=None, sort=["tokens", "codec"]),
            tooltip=[
                "by",
                alt.Tooltip("bytes:Q", format=".0f"),
                alt.Tooltip(f"{quality}:Q", format=".2f"),
            ],
        )
        .properties(height=320)
    )
    st.altair_chart(lines, alt=f"{quality} against bytes of {', '.join(sorted(set(rows['by'])))}")


def ask_for_codecs(found: coding.Comparison) -> None:
    """What codecs stand for; those that take long are measured when somebody asks."""
    job, names = studio().queue.get(found.codec_job), codecs.NAMES[found.medium]
    if job is not None and not job.finished:
        watch(job, key="codecs")
        return
    if found.codecs:
        note = f"{codecs.NOTES[found.medium]}; tokens count without, as the model knows the rest."
        st.caption(" ".join([note, *found.missing]))
        return
    if job is not None:
        ended(job.snapshot())
    if found.medium != "image" and st.button(
        f"Compare with {names}", icon=":material/show_chart:", help="Takes some seconds"
    ):
        title = f"{names} on the same {KINDS[found.medium].noun}"
        job = failed(
            studio().run, lambda job: bool(coding.add_codecs(job, found)), kind="codecs",
            title=title, owner=owner(),
        )  # fmt: skip
        if job is not None:
            found.codec_job = job.id
            st.rerun()


st.title("Reconstruct", anchor=False)
kinds = [suffix[1:] for kind in KINDS.values() for suffix in kind.suffixes]
upload = st.file_uploader("A picture, a sound or a clip", type=kinds, max_upload_size=64)
if upload is not None:
    kind = failed(kind_of_file, upload.name)
    entries = [e for e in studio().keeper.entries() if kind and e.medium == kind.name]
    names = [entry.name for entry in entries]
    if kind and not names:
        st.info(f"No model here takes {kind.noun}s apart.")
    chosen = st.multiselect("Tokenizers", names, default=names[:1]) if names else []
    if chosen and st.button("Reconstruct", type="primary", icon=":material/compare:"):
        begin(upload, chosen)
job = job_here("reconstruct")
if job is None:
    st.caption("Drop a file to see what is left of it after a few hundred bits.")
elif not job.finished:
    watch(job)
elif ended(job.snapshot()) and job.value is not None:
    found = job.value
    for start in range(0, len(found.coded) + 1, 3):
        columns = st.columns(3)
        for place, column in enumerate(columns, start):
            with column:
                if place == 0:
                    st.markdown("**Original**")
                    medium = found.coded[0].medium
                    show(found.coded[0].original, width=280 if medium != "audio" else "stretch")
                    if 0 in found.coded[0].spectra:
                        show(found.coded[0].spectra[0])
                    st.caption("as the tokenizer sees it")
                elif place <= len(found.coded):
                    one(found.coded[place - 1])
    curve(found)
elif job.state == "done":
    st.caption("This comparison is no longer kept; drop the file again.")
