"""Which cells of a grid see which: the window rule of neighborhood attention.

Neighborhood Attention Transformer, 2023, 2204.07143; Dilated Neighborhood Attention, 2022,
2209.15001; Generalized Neighborhood Attention (strides), 2025, 2504.16922. At a border a window is
moved inside, never cut: without causality every cell sees exactly `kernel` cells along each axis.
The rule is NATTEN's.
"""

import functools
import math
from dataclasses import dataclass, fields
from typing import Any

import torch


@dataclass(frozen=True)
class Neighborhood:
    """The windows of a grid. Per axis, or one value for all axes.

    Args:
        shape: the grid, one to three axes; its cells in raster order are the tokens.
        kernel: cells that a window spans, >= 2.
        stride: neighbours that share one window, 1 (sliding) to `kernel` (blocks).
        dilation: step between the cells of a window; `kernel * dilation` fits into `shape`.
        causal: True where a cell sees nothing after itself along that axis (time).

    Raises:
        ValueError: a value that the rule above forbids.
    """

    shape: tuple[int, ...]
    kernel: tuple[int, ...] | int
    stride: tuple[int, ...] | int = 1
    dilation: tuple[int, ...] | int = 1
    causal: tuple[bool, ...] | bool = False

    def __post_init__(self):
        shape = tuple(int(n) for n in self.shape)
        object.__setattr__(self, "shape", shape)
        if not 1 <= len(shape) <= 3:
            raise ValueError(f"shape {shape} of a neighborhood must have one to three axes")
        for name, kind in (("kernel", int), ("stride", int), ("dilation", int), ("causal", bool)):
            object.__setattr__(self, name, self._each_axis(name, kind))
        for axis, (n, k, s, d, _) in enumerate(self.axes):
            if k < 2 or d < 1 or k * d > n:
                raise ValueError(
                    f"kernel {k} with dilation {d} must be at least 2 and, times the dilation, at "
                    f"most {n}, the size of axis {axis}"
                )
            if not 1 <= s <= k:
                raise ValueError(f"stride {s} of axis {axis} must be from 1 to the kernel, {k}")

    def _each_axis(self, name: str, kind: type) -> tuple:
        value = getattr(self, name)
        single = isinstance(value, int)
        values = [value] * len(self.shape) if single else value
        if (
            not isinstance(values, (list, tuple))
            or len(values) != len(self.shape)
            or not all(isinstance(v, (int, bool)) for v in values)
        ):
            raise ValueError(
                f"{name} {value!r} must be one {kind.__name__} or one for each axis of {self.shape}"
            )
        return tuple(kind(v) for v in values)

    @classmethod
    def from_config(cls, value: dict[str, Any], shape: tuple[int, ...]) -> "Neighborhood":
        """`{"kernel": 7, "stride": 1, "dilation": 1, "causal": false}`, of which only the kernel
        must be there, over a grid. Raises ValueError for other names or values."""
        names = [field.name for field in fields(cls) if field.name != "shape"]
        if not isinstance(value, dict) or "kernel" not in value or set(value) - set(names):
            raise ValueError(f"neighborhood {value!r} must have a kernel and may have {names[1:]}")
        return cls(shape, **value)

    @property
    def axes(self) -> list[tuple[int, int, int, int, bool]]:
        """(size, kernel, stride, dilation, causal) of every axis."""
        values = (self.shape, self.kernel, self.stride, self.dilation, self.causal)
        return list(zip(*values, strict=True))  # type: ignore[arg-type]

    @property
    def num_tokens(self) -> int:
        """N, the cells of the grid."""
        return math.prod(self.shape)

    @property
    def num_keys(self) -> int:
        """The most keys that a query sees."""
        return math.prod(self.kernel)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=64)
def axis_windows(
    size: int, kernel: int, stride: int, dilation: int, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The window of every place on one axis.

    Returns:
        first, last: int64 (size,); place i sees the places first[i], first[i] + dilation, ...,
        last[i], which are all in i's own dilation group (i modulo dilation).
    """
    with torch.inference_mode(False), torch.no_grad():
        place = torch.arange(size)
        group, step = place % dilation, place // dilation
        members = (size - group + dilation - 1) // dilation
        leader = step // stride * stride + (stride - 1 if causal else stride // 2)
        leader = torch.minimum(leader, members - 1)
        if causal:
            first, last = (leader - kernel + 1).clamp(min=0), step
        else:
            first = torch.minimum((leader - kernel // 2).clamp(min=0), members - kernel)
            last = first + kernel - 1
        return group + dilation * first, group + dilation * last


@functools.lru_cache(maxsize=4)
def neighborhood_mask(window: Neighborhood, device: torch.device | str = "cpu") -> torch.Tensor:
    """The rule as a matrix, bool (N, N): True where the query of a row sees the key of a column."""
    with torch.inference_mode(False), torch.no_grad():
        seen = torch.ones(1, 1, dtype=torch.bool)
        for axis in window.axes:
            first, last = (edge.unsqueeze(1) for edge in axis_windows(*axis))
            place = torch.arange(axis[0])
            here = (place >= first) & (place <= last) & ((place - first) % axis[3] == 0)  # (L, L)
            seen = seen[:, None, :, None] & here[None, :, None, :]
            seen = seen.flatten(2).flatten(0, 1)  # (P * L, P * L)
        return seen.to(device)  # (N, N)


@functools.lru_cache(maxsize=4)
def raster_windows(
    window: Neighborhood, num_front: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """For networks that read S rows of a condition and then a grid, cell by cell, and predict the
    NEXT cell: who sees whom, bool (S + N, S + N), S being `num_front`.

    The row that holds cell i and predicts cell i + 1 sees the condition, itself, and what is both
    in the window of cell i + 1 and known by then (cells 0 .. i). A window around cell i instead
    would, at the end of a line, look at the wrong side of the grid. The condition sees itself, up
    to each row's own place.
    """
    with torch.inference_mode(False), torch.no_grad():
        grid = neighborhood_mask(window)
        seen = torch.ones(num_front + len(grid), num_front + len(grid), dtype=torch.bool)
        seen[num_front:, num_front:] = torch.cat((grid[1:], grid[-1:]))
        return (seen.tril() | torch.eye(len(seen), dtype=torch.bool)).to(device)
