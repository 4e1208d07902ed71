"""A causal network over blocks of video: several frames and places folded into channels.

Inside a block everything sees everything; blocks see those before them in time only, so a clip may
come in chunks of whole blocks (see `layers.causal`). The output starts at zero: the network
corrects what it is added to. Leaves out on purpose: attention over time, so that a carry never
grows.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from studio.layers.causal import Carry, FactorizedConv3d, FrameNorm
from studio.layers.causal_blocks import AxisAttention, CausalResidualBlock

Block = tuple[int, int, int]


def fold_blocks(x: torch.Tensor, block: Block) -> torch.Tensor:
    """(B, C, T, H, W) to (B, C * n, T / b0, H / b1, W / b2), n the cells of a block."""
    for dim, size in zip((2, 4, 6), block, strict=True):
        x = x.unflatten(dim, (-1, size))  # (B, C, T/b0, b0, H/b1, b1, W/b2, b2) in the end
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def unfold_blocks(x: torch.Tensor, block: Block) -> torch.Tensor:
    """The inverse of `fold_blocks`."""
    x = x.unflatten(1, (-1, *block)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)  # (B, C, T, H, W)


class BlockNet(nn.Module):
    """Residual factorised convolutions over blocks, with attention within each time in the middle.

    Args:
        in_channels, out_channels: C before folding.
        block: frames, rows and columns that are one place.
        dim: width of the network.
        depth: residual blocks.
        attend: whether there is attention in the middle.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        block: Block,
        *,
        dim: int,
        depth: int,
        attend: bool = True,
    ):
        super().__init__()
        self.block = block
        cells = block[0] * block[1] * block[2]
        self.conv_in = nn.Conv3d(in_channels * cells, dim, 1)
        layers: list[nn.Module] = [CausalResidualBlock(dim, dim) for _ in range(depth)]
        if attend:
            layers.insert((depth + 1) // 2, AxisAttention(dim, over_time=False))
        self.layers = nn.ModuleList(layers)
        self.norm_out = FrameNorm(dim)
        self.conv_out = nn.Conv3d(dim, out_channels * cells, 1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor, carry: Carry) -> torch.Tensor:
        """(B, C, T, H, W), whole blocks, to (B, C', T, H, W)."""
        h = self.conv_in(fold_blocks(x, self.block))  # (B, D, t, h, w)
        for layer in self.layers:
            h = layer(h, carry)
        return unfold_blocks(self.conv_out(F.silu(self.norm_out(h))), self.block)


class CausalTrunk(nn.Module):
    """Frames to features and back with causal 3D convolutions that keep every frame.

    Args:
        channels: C of the features, which lie in [-1, 1].
        base: width of the first level; each halving of space doubles it.
        patch: pixels a side folded into channels first.
        halvings: how often space is halved besides.
    """

    def __init__(self, channels: int, base: int, patch: int, halvings: int):
        super().__init__()
        self.patch, self.reduction = (1, patch, patch), patch * 2**halvings
        widths = [base * 2**i for i in range(halvings + 1)]
        self.encode_in = FactorizedConv3d(3 * patch**2, base)
        self.decode_in = FactorizedConv3d(channels, widths[-1])
        self.down = nn.ModuleList(CausalResidualBlock(a, a) for a in widths)
        self.up = nn.ModuleList(CausalResidualBlock(a, a) for a in reversed(widths))
        pairs = list(pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv3d(a, b, (1, 2, 2), (1, 2, 2)) for a, b in pairs)
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose3d(b, a, (1, 2, 2), (1, 2, 2)) for a, b in reversed(pairs)
        )
        self.encode_out = FactorizedConv3d(widths[-1], channels)
        self.decode_out = FactorizedConv3d(base, 3 * patch**2)

    def features(self, video: torch.Tensor, carry: Carry) -> torch.Tensor:
        """(B, 3, T, H, W) to (B, C, T, H / f, W / f) in [-1, 1]."""
        x = self.encode_in(fold_blocks(video, self.patch), carry)
        for i, block in enumerate(self.down):
            x = block(x, carry)
            x = self.shrink[i](x) if i < len(self.shrink) else x  # (B, 2C, T, H/2, W/2)
        return torch.tanh(self.encode_out(F.silu(x), carry))

    def pixels(self, features: torch.Tensor, carry: Carry) -> torch.Tensor:
        """(B, C, T, h, w) to (B, 3, T, f h, f w)."""
        x = self.decode_in(features, carry)
        for i, block in enumerate(self.up):
            x = block(x, carry)
            x = self.enlarge[i](x) if i < len(self.enlarge) else x  # (B, C/2, T, 2h, 2w)
        return unfold_blocks(self.decode_out(F.silu(x), carry), self.patch)
