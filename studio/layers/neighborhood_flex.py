"""Neighborhood attention in FlexAttention: tokens permuted into tiles, a sparse mask of blocks.

Flex Attention: A Programming Model for Generating Optimized Attention Kernels, 2024, 2412.05496.
The kernel skips blocks of 128 x 128 that hold nothing visible. In raster order the window of a 2D
or 3D grid touches nearly all blocks; with the 128 cells of a block being one compact tile it
touches only its neighbours. Which blocks are needed is worked out from the tiles' corners, so that
nothing quadratic in tokens is ever made. Compiled on a GPU; on a CPU the plain, slow form for
tests.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from studio.layers.attention import flex_kernel
from studio.layers.neighborhood_tiles import axis_tiles, flat_cells, outer_and, standing
from studio.layers.neighborhood_window import Neighborhood, axis_windows

BLOCK = 128
_WIDTHS = {1: (128,), 2: (8, 16), 3: (4, 4, 8)}


@dataclass(frozen=True)
class Permutation:
    """Tokens in tiles of 128, P places in all, and which of their blocks see each other.

    Args:
        queries: int64 (P,), the cell at every place; padding repeats one.
        order: int64 (N,), the place of every cell.
        places, first, last: int32 (A, P), for each axis, where the cell is and the ends of its
            window; all -1 at padding, which sees padding alone.
        steps: dilation of every axis.
        near, inside: bool (P / 128, P / 128): something of a block of keys may be visible to a
            block of queries; all of it is.
    """

    queries: torch.Tensor
    order: torch.Tensor
    places: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor
    steps: tuple[int, ...]
    near: torch.Tensor
    inside: torch.Tensor

    def sees(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Whether the query at a place sees the key at another one; indices of any one shape."""
        seen = query.new_ones((), dtype=torch.bool)
        for axis, step in enumerate(self.steps):
            place, first = self.places[axis][key], self.first[axis][query]
            seen = seen & (place >= first) & (place <= self.last[axis][query])
            if step > 1:
                seen = seen & ((place - first) % step == 0)
        return seen


@functools.lru_cache(maxsize=16)
def permutation(window: Neighborhood, device: torch.device) -> Permutation:
    """The tiles of a grid, kept for the next call."""
    with torch.inference_mode(False), torch.no_grad():
        widths = _WIDTHS[len(window.shape)]
        parts = [axis_tiles(axis, width) for axis, width in zip(window.axes, widths, strict=True)]
        queries = flat_cells(window.shape, [part.queries for part in parts])  # (T, 128)
        real = outer_and([part.real for part in parts])  # (T, 128)
        cells = torch.unravel_index(queries, window.shape)  # A of (T, 128)
        edges = [axis_windows(*axis) for axis in window.axes]
        place = torch.stack(cells)  # (A, T, 128)
        first = torch.stack([low[c] for (low, _), c in zip(edges, cells, strict=True)])
        last = torch.stack([high[c] for (_, high), c in zip(edges, cells, strict=True)])
        step = torch.tensor(window.dilation).view(-1, 1, 1)
        near, inside = _blocks(place, first, last, step, real)
        place, first, last = (
            torch.where(real, t, -1).flatten(1).int().to(device) for t in (place, first, last)
        )  # (A, P)
        return Permutation(
            queries=queries.flatten().to(device),
            order=standing(queries, real, window.num_tokens).to(device),
            places=place,
            first=first,
            last=last,
            steps=tuple(dilation for _, _, _, dilation, _ in window.axes),
            near=near.to(device),
            inside=inside.to(device),
        )


def _blocks(place, first, last, step, real):
    """Which of T blocks are near, and which inside, from their corners; padding repeats a cell of
    its own block, so that no corner moves."""
    low, high = place.amin(-1), place.amax(-1)  # (A, T)
    group = place[..., 0] % step[..., 0]
    same = group.unsqueeze(2) == group.unsqueeze(1)  # (A, T, T)
    touches = (low.unsqueeze(1) <= last.amax(-1).unsqueeze(2)) & (
        high.unsqueeze(1) >= first.amin(-1).unsqueeze(2)
    )
    covers = (low.unsqueeze(1) >= first.amax(-1).unsqueeze(2)) & (
        high.unsqueeze(1) <= last.amin(-1).unsqueeze(2)
    )
    full = real.all(-1)
    near = (same & touches).all(0)  # (T, T)
    return near, near & covers.all(0) & full & full.unsqueeze(1)


@functools.lru_cache(maxsize=16)
def block_mask(window: Neighborhood, num_extra: int, device: torch.device) -> Any:
    """The `BlockMask` of P queries and P + `num_extra` keys, the last of which all may see."""
    from torch.nn.attention.flex_attention import BlockMask

    with torch.inference_mode(False), torch.no_grad():
        tiles = permutation(window, device)
        held = tiles.queries.numel()
        extra = -(-num_extra // BLOCK)
        near = F.pad(tiles.near, (0, extra), value=True)  # (T, T + E)
        inside = F.pad(tiles.inside, (0, extra))
        rule = _rule(tiles, num_extra)
        partly, wholly = (_listed(blocks) for blocks in (near & ~inside, inside))
        lengths = (held, held + num_extra)
        return BlockMask.from_kv_blocks(
            *partly, *wholly, BLOCK_SIZE=BLOCK, mask_mod=rule, seq_lengths=lengths
        )


def _rule(tiles: Permutation, num_extra: int) -> Callable:
    held = tiles.queries.numel()
    if not num_extra:
        return lambda batch, head, query, key: tiles.sees(query, key)
    return lambda batch, head, query, key: (
        tiles.sees(query, key.clamp(max=held - 1)) | (key >= held)
    )


def _adding(bias: torch.Tensor) -> Callable:
    """FlexAttention's form of adding (B, P + M) to every query's scores."""

    def add(score, batch, head, query, key):
        return score + bias[batch, key]

    return add


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many blocks of keys each block of queries needs (1, 1, T), and which come first in a row
    of all (1, 1, T, T + E)."""
    counts = blocks.sum(1, dtype=torch.int32)
    columns = blocks.to(torch.int8).argsort(dim=1, descending=True, stable=True).int()
    return counts[None, None], columns.contiguous()[None, None]


def flex_attention(q, k, v, window, scale, extra, dropout, return_lse):
    """The back end of `layers.neighborhood.neighborhood_attention`; `extra` is None or keys and
    values (B, H, M, D) and a bias (B, M) or None."""
    from torch.nn.attention.flex_attention import AuxRequest

    tiles = permutation(window, q.device)
    q, k, v = (t.index_select(2, tiles.queries) for t in (q, k, v))  # (B, H, P, D)
    add, num_extra = None, 0
    if extra is not None:
        k2, v2, bias = extra
        num_extra = k2.shape[2]
        k, v = torch.cat((k, k2), dim=2), torch.cat((v, v2), dim=2)  # (B, H, P + M, D)
        if bias is not None:
            add = _adding(F.pad(bias, (q.shape[2], 0)))  # (B, P + M)
    asked = {"return_aux": AuxRequest(lse=True)} if return_lse else {}
    out = flex_kernel(q.device, dynamic=False)(
        q,
        k,
        v,
        score_mod=add,
        block_mask=block_mask(window, num_extra, q.device),
        scale=scale,
        **asked,
    )
    if return_lse:
        out, aux = out
        return out.index_select(2, tiles.order), aux.lse.index_select(2, tiles.order)
    return out.index_select(2, tiles.order)  # (B, H, N, D)
