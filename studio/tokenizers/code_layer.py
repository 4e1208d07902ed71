"""A layer of codes over blocks of features, linear on both sides: part of hierarchical tokenizers.

Finite Scalar Quantization, 2023, 2309.15505, of principal components. Leaves out on purpose: any
network before or after, which are the tokenizer's.
"""

from collections.abc import Sequence

import torch
from torch import nn

from studio.layers.block_net import fold_blocks
from studio.quantizers.fsq import FiniteScalarQuantizer


class CodeLayer(nn.Module):
    """One layer of codes: blocks of features to a few numbers, to levels, and back; all linear.

    Args:
        channels: C of the features.
        stride: frames, rows and columns of features that one code stands for.
        levels: of the finite scalar quantizer.
        spread: what a deviation of 1 becomes before the quantizer's bound.
    """

    def __init__(self, channels: int, stride: Sequence[int], levels: Sequence[int], spread: float):
        super().__init__()
        frames, rows, columns = (int(n) for n in stride)
        self.stride, self.spread = (frames, rows, columns), spread
        self.quantize = FiniteScalarQuantizer(tuple(levels))
        dim = self.quantize.dim
        self.analysis = nn.Conv3d(channels, dim, self.stride, self.stride, bias=False)
        self.synthesis = nn.ConvTranspose3d(dim, channels, self.stride, self.stride, bias=False)

    @torch.no_grad()
    def fit(self, residual: torch.Tensor) -> None:
        """Sets the projections to the principal components of blocks of (B, C, T, h, w)."""
        blocks = fold_blocks(residual.float(), self.stride).movedim(1, -1).flatten(0, 3)  # (M, C*n)
        values, vectors = torch.linalg.eigh(blocks.T @ blocks / len(blocks))
        order = values.argsort(descending=True)[: self.quantize.dim]
        deviations = values[order].clamp(min=1e-12).sqrt()[:, None]
        components = vectors.T[order]  # (D, C*n)
        shape = self.analysis.weight.shape
        self.analysis.weight.copy_((components / deviations * self.spread).view(shape))
        self.synthesis.weight.copy_((components * deviations / self.spread).view(shape))

    def encode(self, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, C, T, h, w) to codes int64 (B, t, h', w') and levels (B, D, t, h', w')."""
        out = self.quantize(self.analysis(residual).movedim(1, -1))
        return out.indices, out.quantized.movedim(-1, 1)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes int64 (B, t, h', w') to levels (B, D, t, h', w')."""
        return self.quantize.lookup(codes).movedim(-1, 1).to(self.synthesis.weight.dtype)

    def decode(self, quantized: torch.Tensor) -> torch.Tensor:
        """Levels (B, D, t, h', w') to features (B, C, T, h, w)."""
        vectors = self.quantize.unbound(quantized.movedim(1, -1)).movedim(-1, 1)
        return self.synthesis(vectors)
