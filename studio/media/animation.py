"""Animated GIF and WebP through Pillow: frames with their times, and the request inside.

A still picture is an animation of one frame. Pillow merges equal neighbours when it writes, so the
times count, not the number of stored frames. Leaves out on purpose: transparency over time (frames
are laid over white).

Every frame of these files costs as much as the whole canvas, however few bytes it has: files of too
many are refused before one is decoded.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, ImageSequence

from studio.media.header import BROKEN, open_header
from studio.media.image import to_rgb
from studio.media.metadata import dumps, exif_bytes, parse_request, read_request

GIF_FPS = 50.0  # what is shorter than two hundredths of a second, browsers show for ten
STILL_SECONDS = 0.1  # of a frame that says nothing, as browsers have it
MAX_FRAMES = 2**15
MAX_SUM = 2**30  # pixels of all frames together: some seconds


def timed_pictures(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    """Frames (H, W, 3) uint8 and their times in seconds; the last comes again at its end.

    Raises:
        ValueError: one line: too large, broken or cut short.
    """
    time, frame = 0.0, None
    with open_header(path) as picture:
        count = _count(picture, path)
        try:
            for part in _parts(picture):
                upright = ImageOps.exif_transpose(part.copy()) if count == 1 else part.copy()
                frame = np.asarray(to_rgb(upright))  # (H, W, 3)
                yield time, frame
                time += part.info.get("duration", 0) / 1000 or STILL_SECONDS
        except BROKEN as error:
            raise _broken(path, error) from error
    if frame is None:
        raise ValueError(f"video {str(path)!r} has no frames")
    yield time, frame


def animation_info(path: Path) -> tuple[int, int, int | None, float, float | None, str]:
    """Width, height, frames as they were written, frames a second, seconds, and the format.

    Equal neighbours that were merged count as often as the shortest stays go into their time.
    Raises as `timed_pictures`.
    """
    with open_header(path) as picture:
        _count(picture, path)
        try:
            stays = []
            for part in _parts(picture):
                part.load()
                stays.append(part.info.get("duration", 0) / 1000 or STILL_SECONDS)
            width, height = picture.size
            kind = (picture.format or "").lower()
        except BROKEN as error:
            raise _broken(path, error) from error
    least = min(stays)
    short = [s for s in stays if s < 1.5 * least]
    usual = sum(short) / len(short)
    count = sum(max(1, round(s / usual)) for s in stays)
    return width, height, count, count / sum(stays), sum(stays), kind


def _count(picture: Image.Image, path: Path) -> int:
    """How many frames there are. Raises ValueError for more than are read."""
    try:
        count = getattr(picture, "n_frames", 1)
    except BROKEN as error:
        raise _broken(path, error) from error
    if count > MAX_FRAMES or count * picture.width * picture.height > MAX_SUM:
        raise ValueError(
            f"video {str(path)!r} is too large: {count} frames of {picture.width} x "
            f"{picture.height}; at most {MAX_FRAMES:,} frames and {MAX_SUM:,} pixels are read"
        )
    return count


def _parts(picture: Image.Image) -> Iterator[Image.Image]:
    """The frames, each before it is decoded. Raises ValueError where the canvas grows."""
    size = picture.size
    for part in ImageSequence.Iterator(picture):
        if part.size != size:
            raise ValueError("its frames differ in size")
        yield part


def _broken(path: Path, error: Exception) -> ValueError:
    return ValueError(f"video {str(path)!r} is broken or cut short: {error}")


def animation_bytes(
    frames: Sequence[np.ndarray], kind: str, fps: float, request: dict[str, Any] | None, mark: str
) -> bytes:
    """An animation as a file's bytes: lossless WebP, or GIF with a palette a frame.

    Args:
        frames: (H, W, 3) uint8 each.
        kind: "GIF" or "WEBP".
        fps: frames a second; GIF counts in hundredths, and the errors don't add up. It takes 50,
            beyond which frames are left out.
        request: plain JSON values, put inside.
        mark: written before the request in a comment.

    Raises:
        ValueError: frames are too large or shown too long for the format.
    """
    if kind == "GIF" and fps > GIF_FPS:
        kept = max(1, round(len(frames) * GIF_FPS / fps))
        frames, fps = [frames[int(i * fps / GIF_FPS)] for i in range(kept)], GIF_FPS
    unit = 100 if kind == "GIF" else 1000
    ends = [round(unit * (i + 1) / fps) for i in range(len(frames))]
    stays = [(b - a) * 1000 // unit for a, b in zip([0, *ends], ends, strict=False)]
    pictures = [Image.fromarray(frame) for frame in frames]
    options: dict[str, Any] = {"duration": stays, "loop": 0}
    if kind == "GIF":
        dither = Image.Dither.NONE  # noise of its own in every frame would flicker
        pictures = [p.quantize(256, dither=dither) for p in pictures]
        options |= {"comment": (mark + dumps(request)).encode()} if request is not None else {}
    else:
        options |= {"lossless": True, "method": 4}
        options |= {"exif": exif_bytes(request)} if request is not None else {}
    file = io.BytesIO()
    try:
        pictures[0].save(file, format=kind, save_all=True, append_images=pictures[1:], **options)
    except (ValueError, OverflowError, RuntimeError, struct.error) as error:
        height, width = frames[0].shape[:2]
        what = f"{len(frames)} frames of {height}x{width} at {fps:g} a second"
        raise ValueError(f"video of {what} can't be a {kind} file: {error}") from error
    return file.getvalue()


def animation_request(path: Path, mark: str) -> dict[str, Any]:
    """The request inside a GIF, or as `metadata.read_request` for the others."""
    with open_header(path) as picture:
        kind, comment = picture.format, picture.info.get("comment", b"")
    if kind != "GIF":
        return read_request(path)
    text = comment.decode("utf-8", errors="replace") if isinstance(comment, bytes) else comment
    if not text.startswith(mark):
        raise ValueError(f"video {str(path)!r} holds no studio request")
    return parse_request(text.removeprefix(mark), repr(str(path)))
