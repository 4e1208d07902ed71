"""Neighborhood attention: every token of a grid attends to a window around it.

Neighborhood Attention Transformer, 2023, 2204.07143, in one, two or three dimensions, with stride,
dilation, causality for each axis (`Neighborhood` has the rule) and extra keys that all tokens see
in the same softmax. Back ends: "dense", a mask of all tokens against all, the reference; "sdpa",
the same mask in torch's fused kernel; "tiled", see `neighborhood_tiles`; "flex", see
`neighborhood_flex`; "natten", the package of that name. The last two are tried on a tiny problem
once per device, data type and head size. Left out on purpose: relative position biases.
"""

import functools
import importlib
import logging
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from studio.env import need, probe
from studio.layers.attention import (
    attention,
    flex_refusal,
    mask_bias,
    outcome,
    shared_heads,
    tiny_problem,
    warn_once,
)
from studio.layers.neighborhood_flex import flex_attention
from studio.layers.neighborhood_tiles import keys_per_query, tile_shape, tiled_attention
from studio.layers.neighborhood_window import Neighborhood, neighborhood_mask, raster_windows

__all__ = [
    "NEIGHBORHOOD_BACKENDS",
    "Neighborhood",
    "neighborhood_attention",
    "neighborhood_mask",
    "prefixed_neighborhood_attention",
    "raster_windows",
    "refusal",
]

logger = logging.getLogger(__name__)


def neighborhood_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    window: Neighborhood,
    *,
    scale: float | None = None,
    extra_k: torch.Tensor | None = None,
    extra_v: torch.Tensor | None = None,
    extra_mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
    return_lse: bool = False,
):
    """Softmax attention within the windows of a grid.

    Args:
        q: (B, H, N, D), the N cells of `window.shape` in raster order.
        k, v: (B, K, N, D) and (B, K, N, E) with K heads that divide H.
        window: the grid and its windows.
        scale: of the scores, 1 / sqrt(D) when None.
        extra_k, extra_v: (B, K, M, D) and (B, K, M, E), which every query sees besides.
        extra_mask: (B, M), which of the extra keys are real: bool, True = real, or a float that is
            added to their scores.
        dropout: probability that a weight is dropped.
        backend: "auto" (on a GPU the first of natten, flex and tiled that works; elsewhere tiled,
            or sdpa where windows span most of the grid) or a key of `NEIGHBORHOOD_BACKENDS`. One
            that can't do it here is replaced by "tiled", with one warning.
        return_lse: also return the logarithm of each query's sum of exponentials.

    Returns:
        (B, H, N, E) in v's dtype; with `return_lse` also (B, H, N), float32 or wider.

    Raises:
        ValueError: an unknown backend, tensors that do not fit the grid, extra keys without values.
    """
    if not q.shape[2] == k.shape[2] == v.shape[2] == window.num_tokens:
        raise ValueError(
            f"q, k and v have {q.shape[2]}, {k.shape[2]} and {v.shape[2]} tokens; the grid "
            f"{window.shape} has {window.num_tokens}"
        )
    if (extra_k is None) != (extra_v is None) or (extra_mask is not None and extra_k is None):
        raise ValueError("extra_k and extra_v come together, and extra_mask only with them")
    if k.shape[1] != q.shape[1]:
        k, v = shared_heads(q, k, v)
        if extra_k is not None and extra_v is not None:
            extra_k, extra_v = shared_heads(q, extra_k, extra_v)
    extra = None
    if extra_k is not None and extra_k.shape[2]:
        bias = extra_mask
        if bias is not None:
            bias = mask_bias(bias, q.dtype) if bias.dtype == torch.bool else bias.to(q.dtype)
        extra = (extra_k, extra_v, bias)
    name = _choose(backend, q, k, v, window, extra, dropout, return_lse)
    scale = scale or 1 / math.sqrt(q.shape[-1])
    return NEIGHBORHOOD_BACKENDS[name](q, k, v, window, scale, extra, dropout, return_lse)


def prefixed_neighborhood_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    window: Neighborhood,
    *,
    mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """A grid behind S other rows (a condition): rows of the grid see their windows and the S rows,
    which see everything.

    Args:
        q, k, v: (B, H or K, S + N, D).
        mask: (B, 1, 1, S + N), what may be seen, bool or a float to add; it must allow all of the
            grid.
        dropout, backend: as for `neighborhood_attention`.

    Returns:
        (B, H, S + N, D).
    """
    rows = q.shape[2] - window.num_tokens
    if rows < 0:
        raise ValueError(f"{q.shape[2]} rows are fewer than the {window.num_tokens} of the grid")
    if not rows:
        return neighborhood_attention(q, k, v, window, dropout=dropout, backend=backend)
    front = attention(q[:, :, :rows], k, v, mask=mask, dropout=dropout)
    back = neighborhood_attention(
        q[:, :, rows:],
        k[:, :, rows:],
        v[:, :, rows:],
        window,
        extra_k=k[:, :, :rows],
        extra_v=v[:, :, :rows],
        extra_mask=None if mask is None else mask[:, 0, 0, :rows].expand(q.shape[0], rows),
        dropout=dropout,
        backend=backend,
    )
    return torch.cat((front, back), dim=2)  # (B, H, S + N, D)


# --- back ends -----------------------------------------------------------------------------------


