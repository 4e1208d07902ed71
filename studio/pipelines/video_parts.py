"""What video pipelines give and take: clips, previews of them, jobs, and how parts of a long clip
join."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput

from studio.layers.sink_memory import SinkMemory
from studio.media.image import to_pil_list
from studio.outputs import DecodeStats
from studio.pipelines.generation import Job

FPS = 8.0  # of the clips that the bundled model was trained on
RAW = "raw"  # output type within a job: float clips (B, T, 3, H, W) in [-1, 1]


@dataclass
class VideoOutput(BaseOutput):
    """What video pipelines return. Fields that are None vanish from the tuple.

    Args:
        frames: one entry a sample: a list of PIL images ("pil"), or arrays (B, T, H, W, 3) or a
            tensor (B, T, 3, H, W) in [0, 1]; None for `output_type="tokens"`.
        tokens: int64 (B, N), on the CPU; those of all parts one after the other.
        stats: what decoding cost.
        fps: frames a second.
    """

    frames: Any = None
    tokens: torch.Tensor | None = None
    stats: DecodeStats | None = None
    fps: float = FPS


@dataclass
class VideoPreview:
    """A clip on the way, as `stream` yields it.

    Args:
        frames: as in `VideoOutput`, from the layers that are whole; None before the first is.
        layers: how many those are.
        tokens, known: int64 and bool (B, N), copies: the tokens so far and where they are.
        step, num_steps, passes: as in `DecodeState`.
        part, num_parts: which part of a long clip this is.
    """

    frames: Any
    layers: int
    tokens: torch.Tensor
    known: torch.Tensor
    step: int
    num_steps: int
    passes: int
    part: int = 0
    num_parts: int = 1


@dataclass(frozen=True)
class VideoJob(Job):
    """A checked call that makes `num_frames` frames.

    Args:
        plan: coarse tokens of the whole clip first.
        memory: what the parts of a long clip remember of those before; None for nothing.
    """

    num_frames: int = 0
    plan: bool = False
    memory: SinkMemory | None = None


def to_frames(clips: torch.Tensor | None, output_type: str) -> Any:
    """Clips (B, T, 3, H, W) in [-1, 1] as `VideoOutput.frames` has them; None for None."""
    if clips is None or output_type == RAW:
        return clips
    if output_type == "pil":
        return [to_pil_list(clip) for clip in clips]
    frames = clips.float().clamp(-1, 1) / 2 + 0.5
    return frames.permute(0, 1, 3, 4, 2).cpu().numpy() if output_type == "np" else frames


def blended(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Two takes (B, T, 3, H, W) of the same frames as one that goes from the first to the
    second."""
    count = before.shape[1]
    share = torch.arange(1, count + 1, device=after.device) / (count + 1)
    return torch.lerp(before, after, share[:, None, None, None].to(after.dtype))


def joined(outputs: Sequence[VideoOutput], seconds: float) -> VideoOutput:
    """One output of all parts, which follow each other."""
    parts = [output.frames for output in outputs if output.frames is not None]
    frames: Any = None
    if parts:
        if isinstance(parts[0], list):
            frames = [[f for clip in clips for f in clip] for clips in zip(*parts, strict=True)]
        elif isinstance(parts[0], torch.Tensor):
            frames = torch.cat(parts, 1)
        else:
            frames = np.concatenate(parts, 1)
    tokens = [output.tokens for output in outputs if output.tokens is not None]
    stats = summed([output.stats for output in outputs if output.stats is not None])
    return VideoOutput(
        frames=frames, tokens=torch.cat(tokens, 1), stats=replace(stats, seconds=seconds)
    )


def summed(stats: Sequence[DecodeStats]) -> DecodeStats:
    """What several parts cost together."""
    names = ("steps", "passes", "tokens", "seconds", "proposed", "accepted")
    return replace(stats[-1], **{name: sum(getattr(s, name) for s in stats) for name in names})
