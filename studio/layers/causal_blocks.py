"""The blocks of the Cosmos video tokenizers: residual, and attention over space and over time.

Cosmos World Foundation Model Platform for Physical AI, 2025, 2501.03575. All are causal in time and
take a `Carry`, see `layers.causal`. Left out on purpose: dropout (the releases set it to zero).
"""

import torch
from torch import nn
from torch.nn import functional as F

from studio.layers.attention import attention
from studio.layers.causal import Carry, FactorizedConv3d, FrameNorm


class CausalResidualBlock(nn.Module):
    """Two normalised factorised convolutions beside a shortcut, 1x1x1 where the widths differ."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = FrameNorm(in_channels)
        self.conv1 = FactorizedConv3d(in_channels, out_channels)
        self.norm2 = FrameNorm(out_channels)
        self.conv2 = FactorizedConv3d(out_channels, out_channels)
        differ = in_channels != out_channels
        self.shortcut = nn.Conv3d(in_channels, out_channels, 1) if differ else nn.Identity()

    def forward(self, x: torch.Tensor, carry: Carry) -> torch.Tensor:
        """(B, C, T, H, W) to (B, C', T, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)), carry)  # (B, C', T, H, W)
        h = self.conv2(F.silu(self.norm2(h)), carry)
        return self.shortcut(x) + h


class AxisAttention(nn.Module):
    """One head of self-attention with 1x1x1 projections, added to its input.

    Args:
        channels: C, also the width of the head.
        over_time: each place attends to its own past; otherwise each frame attends to itself.
    """

    def __init__(self, channels: int, *, over_time: bool):
        super().__init__()
        self.over_time = over_time
        self.norm = FrameNorm(channels)
        self.q, self.k, self.v = (nn.Conv3d(channels, channels, 1) for _ in range(3))
        self.proj_out = nn.Conv3d(channels, channels, 1)

    def forward(self, x: torch.Tensor, carry: Carry) -> torch.Tensor:
        """(B, C, T, H, W) to the same."""
        batch, channels, frames, height, width = x.shape
        h = self.norm(x)
        q, k, v = (self._rows(conv(h)) for conv in (self.q, self.k, self.v))  # (R, 1, S, C)
        if self.over_time:
            k, v = carry.grown(self, k, v)
        h = attention(q, k, v, causal=self.over_time).squeeze(1)  # (R, S, C)
        if self.over_time:
            h = h.reshape(batch, height, width, frames, channels).permute(0, 4, 3, 1, 2)
        else:
            h = h.reshape(batch, frames, height, width, channels).permute(0, 4, 1, 2, 3)
        return x + self.proj_out(h)  # (B, C, T, H, W)

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        """One row a place (B*H*W, 1, T, C), or one a frame (B*T, 1, H*W, C)."""
        if self.over_time:
            return x.permute(0, 3, 4, 2, 1).flatten(0, 2).unsqueeze(1)
        return x.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1).unsqueeze(1)


class SpaceTimeAttention(nn.ModuleList):
    """Attention within each frame, then over time at each place."""

    def __init__(self, channels: int):
        super().__init__(
            AxisAttention(channels, over_time=over_time) for over_time in (False, True)
        )

    def forward(self, x: torch.Tensor, carry: Carry) -> torch.Tensor:
        """(B, C, T, H, W) to the same."""
        for layer in self:
            x = layer(x, carry)
        return x


class CausalMiddle(nn.Module):
    """What stands at the lowest resolution: block, attention, block."""

    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = CausalResidualBlock(channels, channels)
        self.attn_1 = SpaceTimeAttention(channels)
        self.block_2 = CausalResidualBlock(channels, channels)

    def forward(self, x: torch.Tensor, carry: Carry) -> torch.Tensor:
        """(B, C, T, H, W) to the same."""
        return self.block_2(self.attn_1(self.block_1(x, carry), carry), carry)
