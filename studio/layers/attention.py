"""Attention behind one function, with a plain reference beside every fast path.

Attention Is All You Need, 2017, 1706.03762. Back ends: "plain" (matmul, float32 softmax, matmul),
which is also the reference that the others are tested against; "sdpa", torch's fused kernels;
"flex", FlexAttention, compiled on a GPU; "xformers", memory-efficient attention on a GPU. The last
two are tried on a tiny problem once per device, data type and head size, and "sdpa" takes over,
with one warning, where they fail. Attention within windows of a grid is in `layers.neighborhood`.
Left out on purpose: packed sequences, biases that are made on the fly.
"""

import functools
import importlib
import logging
import math
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F

from studio.env import need

logger = logging.getLogger(__name__)


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
        backend: "auto" (what `set_default_backend` said, or else the fastest that needs no trial)
            or a key of `BACKENDS`. One that does not work here is replaced by "sdpa", with one
            warning.

    Returns:
        (B, H, N, D), in v's dtype.

    Raises:
        ValueError: an unknown backend, or `mask` together with `causal`.
    """
    if causal and mask is not None:
        raise ValueError("causal=True can't be combined with mask: make it part of the mask")
    backend = _choose(_default if backend == "auto" else backend, q, k, dropout)
    if k.shape[1] != q.shape[1]:
        k, v = shared_heads(q, k, v)
    causal = causal and q.shape[2] > 1
    return BACKENDS[backend](q, k, v, mask, causal, scale or 1 / math.sqrt(q.shape[-1]), dropout)


def shared_heads(q: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
    """Keys or values (B, K, S, D) repeated to q's H heads: (B, H, S, D)."""
    return [t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in others]


# --- back ends -----------------------------------------------------------------------------------


def _plain(q, k, v, mask, causal, scale, dropout):
    scores = (q * scale) @ k.transpose(-1, -2)  # (B, H, N, S)
    if causal:
        scores = scores + _causal_bias(*scores.shape[-2:], scores.device, scores.dtype)
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -math.inf)
        else:
            scores = scores + mask
    exact = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(dim=-1, dtype=exact).to(v.dtype)
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


def _flex(q, k, v, mask, causal, scale, dropout):
    size = (q.shape[2], k.shape[2])
    visible = _flex_causal(*size, q.device) if causal else None
    add = None
    if mask is not None:
        bias = mask_bias(mask, q.dtype) if mask.dtype == torch.bool else mask.to(q.dtype)
        add = _adding(bias.expand(*q.shape[:2], *size))  # (B, H, N, S)
    return flex_kernel(q.device)(q, k, v, score_mod=add, block_mask=visible, scale=scale)


def _adding(bias: torch.Tensor) -> Callable:
    """FlexAttention's form of adding (B, H, N, S) to the scores."""

    def add(score, batch, head, query, key):
        return score + bias[batch, head, query, key]

    return add


