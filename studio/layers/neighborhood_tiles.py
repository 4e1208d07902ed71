"""Neighborhood attention by tiles: O(N * window) work and memory with plain matrix products.

Queries are taken tile by tile (8 x 8 cells, say); all windows of a tile lie in one box, its halo.
The halo's keys are gathered once a tile and what a query must not see of them is masked, so that
dense products of some hundred rows do the work: on a CPU measured 14 times faster than gathering
the keys of each query, and as fast as views of whole rows, which get slower with the grid's width.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from studio.layers.attention import mask_bias
from studio.layers.neighborhood_window import Neighborhood, axis_windows

_TILES = (2, 4, 8, 16, 32, 64)
# Gathering one key (and value) costs as much as some scores; measured with 64 channels.
_GATHER_COST = 40
# Entries of keys, values and scores in flight: 64 MiB of float32.
_BUDGET = 2**24


@dataclass(frozen=True)
class Tiles:
    """The tiles of a grid: T tiles of Q queries, each with a halo of S keys.

    Args:
        queries: int64 (T, Q), cells; the last tiles repeat cells to be full.
        keys: int64 (T, S), cells.
        bias: (T, Q, S), 0 where the query sees the key and -inf elsewhere.
        order: int64 (N,), where each cell stands among the T * Q queries.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    bias: torch.Tensor
    order: torch.Tensor


@dataclass(frozen=True)
class AxisTiles:
    """The tiles of one axis: t tiles of q places with halos of s places; `real` is False for
    places that stand there twice, `seen` (t, q, s) says what sees what."""

    queries: torch.Tensor
    real: torch.Tensor
    keys: torch.Tensor
    seen: torch.Tensor


