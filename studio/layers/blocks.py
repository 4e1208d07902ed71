"""Transformer blocks: the pre-norm Llama block and the post-norm BERT block.

LLaMA: Open and Efficient Foundation Language Models, 2023, 2302.13971 (RMSNorm, SwiGLU, rotary
positions, no biases); BERT, 2018, 1810.04805 (LayerNorm after the residual sum, exact GELU,
biases). Both call the same attention. Left out on purpose: drop-path, adaptive normalisation.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from studio.layers.attention import attention
from studio.layers.cache import Cache
from studio.layers.neighborhood import Neighborhood, prefixed_neighborhood_attention
from studio.layers.norms import RMSNorm
from studio.layers.rope import rotate


def dropped(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Dropout that costs nothing where it does nothing: decoding is bound by calls."""
    return F.dropout(x, p) if training and p else x


def swiglu_width(dim: int, multiple_of: int) -> int:
    """Llama's hidden width: 8 / 3 of `dim`, rounded up to a multiple."""
    return -(-int(8 * dim / 3) // multiple_of) * multiple_of


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection, rows q | k | v.

    Args:
        dim: D.
        num_heads: query heads.
        num_kv_heads: key and value heads; as many as query heads when None.
        bias: on both projections.
        out_bias: on the second one, where it differs.
        dropout: of attention weights.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        bias: bool = False,
        out_bias: bool | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        kv_heads = num_kv_heads or num_heads
        if dim % num_heads or num_heads % kv_heads:
            raise ValueError(
                f"num_heads {num_heads} must divide dim {dim} and be a multiple of "
                f"num_kv_heads {kv_heads}"
            )
        self.heads = (num_heads, kv_heads, kv_heads)
        self.head_dim = dim // num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, sum(self.heads) * self.head_dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias if out_bias is None else out_bias)

    def forward(
        self,
        x: torch.Tensor,
        *,
        rope: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        causal: bool = False,
        cache: Cache | None = None,
        layer: int = 0,
        neighborhood: Neighborhood | None = None,
    ) -> torch.Tensor:
        """(B, N, D) to (B, N, D).

        Args:
            rope: rows of a rotary table, see `layers.rope.rotate`.
            mask, causal: see `layers.attention.attention`.
            cache: keys and values of earlier tokens; `layer` says which slab.
            neighborhood: the last rows are a grid whose cells attend within their windows and to
                the rows in front, see `layers.neighborhood`; then `mask` is (B, 1, 1, N).
        """
        batch, n, _ = x.shape
        qkv = self.qkv(x).view(batch, n, -1, self.head_dim)  # (B, N, H + 2K, D)
        if rope is None:
            q, k, v = qkv.split(self.heads, dim=2)
        else:
            turned = self.heads[0] + self.heads[1]
            if cache is not None and cache.turns_keys:
                q, k, v = qkv.split(self.heads, dim=2)
                q = rotate(q, rope)  # (B, N, H, D)
            else:
                qk = rotate(qkv[:, :, :turned], rope)  # (B, N, H + K, D)
                q, k = qk.split(self.heads[:2], dim=2)
                v = qkv[:, :, turned:]
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, N, D)
        if cache is not None:
            k, v = cache.update(layer, k, v, q=q, mask=mask)  # (B, K, S, D)
        dropout = self.dropout if self.training else 0.0
        if neighborhood is not None:
            x = prefixed_neighborhood_attention(q, k, v, neighborhood, mask=mask, dropout=dropout)
        else:
            x = attention(q, k, v, mask=mask, causal=causal, dropout=dropout)
        return self.out(x.transpose(1, 2).flatten(2))  # (B, N, D)


class SwiGLU(nn.Module):
    """`down(silu(gate(x)) * up(x))`, with gate and up fused, rows gate | up.

    GLU Variants Improve Transformer, 2020, 2002.05202.
    """

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * hidden_dim, bias=False)
        self.down = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class GELUFeedForward(nn.Module):
    """`down(gelu(up(x)))` with the exact GELU and biases."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.up = nn.Linear(dim, hidden_dim)
        self.down = nn.Linear(hidden_dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x)))


class LlamaBlock(nn.Module):
    """`x + attention(norm(x))`, then `x + feed_forward(norm(x))`.

    Args:
        dim, num_heads, num_kv_heads: see `SelfAttention`.
        hidden_dim: width of the feed-forward.
        eps: of both norms.
        attention_dropout, residual_dropout, ffn_dropout: of attention weights, and of what the two
            halves add to the stream.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        hidden_dim: int,
        num_kv_heads: int | None = None,
        eps: float = 1e-5,
        attention_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        ffn_dropout: float = 0.0,
    ):
        super().__init__()
        self.attention_norm = RMSNorm(dim, eps)
        self.attention = SelfAttention(
            dim, num_heads, num_kv_heads=num_kv_heads, dropout=attention_dropout
        )
        self.feed_forward_norm = RMSNorm(dim, eps)
        self.feed_forward = SwiGLU(dim, hidden_dim)
        self.residual_dropout = residual_dropout
        self.ffn_dropout = ffn_dropout

    def forward(self, x: torch.Tensor, **options) -> torch.Tensor:
        """(B, N, D) to (B, N, D); options as for `SelfAttention`."""
        seen = self.attention(self.attention_norm(x), **options)
        x = x + dropped(seen, self.residual_dropout, self.training)
        thought = self.feed_forward(self.feed_forward_norm(x))
        return x + dropped(thought, self.ffn_dropout, self.training)


class BertBlock(nn.Module):
    """`norm(x + attention(x))`, then `norm(x + feed_forward(x))`.

    Args:
        dim, num_heads: see `SelfAttention`.
        hidden_dim: width of the feed-forward.
        eps: of both norms.
        dropout, attention_dropout: of what both halves add, and of attention weights.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        hidden_dim: int,
        eps: float = 1e-12,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ):
        super().__init__()
        self.attention = SelfAttention(dim, num_heads, bias=True, dropout=attention_dropout)
        self.attention_norm = nn.LayerNorm(dim, eps)
        self.feed_forward = GELUFeedForward(dim, hidden_dim)
        self.feed_forward_norm = nn.LayerNorm(dim, eps)
        self.dropout = dropout

    def forward(self, x: torch.Tensor, **options) -> torch.Tensor:
        """(B, N, D) to (B, N, D); options as for `SelfAttention`."""
        seen = self.attention(x, **options)
        x = self.attention_norm(x + dropped(seen, self.dropout, self.training))
        thought = self.feed_forward(x)
        return self.feed_forward_norm(x + dropped(thought, self.dropout, self.training))


def init_transformer(model: nn.Module, num_layers: int, *, std: float = 0.02) -> None:
    """Normal weights, zero biases, and pre-norm blocks whose outputs start small (GPT-2's scaling).

    Args:
        model: all its linear maps and embeddings are set.
        num_layers: L; outputs of pre-norm blocks get std / sqrt(2 L).
        std: of everything else.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, LlamaBlock):
            for output in (module.attention.out, module.feed_forward.down):
                nn.init.normal_(output.weight, std=std / math.sqrt(2 * num_layers))
