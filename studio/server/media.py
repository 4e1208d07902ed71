"""How results become files, previews and rows of the gallery, a line a medium."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.env import probe
from studio.server.jobs import Picture


@dataclass(frozen=True)
class Kind:
    """One medium.

    Args:
        name: as pipelines say it in `medium`.
        noun: what users call it.
        suffixes: of files that visitors may bring; the first one is written.
        results: the field of a pipeline's output with one entry a sample.
        reader: "module:function" that reads the request inside a file.
        model: the bundled model that takes such files apart.
        batch: samples made in one call.
    """

    name: str
    noun: str
    suffixes: tuple[str, ...]
    results: str
    reader: str
    model: str
    batch: int = 1


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "image",
            "picture",
            (".png", ".webp", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"),
            "images",
            "studio.media.metadata:read_request",
            "emoji-1d",
            batch=4,
        ),
        Kind(
            "audio",
            "sound",
            (".wav", ".flac", ".ogg", ".mp3"),
            "audios",
            "studio.media.audio:read_request",
            "speech",
        ),
        Kind(
            "video",
            "clip",
            (".mp4", ".webm", ".gif", ".mov", ".mkv"),
            "frames",
            "studio.media.video:read_request",
            "emoji-motion",
        ),
    )
}
MIMES = {
    ".png": "image/png",
    ".webp": "image/webp",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".tokens": "application/octet-stream",
}


def kind_of_file(name: str) -> Kind:
    """The medium of a file by its suffix. Raises ValueError for one that nobody here reads."""
    suffix = Path(name).suffix.lower()
    for kind in KINDS.values():
        if suffix in kind.suffixes:
            return kind
    known = ", ".join(s for kind in KINDS.values() for s in kind.suffixes)
    raise ValueError(f"file {ascii(Path(name).name)[:60]} must end in one of {known}")


def suffix_written(kind: Kind) -> str:
    """What results end in here; clips are animated WebP where `av` is missing."""
    if kind.name == "video":
        return ".mp4" if probe("av").ok else ".webp"
    return kind.suffixes[0]


def write_result(path: Path, media: Any, request: dict[str, Any], output: Any) -> None:
    """Writes one sample with its request inside, whole or not at all.

    Args:
        path: ends as `suffix_written` says.
        media: the sample's entry of the pipeline's output.
        output: the pipeline's, which knows rates.
    """
    if path.suffix == ".wav":
        _find("studio.media.audio:write_audio")(path, media, output.sampling_rate, request)
    elif hasattr(output, "fps"):
        write = _find("studio.media.video_writer:write_frames")
        write(path, media, fps=output.fps, request=request)
    else:
        _find("studio.media.image:write_image")(path, media, request)


def read_request(path: Path) -> dict[str, Any]:
    """The request inside a file, as it stands there: to be checked. Raises ValueError where there
    is none."""
    return _find(kind_of_file(path.name).reader)(path)


def picture(image: Any, alt: str, *, side: int = 0) -> Picture:
    """A PIL image as PNG; with `side` enlarged in whole steps to about that many pixels."""
    if side > image.width:
        times = max(1, side // image.width)
        image = image.resize((image.width * times, image.height * times), 0)
    return Picture("image/png", png_bytes(image), alt)


def png_bytes(image: Any) -> bytes:
    """A PIL image as a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def previews(item: Any, titles: list[str]) -> list[Picture]:
    """What a pipeline's preview shows, a picture a sample; nothing where nothing is there yet.

    Args:
        item: what `stream` yielded: pictures, frames of coarse layers, or a piece of sound.
        titles: what each sample is of.
    """
    made = getattr(item, "images", None)
    if made is not None:
        return [picture(m, f"preview of {t}") for m, t in zip(made, titles, strict=False)]
    clips = getattr(item, "frames", None)
    if clips is not None:
        return [
            Picture("image/webp", _animated(clip), f"preview of {t}")
            for clip, t in zip(clips, titles, strict=False)
        ]
    return []


def sound(waves: list[Any], sample_rate: int, title: str) -> Picture:
    """Pieces (1, 1, L) of a sound so far, as a WAV file."""
    import torch

    from studio.media.wav import wav_bytes

    wave = torch.cat(waves, -1)[0].clamp(-1, 1)  # (1, L)
    samples = (wave * 32767).round().to(torch.int16).T.contiguous().numpy()  # (L, 1)
    return Picture("audio/wav", wav_bytes(samples, sample_rate), f"beginning of {title}")


def _animated(frames: list[Any]) -> bytes:
    file = io.BytesIO()
    frames[0].save(
        file, format="WEBP", save_all=True, append_images=frames[1:], duration=100, loop=0
    )
    return file.getvalue()


def _find(place: str) -> Callable:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
