"""What differs between media when commands read and write them: one table, a line a medium.

A pipeline's class says what it makes, a file's suffix what it holds. Nothing here imports torch
before it is used.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_NAME = "out"


@dataclass(frozen=True)
class Medium:
    """How one medium is written and read.

    Args:
        name: as pipelines say it in `medium`.
        noun: what users call it.
        suffix: of the file that is written when none was named.
        suffixes: of files that hold it.
        pipelines: the classes that make it; images are what all others make.
        results: the field of a pipeline's output with one entry a sample.
        module: has `check_suffix(path)`.
        writer, reader: "module:function" that writes (path, made, request) and reads the request.
        model: the bundled model of reconstructions; None for the default one.
    """

    name: str
    noun: str
    suffix: str
    suffixes: tuple[str, ...]
    pipelines: tuple[str, ...]
    results: str
    module: str
    writer: str
    reader: str
    model: str | None = None

    def check_suffix(self, path: Path) -> None:
        """Raises ValueError when no file with this suffix can be written."""
        importlib.import_module(self.module).check_suffix(path)

    def made(self, output: Any) -> list:
        """One entry a sample of a pipeline's output."""
        return list(getattr(output, self.results))

    def write(self, path: Path, made: Any, request: dict[str, Any], output: Any) -> None:
        """Writes one entry of `made` with its request, whole or not at all.

        Args:
            output: the pipeline's, which knows the rate of samples or frames.
        """
        if self.name == "audio":
            _find(self.writer)(path, made, output.sampling_rate, request)
        elif self.name == "video":
            _find(self.writer)(path, made, fps=output.fps, request=request)
        else:
            _find(self.writer)(path, made, request)

    def read_request(self, path: Path) -> dict[str, Any]:
        """The request inside a file."""
        return _find(self.reader)(path)


IMAGE = Medium(
    "image",
    "picture",
    ".png",
    (".png", ".webp", ".jpg", ".jpeg"),
    (),
    "images",
    "studio.media.image",
    "studio.media.image:write_image",
    "studio.media.metadata:read_request",
)
AUDIO = Medium(
    "audio",
    "sound",
    ".wav",
    (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff"),
    ("TextToSpeechPipeline",),
    "audios",
    "studio.media.audio",
    "studio.media.audio:write_audio",
    "studio.media.audio:read_request",
    "speech",
)
VIDEO = Medium(
    "video",
    "clip",
    ".mp4",
    (".mp4", ".webm", ".gif", ".mov", ".mkv", ".avi", ".m4v"),
    ("TextToVideoPipeline",),
    "frames",
    "studio.media.video_writer",
    "studio.media.video_writer:write_frames",
    "studio.media.video:read_request",
    "emoji-motion",
)
MEDIA = (IMAGE, AUDIO, VIDEO)


def medium_of_folder(folder: Path) -> Medium:
    """What the pipeline of a model folder makes."""
    from studio.hub import read_index

    name = read_index(folder)["_class_name"]
    return next((medium for medium in MEDIA if name in medium.pipelines), IMAGE)


def medium_of_file(path: Path) -> Medium:
    """What a file holds, by its suffix; a picture where the suffix says nothing."""
    suffix = path.suffix.lower()
    return next((medium for medium in MEDIA if suffix in medium.suffixes), IMAGE)


def medium_read(path: Path, model: str | None) -> Medium:
    """As what a file is read by a model: a GIF is a clip for models of clips, and for others a
    picture, its first one."""
    from studio.hub import INDEX, find_folder

    medium = medium_of_file(path)
    if medium is VIDEO and path.suffix.lower() == ".gif":
        folder = None if model is None else find_folder(model)
        if folder is None or ((folder / INDEX).is_file() and medium_of_folder(folder) is IMAGE):
            return IMAGE
    return medium


def default_path(medium: Medium) -> Path:
    """Where a result goes when no file was named."""
    return Path(DEFAULT_NAME + medium.suffix)


def _find(place: str) -> Callable:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