def _xformers(q, k, v, mask, causal, scale, dropout):
    need("xformers", extra="gpu")
    ops = importlib.import_module("xformers.ops")
    bias = None
    if causal:
        bias = ops.fmha.attn_bias.LowerTriangularFromBottomRightMask()
    elif mask is not None:
        if mask.dtype == torch.bool:
            mask = mask_bias(mask, q.dtype)
        batch, heads, n, total = *q.shape[:3], k.shape[2]
        # The kernel reads rows whose starts are aligned to eight entries.
        bias = q.new_empty(batch, heads, n, -(-total // 8) * 8)[..., :total]
        bias.copy_(mask)
    heads_last = (t.transpose(1, 2) for t in (q, k, v))  # (B, N, H, D)
    out = ops.memory_efficient_attention(*heads_last, attn_bias=bias, p=dropout, scale=scale)
    return out.transpose(1, 2)  # (B, H, N, D)


BACKENDS: dict[str, Callable[..., torch.Tensor]] = {
    "plain": _plain,
    "sdpa": _sdpa,
    "flex": _flex,
    "xformers": _xformers,
}
# Parts of torch that need no trial.
_TRUSTED = ("plain", "sdpa")


def flex_kernel(device: torch.device, *, dynamic: bool | None = None) -> Callable:
    """FlexAttention (`torch.nn.attention.flex_attention`): compiled on a GPU; elsewhere as it is,
    which makes the whole score matrix and has no gradient, and serves tests.

    Args:
        device: where the tensors live.
        dynamic: of `torch.compile`: False for one kernel a shape, None for kernels that take other
            lengths after the second.
    """
    return _compiled_flex(dynamic) if device.type == "cuda" else _eager_flex


@functools.cache
def _compiled_flex(dynamic: bool | None) -> Callable:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=dynamic)


def _eager_flex(*args, **options):
    """Called as it is, FlexAttention traces itself anew for every mask, which takes seconds."""
    from torch.nn.attention import flex_attention as module

    switch = "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        before = getattr(module, switch, False)
        setattr(module, switch, True)
        try:
            return module.flex_attention(*args, **options)
        finally:
            setattr(module, switch, before)


@functools.lru_cache(maxsize=64)
def _flex_causal(n: int, total: int, device: torch.device):
    from torch.nn.attention.flex_attention import create_block_mask

    with torch.inference_mode(False), torch.no_grad():
        ahead = torch.tensor(total - n, device=device)  # a tensor: numbers would be compiled in
        return create_block_mask(
            lambda batch, head, query, key: key <= query + ahead, None, None, n, total, str(device)
        )


# --- choice --------------------------------------------------------------------------------------

_default = "auto"


def set_default_backend(name: str) -> str:
    """What "auto" means from now on, in this process: "auto" or a key of `BACKENDS`.

    Returns:
        what it meant before.

    Raises:
        ValueError: an unknown backend.
    """
    global _default
    before = _default
    _default = _known(name)
    return before


def _known(name: str) -> str:
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"attention backend {name!r} must be auto or one of {tuple(BACKENDS)}")
    return name


def _choose(name: str, q: torch.Tensor, k: torch.Tensor, dropout: float) -> str:
    """The backend for this call. On its own the fused kernel, but on a CPU not for short sequences
    in half precision: measured at 2.5 GHz with torch 2.11, 80 tokens, 4 heads of 64, it is 2.5
    times slower there."""
    if name == "auto":
        half = q.device.type == "cpu" and q.dtype not in (torch.float32, torch.float64)
        return "plain" if half and q.shape[2] > 1 and k.shape[2] <= 256 else "sdpa"
    if _known(name) in _TRUSTED:
        return name
    reason = flex_refusal(q, k, dropout) if name == "flex" else ""
    reason = reason or trouble(name, q.device, q.dtype, q.shape[-1])
    if reason:
        warn_once(f"attention backend {name!r} is not used, 'sdpa' is: {reason}")
        return "sdpa"
    return name


def flex_refusal(q: torch.Tensor, k: torch.Tensor, dropout: float) -> str:
    """Why FlexAttention can't take this call; "" when it can."""
    if dropout:
        return "it has no dropout"
    trained = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
    return "it has no gradient on a CPU" if trained and q.device.type == "cpu" else ""


@functools.cache
def trouble(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why a backend does not work for such tensors; "" when it does. Tried once."""
    q, k, v = tiny_problem((4, 16, 16), head_dim, device, dtype)
    options = (None, True, 1 / math.sqrt(head_dim), 0.0)
    return outcome(lambda: BACKENDS[name](q, k, v, *options), _plain(q, k, v, *options))


def tiny_problem(lengths, head_dim: int, device, dtype) -> list[torch.Tensor]:
    """Tensors (1, 2, length, head_dim) of fixed numbers, one for each length."""
    with torch.inference_mode(False), torch.no_grad():
        whole = [torch.arange(2 * n * head_dim).add(5 * i) for i, n in enumerate(lengths)]
        return [
            (1.7 * t.view(1, 2, -1, head_dim)).sin().to(device=device, dtype=dtype) for t in whole
        ]


def outcome(run: Callable[[], torch.Tensor], expected: torch.Tensor) -> str:
    """Why `run` fails to give `expected`, in one line; "" when it does not fail."""
    try:
        with torch.no_grad():
            error = (run().cpu().double() - expected.cpu().double()).abs().max().item()
    except Exception as failure:  # a build for another torch can raise nearly anything
        lines = str(failure).strip().splitlines() or ["no message"]
        return f"{type(failure).__name__}: {lines[0]}"[:300]
    return "" if error < 0.05 else f"its result is wrong by {error:.2g}"


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, once a process."""
    logger.warning(message)


# --- masks ---------------------------------------------------------------------------------------


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
