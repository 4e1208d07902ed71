"""Data sets by name, as recipes ask for them."""

from typing import Any, Protocol

import torch

from studio.data.emoji import EmojiImages
from studio.data.folder import FolderImages
from studio.data.motion import MotionClips
from studio.data.speech import SpokenSentences

KINDS = {
    "emoji": EmojiImages,
    "folder": FolderImages,
    "motion": MotionClips,
    "speech": SpokenSentences,
}


class CaptionedImages(Protocol):
    """What training needs of a data set: items that are a pure function of their index."""

    size: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]: ...

    def caption(self, index: int) -> str: ...

    def batch(self, start: int, count: int) -> tuple[torch.Tensor, list[str]]: ...


def make_dataset(spec: dict[str, Any], **changes: Any) -> CaptionedImages:
    """A data set from `{"kind": ..., **arguments}`; `changes` win. Raises ValueError on unknown
    names.
    """
    arguments = {**spec, **changes}
    kind = arguments.pop("kind", "emoji")
    if kind not in KINDS:
        raise ValueError(f"data kind {kind!r} must be one of {', '.join(KINDS)}")
    try:
        return KINDS[kind](**arguments)
    except TypeError as error:
        raise ValueError(f"data of kind {kind!r}: {error}") from None
