"""The neighbours of every code in a codebook, found once and kept with the model.

What LANTERN (2024, 2410.03355) and the distance filter of grouped decoding read: a table of the
nearest codes, nearest first, and the vectors themselves. It is saved beside a strategy's config.
Left out on purpose: unified vocabularies with an offset; our ids begin at the first code.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

NEIGHBOURS = "neighbours.safetensors"
_CHUNK = 1024  # rows of the distance table at a time


@dataclass(frozen=True)
class Neighbours:
    """A codebook with its neighbours.

    Args:
        codebook: float (V, D).
        nearest: int64 (V, K), nearest first, a code itself left out; ties by the smaller id.
    """

    codebook: torch.Tensor
    nearest: torch.Tensor

    @classmethod
    def build(cls, codebook: torch.Tensor, k: int = 1000) -> "Neighbours":
        """The k nearest codes of each, by euclidean distance; all of them when there are fewer.

        Raises:
            ValueError: not a table of at least two vectors, or k < 1.
        """
        if codebook.ndim != 2 or len(codebook) < 2:
            raise ValueError(f"codebook of shape {tuple(codebook.shape)} must be (V, D) with V > 1")
        if k < 1:
            raise ValueError(f"k {k} must be a whole number >= 1")
        codebook = codebook.detach()
        rows = []
        for first in range(0, len(codebook), _CHUNK):
            part = codebook[first : first + _CHUNK]
            exactly = "donot_use_mm_for_euclid_dist"
            distance = torch.cdist(part.double(), codebook.double(), compute_mode=exactly)
            own = torch.arange(len(part), device=codebook.device)
            distance[own, own + first] = torch.inf
            order = distance.argsort(dim=1, stable=True)  # (R, V)
            rows.append(order[:, : min(k, len(codebook) - 1)])
        return cls(codebook, torch.cat(rows))

    def to(self, device) -> "Neighbours":
        """The same table on another device."""
        return Neighbours(self.codebook.to(device), self.nearest.to(device))

    def save(self, folder: str | Path) -> None:
        """Writes `neighbours.safetensors`, whole or not at all; ids as uint16 where they fit."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        small = torch.uint16 if len(self.codebook) <= 1 << 16 else torch.int32
        tensors = {
            "codebook": self.codebook.cpu().contiguous(),
            "nearest": self.nearest.cpu().to(small).contiguous(),
        }
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        os.close(handle)
        save_file(tensors, temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, folder / NEIGHBOURS)

    @classmethod
    def load(cls, folder: str | Path) -> "Neighbours":
        """Reads what `save` wrote. Raises ValueError when it is absent or of other tensors."""
        path = Path(folder) / NEIGHBOURS
        if not path.is_file():
            raise ValueError(f"{path.parent.name}: has no {NEIGHBOURS}")
        tensors = load_file(path)
        if set(tensors) != {"codebook", "nearest"}:
            raise ValueError(f"{path.parent.name}: {NEIGHBOURS} must hold codebook and nearest")
        return cls(tensors["codebook"], tensors["nearest"].long())
