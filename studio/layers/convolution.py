"""The convolutional networks of MaskGIT-VQGAN, which TiTok and One-D-Piece share as their pixel
decoder.

MaskGIT: Masked Generative Image Transformer, 2022, 2202.04200, in the PyTorch form that TiTok
(2406.07550) uses. Left out on purpose: attention (the network has none) and dropout (the releases
set it to zero).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


class MaskGITResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions without bias.

    Where the widths differ, the 1x1 shortcut is fed by the branch and the block's input is not
    added at all. It looks wrong, and the released weights were trained with it.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(32, in_channels, eps=1e-6)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(32, out_channels, eps=1e-6)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        differ = in_channels != out_channels
        self.shortcut = nn.Conv2d(out_channels, out_channels, 1, bias=False) if differ else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))  # (B, C, H, W)
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.shortcut is None else self.shortcut(h))


class MaskGITLevel(nn.Module):
    """The residual blocks of one resolution, and a convolution after doubling where asked."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, *, upsample: bool = False):
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.blocks = nn.ModuleList(MaskGITResidualBlock(a, b) for a, b in pairwise(widths))
        self.upsample = nn.Conv2d(out_channels, out_channels, 3, padding=1) if upsample else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        if self.upsample is not None:
            x = self.upsample(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # (B, C, 2H, 2W)
        return x


class MaskGITEncoder(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to latents (B, z, H/f, W/f), f = 2^(number of levels - 1).

    Args:
        base: width before the first level.
        multipliers: width of each level over `base`, finest first.
        blocks: residual blocks a level, and in the middle.
        z_channels: z.
    """

    def __init__(self, base: int, multipliers: Sequence[int], blocks: int, z_channels: int):
        super().__init__()
        widths = [base] + [base * m for m in multipliers]
        self.conv_in = nn.Conv2d(3, base, 3, padding=1, bias=False)
        self.levels = nn.ModuleList(MaskGITLevel(a, b, blocks) for a, b in pairwise(widths))
        self.mid = nn.Sequential(
            *(MaskGITResidualBlock(widths[-1], widths[-1]) for _ in range(blocks))
        )
        self.norm_out = nn.GroupNorm(32, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for i, level in enumerate(self.levels):
            x = level(x if i == 0 else F.avg_pool2d(x, 2))  # (B, C, H/2, W/2)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class MaskGITDecoder(nn.Module):
    """Latents (B, z, h, w) to images (B, 3, f h, f w), about [0, 1], not clamped. See the encoder
    for the arguments.

    `levels[i]` stands at resolution i as in the official files, so the last one runs first.
    """

    def __init__(self, base: int, multipliers: Sequence[int], blocks: int, z_channels: int):
        super().__init__()
        widths = [base * m for m in multipliers]
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = nn.Sequential(
            *(MaskGITResidualBlock(widths[-1], widths[-1]) for _ in range(blocks))
        )
        before = widths[1:] + widths[-1:]
        self.levels = nn.ModuleList(
            MaskGITLevel(before[i], width, blocks, upsample=i > 0) for i, width in enumerate(widths)
        )
        self.norm_out = nn.GroupNorm(32, widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.levels):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))
