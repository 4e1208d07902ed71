"""Residual quantization: each level quantizes what the levels before it left over.

SoundStream, 2021, 2107.03312, and Autoregressive Image Generation using Residual Quantization,
2022, 2203.01941; levels that begin side by side as in Language-Codec, 2024, 2402.12208. Any
quantizer can be a level. Left out on purpose: the choice of how many levels a training step uses,
which is a decision of the training loop; `forward` takes `num_levels`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from studio.outputs import QuantizerOutput
from studio.quantizers.base import straight_through


class ResidualQuantizer(nn.Module):
    """K quantizers in a row.

    Args:
        levels: the quantizers, coarse first; all of one width. Vector quantizers should have
            `l2_norm` off, since what is left over has no length of 1.
        scales: level k sees what is left divided by `scales[k]`, so that quantizers with a fixed
            range (lookup-free, finite scalar) can refine; 1 for each when None.
        parallel: the first so many levels each see a share of the channels of `z` itself, with all
            others set to 0, and answer with a whole vector (Language-Codec's MCRVQ has 3). The
            levels after them see what the sum of those answers left over.
    """

    def __init__(
        self, levels: Sequence[Any], *, scales: Sequence[float] | None = None, parallel: int = 0
    ):
        super().__init__()
        widths = {level.dim for level in levels}
        if len(widths) != 1:
            raise ValueError(f"levels have the widths {sorted(widths)}; exactly one is allowed")
        if scales is not None and len(scales) != len(levels):
            raise ValueError(f"scales has {len(scales)} entries; levels has {len(levels)}")
        if not 0 <= parallel <= len(levels):
            raise ValueError(f"parallel {parallel} must lie between 0 and {len(levels)}")
        self.parallel = parallel
        self.levels = nn.ModuleList(levels)
        self.scales = tuple(scales) if scales is not None else (1.0,) * len(levels)
        self.dim = widths.pop()
        self.codebook_size = max(level.codebook_size for level in levels)

    def forward(self, z: torch.Tensor, *, num_levels: int | None = None) -> QuantizerOutput:
        """Quantize `z` (..., D) with the first `num_levels` levels (all when None).

        `indices` is (..., K); `loss` the mean over the levels; `stats` has those of level k as
        "k/name", and `residual_norm` (K,), the mean length of what each level left over.
        """
        count = self._check(num_levels)
        rest = z.float()
        total = torch.zeros_like(rest)
        indices, losses, norms, stats = [], [], [], {}
        for k in range(count):
            seen = self._share(z.float(), k) if k < self.parallel else rest
            out = self.levels[k](seen / self.scales[k])
            step = out.quantized.detach().float() * self.scales[k]
            total, rest = total + step, rest - step
            indices.append(out.indices)
            losses.append(out.loss)
            norms.append(rest.detach().norm(dim=-1).mean())
            stats |= {f"{k}/{name}": value for name, value in out.stats.items()}
        stats["residual_norm"] = torch.stack(norms)
        quantized = straight_through(z.float(), total).to(z.dtype)
        loss = torch.stack(losses).mean()
        return QuantizerOutput(quantized, torch.stack(indices, -1), loss, stats)

    def lookup(self, indices: torch.Tensor) -> torch.Tensor:
        """The sums of the codes of `indices` (..., k) as vectors (..., D), from the first k <= K
        levels.
        """
        count = self._check(indices.shape[-1])
        levels: list[Any] = list(self.levels)[:count]
        parts = [level.lookup(indices[..., k]) * self.scales[k] for k, level in enumerate(levels)]
        return torch.stack(parts).sum(0)

    def _share(self, z: torch.Tensor, k: int) -> torch.Tensor:
        """`z` (..., D) with zeros outside the share of channels that parallel level k sees."""
        start, stop = (self.dim * n // self.parallel for n in (k, k + 1))
        share = torch.zeros_like(z)
        share[..., start:stop] = z[..., start:stop]
        return share

    def _check(self, num_levels: int | None) -> int:
        if num_levels is None:
            return len(self.levels)
        if not 1 <= num_levels <= len(self.levels):
            raise ValueError(f"num_levels {num_levels} must lie between 1 and {len(self.levels)}")
        return num_levels
