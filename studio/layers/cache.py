"""Keys and values of tokens that were already seen, in memory that is taken once.

A static cache (see gpt-fast) needs no concatenation, and taking tokens back is moving a pointer:
slots past a row's length hold stale values, which masks keep out of sight. Its interface is that of
every cache (`Cache`); the others are in `rolling_cache.py` and `quantized_cache.py`. Left out on
purpose: paging.
"""

from typing import Protocol

import numpy as np
import torch


class Cache(Protocol):
    """What every cache offers.

    A pass reserves room for its tokens and hands each layer's keys and values to `update`.

    lengths: tokens held by every row.
    total: slots that the last `update` returns.
    starts: the slot of the first new token, see `StaticCache.reserve`.
    max_tokens: the most tokens of one `reserve`.
    in_order: whether slot i holds token i, so that a causal mask over `total` slots is right; where
        it is False, masks come from `mask`.
    turns_keys: whether keys are handed over before rotary positions and turned at use; then queries
        are turned by the rows `query_rope`.
    """

    lengths: list[int]
    total: int
    starts: int | torch.Tensor
    max_tokens: int
    in_order: bool
    turns_keys: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the memory that is held."""
        ...

    def reserve(self, count: int) -> int | torch.Tensor:
        """Makes room for `count` more tokens a row. Raises ValueError where there is none."""
        ...

    def update(
        self,
        layer: int,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        q: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes the new k, v (B, H, n, D) of a layer; keys and values (B, H, total, D) to attend.

        Args:
            q: the new queries (B, H or a multiple, n, D), turned; some caches weigh tokens by them.
            mask: what they may see, as in `layers.attention.attention`.
        """
        ...

    def rewind(self, lengths: list[int]) -> None:
        """Keeps `lengths[b]` tokens of row b. Raises ValueError for a row that can't be so short
        or long."""
        ...


def to_device(numbers: list[int], device: torch.device | str) -> torch.Tensor:
    """Numbers as int64 (B,) on a device, without waiting for what a GPU is doing."""
    if torch.device(device).type != "cuda":
        return torch.tensor(numbers, device=device)
    return torch.tensor(numbers, pin_memory=True).to(device, non_blocking=True)


def check_rewind(lengths: list[int], held: list[int]) -> None:
    """Raises ValueError unless every row keeps some of the tokens that it holds."""
    for row, (kept, most) in enumerate(zip(lengths, held, strict=True)):
        if not 0 <= kept <= most:
            raise ValueError(f"length {kept} of row {row} must lie between 0 and {most}")


class StaticCache:
    """One slab a layer for keys and one for values.

    Args:
        num_layers: how many.
        batch_size: B rows, each with a length of its own.
        num_heads: key and value heads H.
        max_length: S slots a row.
        head_dim: D.
        dtype, device: of the slabs.
        slabs: memory to use instead of taking some: keys and values, each L times (B, H, S, D) or
            longer, finite.
    """

    in_order = True
    turns_keys = False

    def __init__(
        self,
        *,
        num_layers: int,
        batch_size: int,
        num_heads: int,
        max_length: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
        slabs: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None,
    ):
        shape = (num_layers, batch_size, num_heads, max_length, head_dim)
        # Zeros, not what the memory held: masked slots meet a weight of 0, but 0 * nan is nan.
        taken = slabs or [torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)]
        self.keys, self.values = taken  # of every layer, (B, H, S, D)
        self.max_length = self.max_tokens = max_length
        self.lengths = [0] * batch_size
        self.starts: int | torch.Tensor = 0
        self.total = 0
        self.rows = torch.arange(batch_size, device=device).unsqueeze(1)  # (B, 1)
        # Of the new tokens: the same for all rows, or int64 (B, n).
        self.slots: slice | torch.Tensor = slice(0, 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all slabs."""
        return sum(slab.nbytes for slabs in (self.keys, self.values) for slab in slabs)

    def reserve(self, count: int) -> int | torch.Tensor:
        """Makes room for `count` more tokens in every row; each layer then calls `update` once.

        Returns:
            the slot of the first new token, also kept in `starts`: one number when all rows are
            equally long (then writing is a slice), else int64 (B,).

        Raises:
            ValueError: no room is left.
        """
        first, longest = min(self.lengths), max(self.lengths)
        if longest + count > self.max_length:
            raise ValueError(
                f"{count} tokens after {longest} exceed the cache's max_length {self.max_length}"
            )
        self.total = longest + count
        if first == longest:
            self.starts = first
            self.slots = slice(first, self.total)
        else:
            starts = to_device(self.lengths, self.rows.device)
            self.starts = starts
            self.slots = starts.unsqueeze(1) + torch.arange(count, device=starts.device)  # (B, n)
        self.lengths = [length + count for length in self.lengths]
        return self.starts

    def update(
        self,
        layer: int,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        q: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new tokens of one layer.

        Args:
            layer: index of the layer.
            k, v: (B, H, n, D), n as reserved.
            q, mask: not looked at.

        Returns:
            keys and values of all slots up to the longest row, views (B, H, total, D).
        """
        keys, values = self.keys[layer], self.values[layer]  # (B, H, S, D)
        slots = self.slots
        if isinstance(slots, slice):
            keys[:, :, slots] = k
            values[:, :, slots] = v
        else:
            keys[self.rows, :, slots] = k.transpose(1, 2).to(keys.dtype)  # (B, n, H, D)
            values[self.rows, :, slots] = v.transpose(1, 2).to(values.dtype)  # (B, n, H, D)
        return keys[:, :, : self.total], values[:, :, : self.total]

    def rewind(self, lengths: list[int]) -> None:
        """Keeps `lengths[b]` tokens of row b. Raises ValueError for a row that is shorter."""
        check_rewind(lengths, self.lengths)
        self.lengths = list(lengths)

    def keep(self, base: list[int], paths: np.ndarray) -> None:
        """Keeps the first `base[b]` tokens of row b and, of those after them, the ones that its
        path numbers from 0 on, moved together.

        Args:
            base: what every row holds at least.
            paths: int64 (B, m), ascending, -1 past the end of a path.

        Raises:
            ValueError: a number that the row does not have, or numbers that do not ascend.
        """
        first, held = np.array(base)[:, None], np.array(self.lengths)[:, None]  # (B, 1)
        there = paths >= 0
        steps = np.arange(paths.shape[1])
        # What lies past the end of a path stays where it is.
        moved = np.where(there, paths, np.maximum(steps, paths.max(initial=0) + steps + 1))
        wrong = (moved[:, 1:] <= moved[:, :-1]).any(axis=1) | (there & (paths >= held - first)).any(
            1
        )
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"path {paths[row].tolist()} of row {row} must ascend within 0 .. "
                f"{int((held - first)[row, 0]) - 1}, -1 past its end"
            )
        if (there & (paths != steps)).any():
            old = torch.from_numpy(first + np.where(there, paths, steps)).to(self.rows.device)
            new = torch.from_numpy(first + steps).to(self.rows.device)  # (B, m)
            for slab in (*self.keys, *self.values):
                slab[self.rows, :, new] = slab[self.rows, :, old]  # (B, m, H, D), a copy
        self.lengths = (first[:, 0] + there.sum(axis=1)).tolist()