def _with_extra(k, v, window, extra, dtype):
    """All keys and values, and the mask over them, bool or a float to add."""
    mask = neighborhood_mask(window, k.device)  # (N, N)
    if extra is None:
        return k, v, mask
    k2, v2, bias = extra
    k, v = torch.cat((k, k2), dim=2), torch.cat((v, v2), dim=2)  # (B, H, N + M, D)
    mask = F.pad(mask, (0, k2.shape[2]), value=True)  # (N, N + M)
    if bias is not None:
        here = F.pad(bias, (mask.shape[0], 0))[:, None, None]  # (B, 1, 1, N + M)
        mask = mask_bias(mask, dtype) + here  # (B, 1, N, N + M)
    return k, v, mask


def _dense(q, k, v, window, scale, extra, dropout, return_lse, kernel="plain"):
    k, v, mask = _with_extra(k, v, window, extra, q.dtype)
    out = attention(q, k, v, mask=mask, scale=scale, dropout=dropout, backend=kernel)
    if not return_lse:
        return out
    bias = mask_bias(mask, q.dtype) if mask.dtype == torch.bool else mask
    scores = (q * scale) @ k.transpose(-1, -2) + bias  # (B, H, N, N + M)
    return out, scores.to(torch.promote_types(q.dtype, torch.float32)).logsumexp(-1)


def _sdpa(*arguments):
    return _dense(*arguments, kernel="sdpa")


def _natten(q, k, v, window, scale, extra, dropout, return_lse):
    need("natten", extra="gpu")
    run = getattr(importlib.import_module("natten"), f"na{len(window.shape)}d")
    grid = (t.transpose(1, 2).unflatten(1, window.shape).contiguous() for t in (q, k, v))
    more = {}
    if extra is not None:
        more = {
            name: t.transpose(1, 2).contiguous()  # (B, M, H, D)
            for name, t in zip(("additional_keys", "additional_values"), extra)
        }
    out = run(
        *grid,
        kernel_size=window.kernel,
        stride=window.stride,
        dilation=window.dilation,
        is_causal=window.causal,
        scale=scale,
        **more,
    )
    return out.flatten(1, len(window.shape)).transpose(1, 2)  # (B, H, N, D)


NEIGHBORHOOD_BACKENDS: dict[str, Callable] = {
    "dense": _dense,
    "sdpa": _sdpa,
    "tiled": tiled_attention,
    "flex": flex_attention,
    "natten": _natten,
}
# Made of plain parts of torch: never tried.
_TRUSTED = ("dense", "sdpa", "tiled")


# --- choice --------------------------------------------------------------------------------------


def _choose(name, q, k, v, window, extra, dropout, return_lse) -> str:
    """The name of the backend that this call takes."""
    if name == "auto":
        return _fastest(q, k, v, window, extra, dropout, return_lse)
    if name not in NEIGHBORHOOD_BACKENDS:
        known = tuple(NEIGHBORHOOD_BACKENDS)
        raise ValueError(f"neighborhood backend {name!r} must be auto or one of {known}")
    masked = extra is not None and extra[2] is not None
    reason = refusal(name, q, k, v, masked=masked, dropout=dropout, return_lse=return_lse)
    if reason:
        warn_once(f"neighborhood backend {name!r} is not used, 'tiled' is: {reason}")
        return "tiled"
    return name


def _fastest(q, k, v, window, extra, dropout, return_lse) -> str:
    if q.device.type == "cuda":
        # That natten is not installed is no news; that it is broken is.
        names = ("natten", "flex") if probe("natten").installed else ("flex",)
        for name in names:
            if _choose(name, q, k, v, window, extra, dropout, return_lse) == name:
                return name
    return "tiled" if _pays(window) else "sdpa"


@functools.lru_cache(maxsize=64)
def _pays(window: Neighborhood) -> bool:
    return keys_per_query(window, tile_shape(window)) < window.num_tokens


def refusal(
    name: str,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    masked: bool = False,
    dropout: float = 0.0,
    return_lse: bool = False,
) -> str:
    """Why a backend can't do such a call of `neighborhood_attention` here; "" when it can.

    Args:
        name: a key of `NEIGHBORHOOD_BACKENDS`.
        q, k, v: as for the call.
        masked: whether there is an `extra_mask`.
        dropout, return_lse: as for the call.
    """
    if name in _TRUSTED:
        return ""
    if name == "flex":
        reason = flex_refusal(q, k, dropout)
    elif dropout or return_lse:
        reason = "it has no dropout" if dropout else "it does not return the logarithms"
    else:
        reason = "it can't mask extra keys" if masked else ""
    return reason or _trouble(name, q.device, q.dtype, (q.shape[-1], v.shape[-1]))


@functools.cache
def _trouble(
    name: str, device: torch.device, dtype: torch.dtype, head_dims: tuple[int, int]
) -> str:
    """Why a backend does not work for such tensors; "" when it does. Tried once."""
    if name == "natten" and not probe(name).ok:
        return probe(name).error or "it can't be imported"
    window = Neighborhood((5, 6), kernel=3)
    q, k = tiny_problem((30, 30), head_dims[0], device, dtype)
    (v,) = tiny_problem((30,), head_dims[1], device, dtype)
    options = (q, k, v, window, 1 / math.sqrt(head_dims[0]), None, 0.0, False)
    run, reference = NEIGHBORHOOD_BACKENDS[name], NEIGHBORHOOD_BACKENDS["dense"]
    return outcome(lambda: run(*options), reference(*options))
