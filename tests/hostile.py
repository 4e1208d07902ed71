"""Hostile input made up by hypothesis, as the tests of the server and of the command line share it.

Forty inputs of each kind; STUDIO_FUZZ=400 in the environment makes it four hundred."""

import functools
import io
import os

import av
import numpy as np
import soundfile
from hypothesis import HealthCheck, settings
from hypothesis import strategies as some
from PIL import Image

from studio.pipelines.request import Request

SECONDS = 10  # that any answer may take
quiet = settings(
    max_examples=int(os.environ.get("STUDIO_FUZZ", "40")),
    deadline=SECONDS * 1000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
plain = some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=40)
values = some.recursive(
    plain,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(), inner, max_size=4),
    max_leaves=12,
)
names = some.sampled_from([*Request.__dataclass_fields__, "requests", "__class__", "path"])
bodies = some.dictionaries(names | some.text(max_size=10), values, max_size=6)


# --- files ---------------------------------------------------------------------------------------


@functools.cache
def media() -> dict[str, bytes]:
    """A small file of every kind that is read, by its ending."""
    slope = np.linspace(0, 255, 32, dtype=np.uint8)
    frames = [np.tile(np.roll(slope, 3 * t)[:, None, None], (1, 24, 3)) for t in range(5)]
    pictures = [Image.fromarray(frame) for frame in frames]
    made = {}
    for ending in ("png", "jpg", "webp", "gif", "bmp", "tiff"):
        kind = {"jpg": "JPEG", "tiff": "TIFF"}.get(ending, ending.upper())
        made[ending] = _written(lambda file, kind=kind: pictures[0].save(file, kind))
    for ending in ("gif", "webp", "png"):
        kind, more = ending.upper(), {"save_all": True, "append_images": pictures[1:]}
        made[f"moving.{ending}"] = _written(
            lambda file, kind=kind, more=more: pictures[0].save(file, kind, duration=100, **more)
        )
    for ending, codec in (("mp4", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4")):
        made[ending] = _written(
            lambda file, ending=ending, codec=codec: _film(file, ending, codec, frames)
        )
    wave = np.sin(np.arange(1600) / 9) / 2
    for ending in ("wav", "flac", "ogg"):
        kind = ending.upper()
        made[ending] = _written(
            lambda file, kind=kind: soundfile.write(file, wave, 16000, format=kind)
        )
    return made


def _written(write) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _film(file, kind: str, codec: str, frames) -> None:
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=24)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _changed(data: bytes, changes: list[tuple[float, str, bytes]]) -> bytes:
    for place, kind, junk in changes:
        at = int(place * len(data))
        if kind == "near the beginning":
            at, kind = int(place * min(len(data), 400)), "replaced"
        rest = {"cut": b"", "inserted": data[at:], "replaced": data[at + len(junk) :]}
        data = data[:at] + junk + rest[kind]
    return data


_kinds = some.sampled_from(["replaced", "near the beginning", "inserted", "cut"])
_junk = some.binary(min_size=1, max_size=4) | some.binary(max_size=40)


def mutants(data: bytes) -> some.SearchStrategy[bytes]:
    """Those bytes with some of them replaced, inserted or cut off."""
    changes = some.lists(some.tuples(some.floats(0, 1), _kinds, _junk), min_size=1, max_size=6)
    return changes.map(lambda made: _changed(data, made))


def broken_file(kinds) -> some.SearchStrategy[tuple[str, bytes]]:
    """An ending of `media` and a mutant of that file."""
    return some.sampled_from(sorted(kinds)).flatmap(
        lambda kind: some.tuples(some.just(kind), mutants(media()[kind]))
    )
