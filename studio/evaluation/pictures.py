"""The pictures of a folder: found in a fixed order, read as a tokenizer of some size sees them.

What can't be read as a picture is left out with a warning, and the report says how many.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from studio.media.image import fit_square, open_picture, to_tensor

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PictureFile:
    """A file of a folder: its `name` in the folder, and what tells it from a changed one."""

    path: Path
    name: str
    key: tuple[str, int, int]


def find_pictures(folder: str | Path, *, limit: int | None = None) -> list[PictureFile]:
    """The picture files of a folder and its subfolders by their endings, in the order of names.

    Args:
        limit: so many, spread evenly over the whole; all when None.

    Raises:
        FileNotFoundError, NotADirectoryError: `folder` is none.
        ValueError: it holds no picture.
    """
    return spread(files_of(folder, ENDINGS, "picture"), limit)


def files_of(folder: str | Path, endings: tuple[str, ...], noun: str) -> list[PictureFile]:
    """The files of a folder and its subfolders with some endings, in the order of names. Raises as
    `find_pictures`, which `noun` names."""
    root = Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"--data {str(folder)!r} does not exist")
    if not root.is_dir():
        raise NotADirectoryError(f"--data {str(folder)!r} is no folder")
    paths = [
        path
        for path in root.rglob("*")
        if path.suffix.lower() in endings
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not paths:
        raise ValueError(f"--data {str(folder)!r} holds no {noun} ({', '.join(endings)})")
    paths = sorted(paths, key=lambda path: path.relative_to(root).as_posix())
    return [picture_file(path, path.relative_to(root).as_posix()) for path in paths]


def picture_file(path: Path, name: str) -> PictureFile:
    """A file with its key: name, size and time of change."""
    state = path.stat()
    return PictureFile(path, name, (name, state.st_size, state.st_mtime_ns))


def spread(items: list, limit: int | None) -> list:
    """`limit` of some items, evenly over the whole; all when None or fewer."""
    if limit is None or limit >= len(items):
        return items
    return [items[place * len(items) // limit] for place in range(limit)]


def read_pictures(files: list[PictureFile], size: int) -> tuple[torch.Tensor, list[int]]:
    """Pictures (n, 3, size, size) in [-1, 1], their middle squares, and which of `files` they are:
    those that can't be read are left out."""
    images, kept = [], []
    for number, file in enumerate(files):
        try:
            images.append(to_tensor(fit_square(open_picture(file.path), size)))
            kept.append(number)
        except (OSError, ValueError) as error:
            logger.warning("left out: %s", error)
    if not images:
        return torch.zeros(0, 3, size, size), kept
    return torch.stack(images), kept  # (n, 3, H, W)
