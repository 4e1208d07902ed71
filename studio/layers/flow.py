"""Conditional flow matching over frames: paths, steps, and a network that gives velocities.

Flow Matching for Generative Modeling, 2022, 2210.02747, as CosyVoice does it (2024, 2407.05407):
straight paths, Euler steps that are short at first, guidance without a classifier. The network is
ConvNeXt blocks told the time. Leaves out on purpose: CosyVoice's U-Net with attention; blocks of a
bounded reach are enough for tokens that say when everything is spoken.
"""

import functools
import itertools
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from studio.layers.vocos import ConvNeXtBlock

SIGMA = 1e-6  # what is left of the noise at the end
_FREQUENCIES = 32
_FRAMES = 4096


def straight_path(
    target: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points on the way from noise to target, and the velocity there.

    Args:
        target, noise: (B, ...). times: (B,), 0 at the noise, 1 at the target.
    """
    t = times.view(-1, *[1] * (target.ndim - 1))
    point = (1 - (1 - SIGMA) * t) * noise + t * target
    return point, target - (1 - SIGMA) * noise


def cosine_times(steps: int) -> list[float]:
    """`steps` + 1 times from 0 to 1, dense at first."""
    return [1 - math.cos(math.pi / 2 * i / steps) for i in range(steps)] + [1.0]


def integrate(
    velocity: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    noise: torch.Tensor,
    *,
    steps: int,
) -> torch.Tensor:
    """Euler steps along `velocity(x, times (B,))` from noise (B, ...) to time 1."""
    x, times = noise, cosine_times(steps)
    for now, after in itertools.pairwise(times):
        x = x + (after - now) * velocity(x, x.new_full((len(x),), now))
    return x


@functools.lru_cache(maxsize=4)
def _table(channels: int) -> torch.Tensor:
    return torch.randn(_FRAMES, channels, generator=torch.Generator().manual_seed(0))


def fixed_noise(channels: int, frames: int, device: torch.device) -> torch.Tensor:
    """The noise that every sound begins from, (1, C, F): frame i is always the same, so that a
    piece begins as the whole does."""
    rows = torch.arange(frames) % _FRAMES
    return _table(channels)[rows].T[None].to(device)  # (1, C, F)


class FlowEstimator(nn.Module):
    """Velocities of frames.

    Args:
        channels: C, of what is made.
        context: channels of what is known beside it.
        dim, hidden_dim, num_layers: of the blocks.
    """

    def __init__(self, channels: int, context: int, dim: int, hidden_dim: int, num_layers: int):
        super().__init__()
        self.read = nn.Conv1d(channels + context, dim, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(2 * _FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))
        scale = 1 / math.sqrt(max(1, num_layers))
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(dim, hidden_dim, scale=scale) for _ in range(num_layers)
        )
        self.shifts = nn.ModuleList(nn.Linear(dim, dim) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, channels)

    def forward(self, x: torch.Tensor, times: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Points (B, C, F) at times (B,) to velocities (B, C, F); context (B, C', F)."""
        places = torch.arange(_FREQUENCIES, device=x.device) / _FREQUENCIES
        turns = times[:, None].float() * 1000 * torch.exp(-math.log(10_000.0) * places)
        told = self.time(torch.cat([turns.sin(), turns.cos()], -1).to(self.norm.weight.dtype))
        h = self.read(torch.cat([x, context], 1))  # (B, D, F)
        for block, shift in zip(self.blocks, self.shifts, strict=True):
            h = block(h + shift(F.silu(told))[..., None])
        return self.out(self.norm(h.transpose(1, 2))).transpose(1, 2)  # (B, C, F)
