"""The one place that knows how a result becomes a file, by the file's suffix.

Pictures today; sound and video are a line each in `write_media` and `recorded_request`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.media.metadata import read_request

# As in `studio.media.image`, which imports torch.
SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")


def file_name(name: str, suffix: str) -> str:
    """`name` with a suffix that can be written: its own, or else `suffix`."""
    return name if Path(name).suffix.lower() in SUFFIXES else f"{name}{suffix}"


def write_media(path: Path, media: Any, request: dict[str, Any]) -> Path:
    """Writes a result with its request inside, whole or not at all.

    Args:
        path: ends in one of `SUFFIXES`.
        media: what the pipeline made: a PIL image or a tensor (3, H, W) in [-1, 1].
        request: plain JSON values.
    """
    from studio.media.image import write_image

    return write_image(path, media, request)


def recorded_request(path: Path) -> dict[str, Any] | None:
    """The request inside a file; None for a file that holds none or is none of ours."""
    try:
        return read_request(path)
    except (ValueError, OSError):
        return None
