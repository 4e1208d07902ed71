"""Checkpoints of a training run: written whole or not at all, and enough to go on to the very same
numbers.
"""

import os
import shutil
from pathlib import Path

import torch


def save_checkpoint(folder: Path, state: dict) -> None:
    """Writes `last.pt` through a temporary file in the same folder, then renames it."""
    temporary = folder / ".last.pt"
    torch.save(state, temporary)
    os.replace(temporary, folder / "last.pt")


def load_checkpoint(folder: Path) -> dict | None:
    """The state of `last.pt`, or None when there is none. Reads tensors and plain values only."""
    path = folder / "last.pt"
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def replace_folder(temporary: Path, final: Path) -> None:
    """Puts a finished folder in place of an older one."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(temporary, final)
    shutil.rmtree(old, ignore_errors=True)
