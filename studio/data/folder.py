"""A user's own folder of captioned pictures.

Captions come from `captions.csv` (columns file, caption), `captions.jsonl` (the same as fields), or
a text file beside each picture with the same stem. Pictures are cropped to the middle square and
resized.
"""

import csv
import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from studio.media.image import read_image

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class FolderImages:
    """Captioned pictures of a folder, in an order shuffled anew each epoch by seed alone.

    Args:
        path: the folder.
        size: side of the pictures in pixels.
        split: "train", "heldout" (every `holdout`-th picture) or "all".
        holdout: of how many pictures one is held out.
        seed: of the order.
    """

    path: str
    size: int = 64
    split: str = "all"
    holdout: int = 20
    seed: int = 0

    def items(self) -> list[tuple[str, str]]:
        """(path, caption) of every picture of the split. Raises ValueError when there is none."""
        found = _captions(self.path)
        if self.split != "all":
            found = [
                x
                for i, x in enumerate(found)
                if (i % self.holdout == 0) == (self.split == "heldout")
            ]
        if not found:
            raise ValueError(
                f"path {self.path!r} holds no picture with a caption (split {self.split})"
            )
        return found

    def __len__(self) -> int:
        """Pictures an epoch."""
        return len(self.items())

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        """Picture float (3, size, size) in [-1, 1], and its caption."""
        path, caption = self._item(index)
        image = read_image(path)
        image = image.reshape(1, 3, *image.shape[-2:])
        side = min(image.shape[-2:])
        top, left = (image.shape[-2] - side) // 2, (image.shape[-1] - side) // 2
        square = image[..., top : top + side, left : left + side]
        resized = F.interpolate(square, (self.size, self.size), mode="bilinear", antialias=True)
        return resized[0].clamp(-1, 1), caption

    def caption(self, index: int) -> str:
        """The caption of an item, without reading its picture."""
        return self._item(index)[1]

    def _item(self, index: int) -> tuple[str, str]:
        items = self.items()
        epoch, place = divmod(index, len(items))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(items))
        return items[order[place]]

    def batch(self, start: int, count: int) -> tuple[torch.Tensor, list[str]]:
        """Pictures (count, 3, size, size) and captions of `count` consecutive indices."""
        items = [self[i] for i in range(start, start + count)]
        return torch.stack([image for image, _ in items]), [
            caption for _, caption in items
        ]  # (B, 3, H, W)


@functools.lru_cache(maxsize=4)
def _captions(folder: str) -> list[tuple[str, str]]:
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"path {folder!r} is not a folder")
    rows = []
    if (table := root / "captions.csv").exists():
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    elif (table := root / "captions.jsonl").exists():
        rows = [json.loads(x) for x in table.read_text(encoding="utf-8").splitlines() if x.strip()]
    if rows:
        return [(str(root / row["file"]), row["caption"]) for row in rows]
    pairs = []
    for path in sorted(root.rglob("*")):
        text = path.with_suffix(".txt")
        if path.suffix.lower() in ENDINGS and text.exists():
            pairs.append((str(path), text.read_text(encoding="utf-8").strip()))
    return pairs
