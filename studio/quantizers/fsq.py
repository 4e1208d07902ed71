"""Finite scalar quantization: every dimension is rounded to one of a few levels.

Source: "Finite Scalar Quantization: VQ-VAE Made Simple" (2023), arXiv 2309.15505. There is no
codebook to learn, no loss and nothing that can die. Leaves out on purpose: projections in and out,
which belong to the networks.
"""

import math

import torch
from torch import nn

from studio.outputs import QuantizerOutput


class FiniteScalarQuantizer(nn.Module):
    """Rounds each of D dimensions to its own number of levels.

    Args:
        levels: levels a dimension, each >= 2; the codebook size is their product.
        margin: by how much the bound exceeds the outermost level, so that rounding can reach it.
    """

    _levels: torch.Tensor
    _basis: torch.Tensor

    def __init__(self, levels: list[int] | tuple[int, ...], *, margin: float = 1e-3):
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"levels {list(levels)} must hold numbers >= 2")
        self.levels = tuple(int(n) for n in levels)
        self.margin = margin
        self.dim = len(self.levels)
        self.codebook_size = math.prod(self.levels)
        basis = [math.prod(self.levels[:i]) for i in range(self.dim)]
        self.register_buffer("_levels", torch.tensor(self.levels), persistent=False)
        self.register_buffer("_basis", torch.tensor(basis), persistent=False)

    def bound(self, z: torch.Tensor) -> torch.Tensor:
        """Squashes z (..., D) so that rounding it gives exactly `levels` integers a dimension."""
        levels = self._levels.to(z)
        half = (levels - 1) * (1 + self.margin) / 2
        offset = 0.5 * (1 - levels % 2)
        return torch.tanh(z + torch.atanh(offset / half)) * half - offset

    def unbound(self, quantized: torch.Tensor, *, shrink: float = 0.93) -> torch.Tensor:
        """About the z (..., D) that a quantized vector (..., D) came from. The outermost levels are
        open to infinity; `shrink` below 1 puts them at their likely mean.
        """
        levels = self._levels.to(quantized)
        half, offset = (levels - 1) / 2, 0.5 * (1 - levels % 2)
        inner = (quantized * (levels // 2) + offset) / half  # in [-1, 1]
        return torch.atanh(inner * shrink) - torch.atanh(offset / half * shrink)

    def forward(self, z: torch.Tensor) -> QuantizerOutput:
        """Quantizes z (..., D). `quantized` lies in [-1, 1] on the grid of levels; `indices` is
        (...).
        """
        bounded = self.bound(z.float())
        rounded = bounded + (bounded.round() - bounded).detach()
        half = (self._levels // 2).to(bounded)
        digits = (rounded.detach() + half).round().long()
        indices = (digits * self._basis).sum(-1)  # (...)
        return QuantizerOutput((rounded / half).to(z.dtype), indices, z.new_zeros(()))

    def digits(self, indices: torch.Tensor) -> torch.Tensor:
        """The level number of every dimension: int64 (...) to (..., D), the first dimension the
        fastest.
        """
        return (indices[..., None] // self._basis) % self._levels  # (..., D)

    def lookup(self, indices: torch.Tensor) -> torch.Tensor:
        """The vectors of ids: int64 (...) to float32 (..., D)."""
        half = self._levels // 2
        return (self.digits(indices) - half).float() / half
