"""Where the new rows of a run stand and what they see: rotary rows and masks of a pass.

Rows are those of the condition and then the tokens, each row of the batch with a length of its own.
Left out on purpose: the tables of the lean step, which knows one case only.
"""

import numpy as np
import torch

from studio.layers.attention import causal_mask, mask_bias
from studio.layers.cache import Cache
from studio.layers.neighborhood import raster_windows
from studio.layers.tree_mask import depths, tree_mask


class RunMasks:
    """Rotary rows and masks for the passes of one run.

    Args:
        cache: the run's; it has reserved what is asked about.
        rope: rotary table, complex (S + N, P).
        columns: bool (B, >= S + N), False at padding of the condition; None for none.
        rows: S, rows of the condition.
        window: of the network's neighborhood, or None.
        dtype: of the network's rows.
    """

    def __init__(
        self,
        cache: Cache,
        rope: torch.Tensor,
        columns: torch.Tensor | None,
        *,
        rows: int,
        window,
        dtype: torch.dtype,
    ):
        self._cache, self._rope, self._columns = cache, rope, columns
        self._rows, self._window, self._dtype = rows, window, dtype
        self._device = rope.device
        if columns is not None:
            self._column_bias = mask_bias(columns, dtype)[:, None, None]  # (B, 1, 1, S + N)

    def chain(self, n: int) -> tuple[torch.Tensor, torch.Tensor | None, bool]:
        """Of n new rows that follow each other: rotary rows, mask, and whether it is causal."""
        cache, columns = self._cache, self._columns
        starts = cache.starts
        if not cache.in_order:
            rope = cache.query_rope
            return self._turns(starts, n) if rope is None else rope, cache.mask(columns), False
        rope = self._turns(starts, n)
        if self._window is not None:
            return rope, self._windowed(starts, n), False
        if not isinstance(starts, int):
            return rope, causal_mask(n, cache.total, starts=starts, columns=columns), False
        if columns is None:
            return rope, None, n > 1
        if n == 1:
            return rope, self._column_bias[..., : cache.total], False
        return rope, causal_mask(n, cache.total, columns=columns), False

    def _turns(self, starts: int | torch.Tensor, n: int) -> torch.Tensor:
        if isinstance(starts, int):
            return self._rope[starts : starts + n]
        return self._rope[starts.unsqueeze(1) + torch.arange(n, device=starts.device)]

    def _windowed(self, starts: int | torch.Tensor, n: int) -> torch.Tensor:
        """The mask of n new rows where the network attends within windows."""
        ragged = not isinstance(starts, int)
        places = (starts.unsqueeze(1) if ragged else starts) + torch.arange(n, device=self._device)
        total = self._cache.total
        near = raster_windows(self._window, self._rows, self._device)[places, :total]
        seen = causal_mask(
            n,
            total,
            starts=starts if ragged else None,
            columns=self._columns,
            device=self._device,
        )
        return seen & (near.unsqueeze(1) if ragged else near)

    def tree(self, parents: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Of new rows that form trees, parents (B, n) or, for all rows the same, (1, n): rotary
        rows (B, n, P) or (n, P) at the nodes' depths, and the mask as a float."""
        starts, n = self._cache.starts, parents.shape[1]
        if len(parents) > 1:  # and guided
            parents = np.tile(parents, (len(self._cache.lengths) // len(parents), 1))
        first = starts.unsqueeze(1) if isinstance(starts, torch.Tensor) else starts
        slots = torch.arange(n, device=self._device).unsqueeze(0) + first  # (B or 1, n)
        mask = tree_mask(parents, self._cache.total, slots, columns=self._columns)
        levels = torch.tensor([depths(row) for row in parents.tolist()], device=self._device)
        places = (levels - 1 + first).clamp(max=len(self._rope) - 1)  # (B or 1, n)
        if self._window is not None:
            mask = mask & self._near(places, slots)
        turns = self._rope[places]  # (B or 1, n, P)
        return (turns[0] if len(turns) == 1 else turns), mask_bias(mask, self._dtype)

    def _near(self, places: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """bool (B, 1, n, total): which keys lie in the windows of nodes at `places` (B, n), nodes
        being keys as well, in `slots`."""
        near = raster_windows(self._window, self._rows, self._device)  # (S + N, S + N)
        keys = torch.arange(self._cache.total, device=self._device).clamp(max=len(near) - 1)
        keys = keys.expand(len(places), -1).scatter(1, slots.expand_as(places), places)
        return near[places.unsqueeze(2), keys.unsqueeze(1)].unsqueeze(1)
