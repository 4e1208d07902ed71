"""The clips of an evaluation: files of a folder in a fixed order, or held-out ones made here.

A tokenizer sees the middle square of the first frames of a file, at its own size and at the file's
rate. What can't be read, or is shorter, is left out with a warning, and the report says how many.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from studio.data.motion import MotionClips
from studio.evaluation.pictures import files_of, spread
from studio.media.video import read_pieces

ENDINGS = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v", ".gif", ".webp")
HELDOUT = 100  # clips, where no folder is given
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """One clip: its name, what tells it from a changed one, and its file; None for a number of the
    held-out set."""

    name: str
    key: tuple
    path: Path | None = None
    number: int = 0


def find_clips(folder: str | Path, *, limit: int | None = None) -> list[Clip]:
    """The video files of a folder and its subfolders, in the order of names.

    Args:
        limit: so many, evenly spread; all when None.

    Raises:
        FileNotFoundError, NotADirectoryError: `folder` is none.
        ValueError: it holds no video.
    """
    files = spread(files_of(folder, ENDINGS, "video"), limit)
    return [Clip(file.name, file.key, file.path) for file in files]


def heldout_clips(count: int = HELDOUT) -> list[Clip]:
    """Clips of objects that no tokenizer was trained on, on plain and gradient backgrounds."""
    return [Clip(f"held-out {i}", ("heldout", i), number=i) for i in range(count)]


def read_clips(clips: list[Clip], size: int, frames: int) -> tuple[torch.Tensor, list[int]]:
    """Clips (n, 3, frames, size, size) in [-1, 1], and which of `clips` they are."""
    found, kept = [], []
    data = MotionClips(size=size, num_frames=frames, split="heldout", textures=0.0)
    for number, clip in enumerate(clips):
        try:
            if clip.path is None:
                found.append(data[clip.number][0])
            else:
                found.append(_from_file(clip.path, size, frames))
            kept.append(number)
        except (OSError, ValueError) as error:
            logger.warning("left out: %s", error)
    if not found:
        return torch.zeros(0, 3, frames, size, size), kept
    return torch.stack(found), kept  # (n, 3, T, H, W)


def _from_file(path: Path, size: int, frames: int) -> torch.Tensor:
    pieces = list(read_pieces(path, chunk_frames=frames, num_frames=frames))
    clip = torch.cat(pieces, 2)[0]  # (3, T, H, W)
    if clip.shape[1] < frames:
        raise ValueError(f"video {str(path)!r} has {clip.shape[1]} frames; {frames} are needed")
    height, width = clip.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = clip[..., top : top + side, left : left + side].transpose(0, 1)  # (T, 3, s, s)
    if side != size:
        square = F.interpolate(square, (size, size), mode="bicubic", antialias=True)
    return square.clamp(-1, 1).transpose(0, 1)  # (3, T, size, size)
