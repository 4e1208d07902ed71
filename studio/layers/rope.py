"""Rotary position tables in one, two and three dimensions.

RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021, 2104.09864. Pairs are ADJACENT
channels (2i, 2i + 1). With several axes the pairs are divided evenly, the first share rotating with
the first axis (for grids: row, then column, as in LlamaGen, 2024, 2406.06525); what can't be
divided goes to the first axis (time, as in Wan, 2025, 2503.20314). Always float32; tables are
rebuilt where needed and never kept in a state dict.
"""

import functools
import math

import torch

CONDITION_ROPES = ("identity", "zeros")


@functools.lru_cache(maxsize=64)
def rope_table(
    shape: tuple[int, ...],
    head_dim: int,
    *,
    base: float = 10000.0,
    num_condition: int = 0,
    condition_rope: str = "identity",
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """The rotations of every position of a grid, cells in raster order.

    Args:
        shape: the grid, one to three axes: `(N,)`, `(H, W)` or `(T, H, W)`.
        head_dim: channels of one head, even.
        base: wavelengths run from 2 pi towards 2 pi * base cells.
        num_condition: positions put before the grid.
        condition_rope: what stands there: "identity" leaves queries and keys as they are; "zeros"
            makes them zero, so that every score against them is 0 (official LlamaGen weights).
        device: where the table lives.

    Returns:
        complex64 (num_condition + prod(shape), head_dim / 2): cos + i sin of each pair's angle.

    Raises:
        ValueError: `head_dim` is odd or has fewer pairs than `shape` has axes, or an unknown
            `condition_rope`.
    """
    if head_dim % 2 or head_dim // 2 < len(shape):
        raise ValueError(f"head_dim {head_dim} must be even and hold a pair for each of {shape}")
    if condition_rope not in CONDITION_ROPES:
        raise ValueError(f"condition_rope {condition_rope!r} must be one of {CONDITION_ROPES}")
    # The cache may be filled while decoding and read while training.
    with torch.inference_mode(False), torch.no_grad():
        return _table(_cells(shape), head_dim // 2, base, num_condition, condition_rope, device)


@functools.lru_cache(maxsize=64)
def layered_rope_table(
    shapes: tuple[tuple[int, ...], ...],
    head_dim: int,
    *,
    base: float = 10000.0,
    num_condition: int = 0,
    condition_rope: str = "identity",
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """As `rope_table` for grids of different steps over the same thing, one after the other: layers
    of video tokens. A cell stands where its centre is, in steps of the finest grid of each axis; a
    single grid gives what `rope_table` gives.

    Raises:
        ValueError: as `rope_table`, or grids with different numbers of axes.
    """
    axes = {len(shape) for shape in shapes}
    if len(axes) != 1:
        raise ValueError(f"grids {shapes} must have equally many axes")
    if head_dim % 2 or head_dim // 2 < min(axes):
        raise ValueError(f"head_dim {head_dim} must be even and hold a pair for each of {shapes}")
    if condition_rope not in CONDITION_ROPES:
        raise ValueError(f"condition_rope {condition_rope!r} must be one of {CONDITION_ROPES}")
    with torch.inference_mode(False), torch.no_grad():
        finest = torch.tensor([max(sizes) for sizes in zip(*shapes, strict=True)])
        steps = [finest / torch.tensor(shape) for shape in shapes]
        cells = [
            (_cells(shape) + 0.5) * step - 0.5 for shape, step in zip(shapes, steps, strict=True)
        ]
        places = torch.cat(cells)  # (N, axes)
        return _table(places, head_dim // 2, base, num_condition, condition_rope, device)


def _cells(shape: tuple[int, ...]) -> torch.Tensor:
    """Places of all cells of a grid in raster order, float (prod(shape), axes)."""
    cells = torch.cartesian_prod(*(torch.arange(n) for n in shape))
    return cells.view(math.prod(shape), -1).float()


def _table(cells, pairs: int, base: float, num_condition: int, condition_rope: str, device):
    """Rotations of cells (N, axes) behind those of a condition, (num_condition + N, pairs)."""
    angles = _angles(cells, pairs, base)  # (N, P)
    table = torch.complex(angles.cos(), angles.sin())  # (N, P)
    front = table.new_full((num_condition, pairs), float(condition_rope == "identity"))
    return torch.cat((front, table)).to(device)  # (num_condition + N, P)


def _angles(cells: torch.Tensor, pairs: int, base: float) -> torch.Tensor:
    """Angles in radians of cells (N, axes), (N, pairs)."""
    axes = cells.shape[1]
    share, rest = divmod(pairs, axes)
    parts = []
    for axis in range(axes):
        count = share + (rest if axis == 0 else 0)
        frequencies = base ** (-torch.arange(count).float() / count)  # (count,)
        parts.append(cells[:, axis, None] * frequencies)  # (N, count)
    return torch.cat(parts, dim=-1)


def rotate(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Turns every adjacent pair of channels by its position's angle.

    A pair is one complex number: one product, six times faster on a CPU than four real ones.

    Args:
        x: (B, N, H, D).
        table: rows of `rope_table`, (N, D / 2), or (B, N, D / 2) when rows stand elsewhere; or the
            same as `torch.view_as_real` gives it, which compiled code needs.

    Returns:
        (B, N, H, D), in x's dtype; the arithmetic is float32.
    """
    if not table.is_complex():
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)  # (B, N, H, P)
        cos, sin = table.unsqueeze(-3).unbind(-1)  # (N, 1, P)
        turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
        return turned.flatten(-2).to(x.dtype)  # (B, N, H, D)
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))  # (B, N, H, P)
    turned = torch.view_as_real(pairs * table.unsqueeze(-2))  # (B, N, H, P, 2)
    return turned.view(x.shape).to(x.dtype)
