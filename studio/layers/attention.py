"""Attention behind one function, with a plain reference beside every fast path.

Attention Is All You Need, 2017, 1706.03762. Back ends: "sdpa" (torch's fused kernels) and "plain"
(matmul, float32 softmax, matmul), which is also the reference that the others are tested against.
Left out for now: flex, xformers and neighbourhood attention; each becomes one more entry of
`BACKENDS`.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """Softmax attention.

    Args:
        q: (B, H, N, D).
        k, v: (B, K, S, D) with K heads that divide H, each shared by H / K query heads.
        mask: broadcasts to (B, H, N, S); bool, True = may be seen, or a float that is added to the
            scores. Every query must see a key.
        causal: query i sees keys 0 .. S - N + i, aligned to the END, so that the last N of S tokens
            may be asked alone. Not together with `mask`: put it in the mask (`causal_mask`).
        scale: of the scores, 1 / sqrt(D) when None.
        dropout: probability that a weight is dropped.
        backend: "auto", "plain" or "sdpa".

    Returns:
        (B, H, N, D), in v's dtype.

    Raises:
        ValueError: an unknown backend, or `mask` together with `causal`.
    """
    if causal and mask is not None:
        raise ValueError("causal=True can't be combined with mask: make it part of the mask")
    if backend == "auto":
        backend = _choose(q, k)
    if backend not in BACKENDS:
        raise ValueError(f"attention backend {backend!r} must be auto or one of {tuple(BACKENDS)}")
    if k.shape[1] != q.shape[1]:
        groups = q.shape[1] // k.shape[1]
        k = k.repeat_interleave(groups, dim=1)  # (B, H, S, D)
        v = v.repeat_interleave(groups, dim=1)  # (B, H, S, D)
    causal = causal and q.shape[2] > 1
    return BACKENDS[backend](q, k, v, mask, causal, scale or 1 / math.sqrt(q.shape[-1]), dropout)


def _choose(q: torch.Tensor, k: torch.Tensor) -> str:
    """The fused kernel, but on a CPU not for short sequences in half precision: measured at
    2.5 GHz with torch 2.11, 80 tokens, 4 heads of 64, it is 2.5 times slower there."""
    half = q.device.type == "cpu" and q.dtype != torch.float32
    return "plain" if half and q.shape[2] > 1 and k.shape[2] <= 256 else "sdpa"


def _plain(q, k, v, mask, causal, scale, dropout):
    scores = (q * scale) @ k.transpose(-1, -2)  # (B, H, N, S)
    if causal:
        scores = scores + _causal_bias(*scores.shape[-2:], scores.device, scores.dtype)
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -math.inf)
        else:
            scores = scores + mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype)
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights @ v  # (B, H, N, D)


def _sdpa(q, k, v, mask, causal, scale, dropout):
    if causal and q.shape[2] != k.shape[2]:  # the kernel aligns its mask to the start
        mask, causal = _causal_bias(q.shape[2], k.shape[2], q.device, q.dtype), False
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, dropout_p=dropout
    )


BACKENDS: dict[str, Callable[..., torch.Tensor]] = {"plain": _plain, "sdpa": _sdpa}


@functools.lru_cache(maxsize=8)
def _causal_bias(n: int, total: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    # The cache may be filled while decoding and read while training.
    with torch.inference_mode(False), torch.no_grad():
        return mask_bias(causal_mask(n, total, device=device), dtype)[0, 0]  # (n, total)


def causal_mask(
    n: int,
    total: int,
    *,
    starts: torch.Tensor | None = None,
    columns: torch.Tensor | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Which keys n queries may see.

    Args:
        n, total: queries, and keys from position 0.
        starts: int64 (B,), the first query's position in every row; total - n for all when None.
        columns: bool (B, >= total), False at keys that nobody may see but themselves (padding).
        device: where the mask lives, when neither tensor says so.

    Returns:
        bool (B or 1, 1, n, total), True = may be seen. Every query sees its own position.
    """
    given = columns if starts is None else starts
    device = device if given is None else given.device
    keys = torch.arange(total, device=device)
    queries = torch.arange(n, device=device).unsqueeze(0)  # (1, n)
    queries = queries + (total - n if starts is None else starts.unsqueeze(1))  # (B or 1, n)
    queries = queries.unsqueeze(-1)  # (B or 1, n, 1)
    seen = keys <= queries  # (B or 1, n, total)
    if columns is not None:
        seen = seen & columns[:, None, :total] | (keys == queries)
    return seen.unsqueeze(1)  # (B or 1, 1, n, total)


def mask_bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A bool mask, True = may be seen, as a float to add to scores: 0 or -inf. Same shape."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -math.inf)