@functools.lru_cache(maxsize=256)
def axis_tiles(axis: tuple[int, int, int, int, bool], width: int) -> AxisTiles:
    """Cut one axis of a `Neighborhood` into tiles of `width` places of one dilation group."""
    size, _, _, dilation, _ = axis
    first, last = axis_windows(*axis)
    queries, real, members = [], [], []
    for group in range(dilation):
        count = (size - group + dilation - 1) // dilation
        steps = torch.arange(-(-count // width) * width).view(-1, width)  # (t, q)
        queries.append(group + dilation * steps.clamp(max=count - 1))
        real.append(steps < count)
        members += [count] * len(steps)
    place = torch.cat(queries)  # (t, q)
    group, count = place[:, :1] % dilation, torch.tensor(members).unsqueeze(1)  # (t, 1)
    low = (first[place].amin(1, keepdim=True) - group) // dilation
    high = (last[place].amax(1, keepdim=True) - group) // dilation
    halo = int((high - low).max()) + 1
    low = torch.minimum(low, count - halo).clamp(min=0)
    steps = low + torch.arange(halo)  # (t, s)
    keys = group + dilation * steps.minimum(count - 1)  # (t, s)
    inside = (keys.unsqueeze(1) >= first[place].unsqueeze(2)) & (
        keys.unsqueeze(1) <= last[place].unsqueeze(2)
    )
    return AxisTiles(place, torch.cat(real), keys, inside & (steps < count).unsqueeze(1))


def flat_cells(shape: tuple[int, ...], places: list[torch.Tensor]) -> torch.Tensor:
    """Places on each axis, (t_a, q_a), to cells of the grid, (prod t_a, prod q_a)."""
    cells = torch.zeros(1, 1, dtype=torch.int64)
    for size, place in zip(shape, places, strict=True):
        cells = cells[:, None, :, None] * size + place[None, :, None, :]
        cells = cells.flatten(2).flatten(0, 1)  # (T, Q)
    return cells


def standing(queries: torch.Tensor, real: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Where each cell stands in the tiles (T, Q): int64 (N,)."""
    order = torch.empty(num_tokens, dtype=torch.int64)
    order[queries[real]] = torch.arange(queries.numel()).view_as(queries)[real]
    return order


def outer_and(parts: list[torch.Tensor]) -> torch.Tensor:
    """Boolean parts (t_a, q_a, ...) of every axis to their AND over the grid, (T, Q, ...)."""
    whole = parts[0]
    for part in parts[1:]:
        for at in range(part.ndim):
            whole = whole.unsqueeze(2 * at + 1)
            part = part.unsqueeze(2 * at)
        whole = whole & part
        for at in range(whole.ndim // 2):
            whole = whole.flatten(at, at + 1)
    return whole


@functools.lru_cache(maxsize=64)
def tile_shape(window: Neighborhood) -> tuple[int, ...]:
    """The tile of the least cost: scores made, and keys gathered, for each query."""
    choices = []
    for size, _, stride, dilation, _ in window.axes:
        members = -(-size // dilation)
        widths = {*_TILES, *(n - n % stride for n in _TILES if n > stride), stride, members}
        choices.append([n for n in widths if 1 <= n <= min(64, members)])
    return min(itertools.product(*choices), key=lambda widths: keys_per_query(window, widths))


def keys_per_query(window: Neighborhood, widths: tuple[int, ...]) -> float:
    """What one query costs in tiles of these widths, counted in keys scored."""
    parts = [axis_tiles(axis, width) for axis, width in zip(window.axes, widths, strict=True)]
    halo = math.prod(part.keys.shape[1] for part in parts)
    held = math.prod(part.queries.numel() for part in parts) / window.num_tokens
    return held * halo * (1 + _GATHER_COST / math.prod(widths))


@functools.lru_cache(maxsize=16)
def make_tiles(window: Neighborhood, dtype: torch.dtype, device: torch.device) -> Tiles:
    """The tiles of a grid, kept for the next call."""
    # The cache may be filled while decoding and read while training.
    with torch.inference_mode(False), torch.no_grad():
        widths = tile_shape(window)
        parts = [axis_tiles(axis, width) for axis, width in zip(window.axes, widths, strict=True)]
        queries = flat_cells(window.shape, [part.queries for part in parts])  # (T, Q)
        keys = flat_cells(window.shape, [part.keys for part in parts])  # (T, S)
        real = outer_and([part.real for part in parts])  # (T, Q)
        seen = outer_and([part.seen for part in parts])  # (T, Q, S)
        return Tiles(
            queries.to(device),
            keys.to(device),
            mask_bias(seen, dtype).to(device),
            standing(queries, real, window.num_tokens).to(device),
        )


def tiled_attention(q, k, v, window, scale, extra, dropout, return_lse):
    """The back end of `layers.neighborhood.neighborhood_attention`; `extra` is None or keys and
    values (B, H, M, D) and a bias (B, M) or None."""
    tiles = make_tiles(window, q.dtype, q.device)
    entries = tiles.keys.numel() * (q.shape[-1] + v.shape[-1]) + 2 * tiles.bias.numel()
    count = max(1, _BUDGET // entries)
    if extra is not None:
        k2, v2, bias = extra
        bias = None if bias is None else bias.repeat_interleave(q.shape[1], dim=0)  # (B * H, M)
        extra = (k2.flatten(0, 1), v2.flatten(0, 1), bias)  # (B * H, M, D)
    heads = q.shape[:2]
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))  # (B * H, N, D)
    outs, stats = [], []
    for start in range(0, q.shape[0], count):
        rows = slice(start, start + count)
        more = extra and tuple(None if t is None else t[rows] for t in extra)
        out, lse = _some_rows(q[rows], k[rows], v[rows], tiles, scale, more, dropout, return_lse)
        outs.append(out)
        stats.append(lse)
    out = outs[0] if len(outs) == 1 else torch.cat(outs)
    out = out.unflatten(0, heads)  # (B, H, N, D)
    return (out, torch.cat(stats).unflatten(0, heads)) if return_lse else out


def _fused_pays(q: torch.Tensor) -> bool:
    """Measured on a CPU: torch's fused kernel is a tenth faster without gradients, with them a
    third slower, and much slower in half precision."""
    if q.device.type != "cpu":
        return True
    half = q.dtype not in (torch.float32, torch.float64)
    return not half and not (torch.is_grad_enabled() and q.requires_grad)


def _some_rows(q, k, v, tiles: Tiles, scale, extra, dropout, return_lse):
    """(R, N, D) of all to (R, N, D), and (R, N) or None."""
    count, size = tiles.queries.shape
    q = q.index_select(1, tiles.queries.flatten()).unflatten(1, (count, size))  # (R, T, Q, D)
    k, v = (
        t.index_select(1, tiles.keys.flatten()).unflatten(1, tiles.keys.shape) for t in (k, v)
    )  # (R, T, S, D)
    lse = None
    if extra is None and not return_lse and _fused_pays(q):
        bias = tiles.bias.unsqueeze(0)  # (1, T, Q, S)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, scale=scale, dropout_p=dropout
        )
    else:
        q = q * scale
        scores = q @ k.transpose(-1, -2) + tiles.bias  # (R, T, Q, S)
        if extra is not None:
            k2, v2, bias = extra
            more = q.flatten(1, 2) @ k2.transpose(-1, -2)  # (R, T * Q, M)
            if bias is not None:
                more = more + bias.unsqueeze(1)
            scores = torch.cat((scores, more.view(*q.shape[:3], -1)), dim=-1)  # (R, T, Q, S + M)
        exact = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(dim=-1, dtype=exact).to(v.dtype)
        if dropout:
            weights = F.dropout(weights, dropout)
        out = weights[..., : tiles.keys.shape[1]] @ v  # (R, T, Q, D)
        if extra is not None:
            rest = weights[..., tiles.keys.shape[1] :].flatten(1, 2)  # (R, T * Q, M)
            out = out + (rest @ v2).view_as(out)
        if return_lse:
            lse = scores.to(exact).logsumexp(-1).flatten(1, 2).index_select(1, tiles.order)
    return out.flatten(1, 2).index_select(1, tiles.order), lse  # (R, N, D), (R, N)
