"""The one place that knows how a result becomes a file: its medium, suffixes, writer and reader.

A medium is what the class of a pipeline makes; a new one is an entry of `MEDIA`. Nothing here
imports torch before something is checked, read or written.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Medium:
    """How one medium is written and read.

    Args:
        name: as pipelines say it in `medium`.
        noun, plural: what users call one, and what a model makes.
        suffixes: of files that are written, the usual one first.
        others: of files that hold it besides.
        pipeline: the class that makes it; "" for what all others make.
        rate: the field of a pipeline's output that says samples or frames a second, or "".
        writer, reader: "module:function"; a writer takes (path, media, request=...), with the rate
            by its name where there is one, and has a `check_suffix(path)` beside it.
        model: the bundled model of reconstructions; None for the default one.
    """

    name: str
    noun: str
    plural: str
    suffixes: tuple[str, ...]
    writer: str
    reader: str
    others: tuple[str, ...] = ()
    pipeline: str = ""
    rate: str = ""
    model: str | None = None

    def check_suffix(self, path: Path) -> None:
        """Raises ValueError when no file with this suffix can be written."""
        importlib.import_module(self.writer.partition(":")[0]).check_suffix(path)

    def read_request(self, path: Path) -> dict[str, Any]:
        """The request inside a file. Raises what the reader raises where there is none."""
        return _find(self.reader)(path)


IMAGE = Medium(
    "image",
    "picture",
    "pictures",
    (".png", ".webp", ".jpg", ".jpeg"),  # as in `studio.media.image`, which imports torch
    "studio.media.image:write_image",
    "studio.media.metadata:read_request",
)
AUDIO = Medium(
    "audio",
    "sound",
    "sound",
    (".wav", ".flac", ".ogg"),
    "studio.media.audio:write_audio",
    "studio.media.audio:read_request",
    others=(".mp3", ".aif", ".aiff"),
    pipeline="TextToSpeechPipeline",
    rate="sampling_rate",
    model="speech",
)
VIDEO = Medium(
    "video",
    "clip",
    "clips",
    (".mp4", ".webm", ".gif", ".webp"),
    "studio.media.video_writer:write_frames",
    "studio.media.video:read_request",
    others=(".mov", ".mkv", ".avi", ".m4v"),
    pipeline="TextToVideoPipeline",
    rate="fps",
    model="emoji-motion",
)
MEDIA = (IMAGE, AUDIO, VIDEO)  # where a suffix fits several, the first one counts
SUFFIXES = IMAGE.suffixes
FORMATS = tuple(dict.fromkeys(suffix for medium in MEDIA for suffix in medium.suffixes))


@dataclass(frozen=True)
class Made:
    """What a pipeline made for one job.

    Args:
        medium: its medium. media: a picture, samples or frames. rate: a second, None for pictures.
    """

    medium: Medium
    media: Any
    rate: float | None = None


def medium_of(class_name: str) -> Medium:
    """What a pipeline of that class makes."""
    return next((medium for medium in MEDIA if medium.pipeline == class_name), IMAGE)


def made_of(pipe: Any, output: Any) -> list[Made]:
    """A pipeline's output, one entry a sample."""
    medium = medium_of(type(pipe).__name__)
    rate = getattr(output, medium.rate) if medium.rate else None
    return [Made(medium, media, rate) for media in output[0]]


def file_name(name: str, suffix: str, medium: Medium = IMAGE) -> str:
    """`name` with a suffix that can be written: its own, or else `suffix`.

    Raises:
        ValueError: it has that of another medium.
    """
    own = Path(name).suffix.lower()
    if own in medium.suffixes:
        return name
    if own in FORMATS:
        known = ", ".join(medium.suffixes)
        makes = f"the model makes {medium.plural}"
        raise ValueError(f"output {name!r} must end in one of {known}: {makes}")
    return f"{name}{suffix}"


def write_media(path: Path, made: Made, request: dict[str, Any]) -> Path:
    """Writes a result with its request inside, whole or not at all.

    Args:
        path: ends in one of the suffixes of its medium.
        request: plain JSON values.
    """
    name = {"sampling_rate": "sample_rate"}.get(made.medium.rate, made.medium.rate)
    rate = {name: made.rate} if name else {}
    return _find(made.medium.writer)(path, made.media, request=request, **rate)


def recorded_request(path: Path) -> dict[str, Any] | None:
    """The request inside a file; None for a file that holds none or is none of ours."""
    suffix = path.suffix.lower()
    for medium in MEDIA:
        if suffix in medium.suffixes:
            try:
                return medium.read_request(path)
            except (ValueError, OSError, ImportError):
                continue
    return None


def _find(place: str) -> Callable:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
