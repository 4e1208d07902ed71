"""What commands that run a model do first: pick the device, load it."""

import re
import sys
from pathlib import Path
from typing import Any

DEVICES = ("auto", "cpu", "cuda", "mps")


def check_device(device: str) -> None:
    """Raises ValueError unless `device` is one of `DEVICES`, with a number behind cuda allowed."""
    if not re.fullmatch(rf"({'|'.join(DEVICES)}|cuda:\d)", device):
        raise ValueError(f"--device {device!r} must be one of {', '.join(DEVICES)}")


def pick_device(device: str) -> str:
    """The torch device for `--device`; "auto" takes a GPU when there is one. Imports torch."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.split(":")[0], True):
        raise ValueError(f"--device {device!r}: torch finds no such device here")
    return device


def load(cls_name: str, folder: Path, *, device: str = "auto", **options: Any):
    """A pipeline from a folder, on its device, with a progress bar only where someone sees it.

    Args:
        cls_name: "Pipeline" for whatever the folder names, or a pipeline class.
        options: as in `StudioPipeline.from_pretrained`.
    """
    from studio import hub
    from studio.registry import find_class

    hub.import_diffusers()
    pipe = find_class(cls_name).from_pretrained(str(folder), **options).to(pick_device(device))
    pipe.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
    return pipe
