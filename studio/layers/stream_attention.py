"""The self-attention of causal video transformers that stream block after block.

Wan: Open and Advanced Large-Scale Video Generative Models, 2025, 2503.20314 (its layer: biases, RMS
normalisation of queries and keys over the full width, 3D rotary positions), run causally over a
cache as in Reward Forcing, 2025, 2512.04678. Left out on purpose: cross-attention, the time
embedding's modulation.
"""

import torch
from torch import nn

from studio.layers.attention import attention
from studio.layers.cache import Cache
from studio.layers.norms import RMSNorm
from studio.layers.rope import rotate


class StreamSelfAttention(nn.Module):
    """Attention of a block to itself, both ways, and to all that the cache holds.

    Args:
        dim: D.
        num_heads: H, which divides D.
        eps: of the norms of queries and keys.
    """

    def __init__(self, dim: int, num_heads: int, *, eps: float = 1e-6):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads {num_heads} must divide dim {dim}")
        self.num_heads = num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)

    def forward(self, x: torch.Tensor, *, cache: Cache, layer: int = 0) -> torch.Tensor:
        """A block (B, N, D) to (B, N, D).

        Args:
            cache: one that turns keys itself, with room for the block reserved.
            layer: which of its slabs.
        """
        heads = (self.num_heads, -1)
        q = self.norm_q(self.q(x)).unflatten(-1, heads)  # (B, N, H, D)
        k = self.norm_k(self.k(x)).unflatten(-1, heads)  # (B, N, H, D)
        v = self.v(x).unflatten(-1, heads)  # (B, N, H, D)
        q = rotate(q, cache.query_rope).transpose(1, 2)  # (B, H, N, D)
        keys, values = cache.update(layer, k.transpose(1, 2), v.transpose(1, 2), q=q)
        x = attention(q, keys, values)
        return self.o(x.transpose(1, 2).flatten(2))  # (B, N, D)
