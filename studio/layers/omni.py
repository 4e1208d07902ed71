"""The transformers of OmniTokenizer: attention over a frame, within windows, and over time.

OmniTokenizer: A Joint Image-Video Tokenizer for Visual Generation, 2024, 2406.09399. What looks odd
is how the released weights were trained, and is kept: keys and values see the input before the
norm; cosine attention is sharpened by 8; the position convolution of the temporal transformer reads
its rows in an order that scrambles places (which is why nothing here is causal from end to end).
Left out on purpose: relative position biases, which exist in the files and never run.
"""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from studio.layers.attention import attention
from studio.layers.rope import rotate

COSINE_SCALE = 8.0


class ShiftedNorm(nn.Module):
    """Layer normalisation whose weight learns and whose bias is a stored constant."""

    bias: torch.Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.register_buffer("bias", torch.zeros(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) to the same."""
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias)


class PositionConv(nn.Conv3d):
    """A depthwise 3x3x3 convolution that is added, looking back in time only: it says where a
    token stands.
    """

    def __init__(self, dim: int):
        super().__init__(dim, dim, 3, groups=dim)

    def forward(self, x: torch.Tensor, shape: tuple[int, int, int, int]) -> torch.Tensor:
        """Rows of any order (R, S, D), read as (B, t, h, w, D) without moving anything."""
        video = x.reshape(*shape, -1).movedim(-1, 1)  # (B, D, t, h, w)
        video = super().forward(F.pad(video, (1, 1, 1, 1, 2, 0)))
        return x + video.movedim(1, -1).reshape(x.shape)


class CosineAttention(nn.Module):
    """Attention on unit vectors with a learned weight for each channel of a head.

    Args:
        dim: D.
        heads, head_dim: H, and channels of a head.
        causal: a row sees itself and what comes before.
        rotary: queries and keys are turned by their place in a square.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, *, causal: bool, rotary: bool):
        super().__init__()
        self.heads, self.causal, self.rotary = heads, causal, rotary
        self.norm = ShiftedNorm(dim)
        self.q = nn.Linear(dim, heads * head_dim, bias=False)
        self.kv = nn.Linear(dim, 2 * heads * head_dim, bias=False)
        self.q_scale = nn.Parameter(torch.ones(head_dim))
        self.k_scale = nn.Parameter(torch.ones(head_dim))
        self.out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, S, D) to the same."""
        k, v = self.kv(x).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (self.q(self.norm(x)), k, v))
        if self.rotary:  # before the weights of the channels
            table = square_table(x.shape[1], q.shape[-1]).to(x.device)
            q, k = rotate(q, table), rotate(k, table)
        q = F.normalize(q, dim=-1) * self.q_scale  # (R, S, H, d)
        k = F.normalize(k, dim=-1) * self.k_scale
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (R, H, S, d)
        out = attention(q, k, v, causal=self.causal, scale=COSINE_SCALE)
        return self.out(out.transpose(1, 2).flatten(2))  # (R, S, D)


class WindowAttention(nn.Module):
    """Attention within square windows of a frame, with a learned bias for each distance.

    Swin Transformer, 2021, 2103.14030; the windows do not shift here.
    """

    def __init__(self, dim: int, heads: int, window: int):
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = ShiftedNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, S, D) to the same; S is a square whose side is a multiple of the window."""
        side, window = int(x.shape[1] ** 0.5), self.window
        if side % window:
            raise ValueError(f"frames of {side}x{side} patches must be a multiple of {window}")
        grid = self.norm(x).reshape(-1, side // window, window, side // window, window, x.shape[-1])
        rows = grid.transpose(2, 3).reshape(-1, window * window, x.shape[-1])  # (R*n*n, w*w, D)
        q, k, v = self.qkv(rows).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.bias_table[distance_index(window).to(x.device)]  # (w*w, w*w, H)
        out = attention(q, k, v, mask=bias.permute(2, 0, 1)[None].to(x.dtype))
        out = self.proj(out.transpose(1, 2).flatten(2))  # (R*n*n, w*w, D)
        out = out.reshape(grid.transpose(2, 3).shape).transpose(2, 3)  # (R, n, w, n, w, D)
        return out.reshape(x.shape)


class GatedFeedForward(nn.Module):
    """`down(a * gelu(b))` of a normalised input, a and b the halves of `up`."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) to the same."""
        value, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        return self.down(value * F.gelu(gate))


class OmniLayer(nn.Module):
    """Position convolution and full attention, or window attention; then the feed-forward."""

    def __init__(self, attend: nn.Module, position: nn.Module | None, feed: nn.Module):
        super().__init__()
        self.position, self.attention, self.feed_forward = position, attend, feed

    def forward(self, x: torch.Tensor, shape: tuple[int, int, int, int]) -> torch.Tensor:
        """(R, S, D) to the same; `shape` is (B, t, h, w)."""
        if self.position is not None:
            x = self.position(x, shape)
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class OmniTransformer(nn.Module):
    """Layers and a norm at the end.

    Args:
        kinds: one letter a layer: "t" full attention, "w" attention within windows.
        dim, heads, head_dim, hidden: widths; hidden is of the feed-forward.
        window: side of a window.
        causal, rotary: of full attention.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        dim: int,
        heads: int,
        head_dim: int,
        hidden: int,
        *,
        window: int = 8,
        causal: bool = False,
        rotary: bool = False,
    ):
        super().__init__()
        if set(kinds) - {"t", "w"}:
            raise ValueError(f"layers {''.join(kinds)!r} must be made of the letters t and w")
        layers = []
        for kind in kinds:
            if kind == "t":
                attend = CosineAttention(dim, heads, head_dim, causal=causal, rotary=rotary)
                layer = OmniLayer(attend, PositionConv(dim), GatedFeedForward(dim, hidden))
            else:
                attend = WindowAttention(dim, heads, window)
                layer = OmniLayer(attend, None, GatedFeedForward(dim, hidden))
            layers.append(layer)
        self.layers = nn.ModuleList(layers)
        self.norm_out = ShiftedNorm(dim)

    def forward(self, x: torch.Tensor, shape: tuple[int, int, int, int]) -> torch.Tensor:
        """(R, S, D) to the same; `shape` is (B, t, h, w)."""
        for layer in self.layers:
            x = layer(x, shape)
        return self.norm_out(x)


@functools.lru_cache(maxsize=16)
def square_table(cells: int, head_dim: int) -> torch.Tensor:
    """Rotations of a square in raster order, complex64 (S, d / 2): pairs turn with the column and
    the row in turn.
    """
    side = int(cells**0.5)
    place = torch.arange(cells)
    places = torch.stack((place % side, place // side), dim=-1).float()  # (S, 2)
    frequencies = 10000 ** (-torch.arange(0, head_dim, 4)[: head_dim // 4].float() / head_dim)
    angles = (places[:, None, :] * frequencies[None, :, None]).flatten(1)  # (S, d / 2)
    return torch.polar(torch.ones_like(angles), angles)


@functools.lru_cache(maxsize=16)
def distance_index(window: int) -> torch.Tensor:
    """The row of the bias table for every pair of cells of a window, (w*w, w*w)."""
    cells = torch.cartesian_prod(torch.arange(window), torch.arange(window))  # (w*w, 2)
    apart = cells[:, None] - cells[None] + window - 1  # (w*w, w*w, 2)
    return apart[..., 0] * (2 * window - 1) + apart[..., 1]
