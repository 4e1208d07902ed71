"""The one place that knows how a result becomes a file: its medium, suffixes, writer and reader.

A medium is what the class of a pipeline makes; a new one is a line in `KINDS`. Nothing here imports
torch before something is written.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Kind:
    """One medium.

    Args:
        noun: for errors.
        suffixes: of files that can be written, the usual one first.
        rate: the field of a pipeline's output that says samples or frames a second, or "".
        writer, reader: "module:function"; a writer takes (path, media, request=...), with the
            rate by its name where there is one.
    """

    noun: str
    suffixes: tuple[str, ...]
    rate: str
    writer: str
    reader: str


IMAGE = Kind(
    "pictures",
    (".png", ".webp", ".jpg", ".jpeg"),  # as in `studio.media.image`, which imports torch
    "",
    "studio.media.image:write_image",
    "studio.media.metadata:read_request",
)
KINDS = {
    "TextToSpeechPipeline": Kind(
        "sound",
        (".wav", ".flac", ".ogg"),
        "sampling_rate",
        "studio.media.audio:write_audio",
        "studio.media.audio:read_request",
    ),
    "TextToVideoPipeline": Kind(
        "clips",
        (".mp4", ".webm", ".gif", ".webp"),
        "fps",
        "studio.media.video_writer:write_frames",
        "studio.media.video:read_request",
    ),
}
SUFFIXES = IMAGE.suffixes
FORMATS = tuple(dict.fromkeys(s for kind in (IMAGE, *KINDS.values()) for s in kind.suffixes))


@dataclass(frozen=True)
class Made:
    """What a pipeline made for one job.

    Args:
        kind: of medium. media: a picture, samples or frames. rate: a second, None for pictures.
    """

    kind: Kind
    media: Any
    rate: float | None = None


def kind_of(class_name: str) -> Kind:
    """What a pipeline of that class makes."""
    return KINDS.get(class_name, IMAGE)


def made_of(pipe: Any, output: Any) -> list[Made]:
    """A pipeline's output, one entry a sample."""
    kind = kind_of(type(pipe).__name__)
    rate = getattr(output, kind.rate) if kind.rate else None
    return [Made(kind, media, rate) for media in output[0]]


def file_name(name: str, suffix: str, kind: Kind = IMAGE) -> str:
    """`name` with a suffix that can be written: its own, or else `suffix`.

    Raises:
        ValueError: it has that of another medium.
    """
    own = Path(name).suffix.lower()
    if own in kind.suffixes:
        return name
    if own in FORMATS:
        known = ", ".join(kind.suffixes)
        raise ValueError(f"output {name!r} must end in one of {known}: the model makes {kind.noun}")
    return f"{name}{suffix}"


def write_media(path: Path, made: Made, request: dict[str, Any]) -> Path:
    """Writes a result with its request inside, whole or not at all.

    Args:
        path: ends in one of the suffixes of its kind.
        request: plain JSON values.
    """
    name = {"sampling_rate": "sample_rate"}.get(made.kind.rate, made.kind.rate)
    rate = {name: made.rate} if name else {}
    return _find(made.kind.writer)(path, made.media, request=request, **rate)


def recorded_request(path: Path) -> dict[str, Any] | None:
    """The request inside a file; None for a file that holds none or is none of ours."""
    suffix = path.suffix.lower()
    for kind in (IMAGE, *KINDS.values()):
        if suffix in kind.suffixes:
            try:
                return _find(kind.reader)(path)
            except (ValueError, OSError, ImportError):
                continue
    return None


def _find(place: str) -> Callable:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
