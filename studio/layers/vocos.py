"""The Vocos backbone: a network over frames that keeps their rate.

Vocos: Closing the gap between time-domain and Fourier-based neural vocoders, 2023, 2306.00814:
ConvNeXt blocks (2201.03545) in one dimension. WavTokenizer (2408.16532) puts residual blocks and
one attention in front of them; the code lists that part late and runs it first. Left out on
purpose: the variant of the paper made of residual convolutions alone.
"""

import torch
from torch import nn
from torch.nn import functional as F

from studio.layers.attention import attention

_EPS = 1e-6


class AdaptiveLayerNorm(nn.Module):
    """Layer normalisation whose scale and shift are looked up by a condition id.

    Args:
        num_conditions: how many ids there are.
        dim: D, the last axis.
    """

    def __init__(self, num_conditions: int, dim: int):
        super().__init__()
        self.scale = nn.Embedding(num_conditions, dim)
        self.shift = nn.Embedding(num_conditions, dim)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """(B, T, D) and ids (1,) or (B,) to (B, T, D)."""
        scale, shift = self.scale(condition)[:, None], self.shift(condition)[:, None]
        return F.layer_norm(x, x.shape[-1:], eps=_EPS) * scale + shift


class FrameNorm(nn.LayerNorm):
    """Layer normalisation that takes a condition and has no use for it."""

    def __init__(self, dim: int):
        super().__init__(dim, eps=_EPS)

    def forward(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        return super().forward(x)


def _norm(num_conditions: int, dim: int) -> AdaptiveLayerNorm | FrameNorm:
    return AdaptiveLayerNorm(num_conditions, dim) if num_conditions else FrameNorm(dim)


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution over 7 frames and two linear maps, beside the identity.

    Args:
        dim, hidden_dim: outer and inner width.
        scale: start of `gamma`, which weighs what the block adds.
        num_conditions: of the norm; 0 for an ordinary one.
    """

    reach = 3

    def __init__(self, dim: int, hidden_dim: int, *, scale: float, num_conditions: int = 0):
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = _norm(num_conditions, dim)
        self.up = nn.Linear(dim, hidden_dim)
        self.down = nn.Linear(hidden_dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """(B, D, T) to (B, D, T)."""
        h = self.norm(self.depthwise(x).transpose(1, 2), condition)  # (B, T, D)
        h = self.gamma * self.down(F.gelu(self.up(h)))
        return x + h.transpose(1, 2)  # (B, D, T)


class FrameResidualBlock(nn.Module):
    """Two normalised convolutions over 3 frames, beside the identity."""

    def __init__(self, dim: int, *, dropout: float = 0.1):
        super().__init__()
        self.norm1 = nn.GroupNorm(32, dim, eps=_EPS)
        self.conv1 = nn.Conv1d(dim, dim, 3, padding=1)
        self.norm2 = nn.GroupNorm(32, dim, eps=_EPS)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv1d(dim, dim, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, D, T) to (B, D, T)."""
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(self.dropout(F.silu(self.norm2(h))))


class FrameAttention(nn.Module):
    """One head of attention over all frames, without positions, beside the identity."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, dim, eps=_EPS)
        self.q, self.k, self.v = (nn.Conv1d(dim, dim, 1) for _ in range(3))
        self.out = nn.Conv1d(dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, D, T) to (B, D, T)."""
        h = self.norm(x)
        q, k, v = (part(h).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        seen = attention(q, k, v)[:, 0].transpose(1, 2)  # (B, D, T)
        return x + self.out(seen)


class VocosBackbone(nn.Module):
    """Features (B, C, T) to hidden frames (B, T, D).

    Args:
        in_channels: C.
        dim, hidden_dim, num_layers: of the ConvNeXt blocks.
        num_conditions: adaptive norms with so many ids; 0 for ordinary norms.
        use_attention: put WavTokenizer's residual blocks and attention in front. They see the whole
            clip, so that what comes out depends on its length; D must be a multiple of 32.
        dropout: inside those residual blocks.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        hidden_dim: int,
        num_layers: int,
        *,
        num_conditions: int = 0,
        use_attention: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__()
        if use_attention and dim % 32:
            raise ValueError(f"backbone dim {dim} must be a multiple of 32 with attention")
        self.embed = nn.Conv1d(in_channels, dim, 7, padding=3)
        self.context = nn.Sequential()
        if use_attention:
            first, second, third, fourth = (
                FrameResidualBlock(dim, dropout=dropout) for _ in range(4)
            )
            last = nn.GroupNorm(32, dim, eps=_EPS)
            self.context = nn.Sequential(first, second, FrameAttention(dim), third, fourth, last)
        self.norm = _norm(num_conditions, dim)
        options = {"scale": 1 / num_layers, "num_conditions": num_conditions}
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(dim, hidden_dim, **options) for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(dim, eps=_EPS)
        self.num_conditions = num_conditions
        for module in self.modules():
            if isinstance(module, nn.Linear) or type(module) is nn.Conv1d:
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def reach(self) -> int | None:
        """Frames on each side that a frame depends on; None with attention, which sees them all."""
        return None if len(self.context) else 3 + ConvNeXtBlock.reach * len(self.blocks)

    def forward(self, x: torch.Tensor, condition: int | torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, T) to (B, T, D).

        Args:
            x: the features.
            condition: an id, or ids (B,), for adaptive norms; 0 when None.

        Raises:
            ValueError: an id that there is no norm for.
        """
        x = self.context(self.embed(x))  # (B, D, T)
        ids = self._ids(condition, x.device)
        x = self.norm(x.transpose(1, 2), ids).transpose(1, 2)
        for block in self.blocks:
            x = block(x, ids)
        return self.norm_out(x.transpose(1, 2))  # (B, T, D)

    def _ids(self, condition, device: torch.device) -> torch.Tensor | None:
        if not self.num_conditions:
            if condition is not None:
                raise ValueError(f"condition {condition}: the norms of this backbone take none")
            return None
        if isinstance(condition, torch.Tensor):
            return condition.to(device).reshape(-1)  # (1,) or (B,)
        number = condition or 0
        if not 0 <= number < self.num_conditions:
            raise ValueError(f"condition {number} must lie between 0 and {self.num_conditions - 1}")
        return torch.tensor([number], device=device)
