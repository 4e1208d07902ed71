"""Checkpoints of a training run: written whole or not at all, and enough to go on to the very same
numbers.
"""

from pathlib import Path

import torch

from studio.media.files import atomic_path


def save_checkpoint(folder: Path, state: dict) -> None:
    """Writes `last.pt`, whole or not at all."""
    # An open file, not a path: only then does torch tell what the disk said.
    with atomic_path(folder / "last.pt") as temporary, open(temporary, "wb") as file:
        torch.save(state, file)


def load_checkpoint(folder: Path) -> dict | None:
    """The state of `last.pt`, or None when there is none. Reads tensors and plain values only."""
    path = folder / "last.pt"
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
