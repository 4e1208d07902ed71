"""Keys and values of tokens that were already seen, in memory that is taken once.

A static cache (see gpt-fast) needs no concatenation, and taking tokens back is moving a pointer:
slots past a row's length hold stale values, which masks keep out of sight. Left out on purpose:
paging, quantised caches.
"""

import torch


class StaticCache:
    """One slab a layer for keys and one for values.

    Args:
        num_layers: how many.
        batch_size: B rows, each with a length of its own.
        num_heads: key and value heads H.
        max_length: S slots a row.
        head_dim: D.
        dtype, device: of the slabs.
    """

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
    ):
        shape = (num_layers, batch_size, num_heads, max_length, head_dim)
        # Zeros, not what the memory held: masked slots meet a weight of 0, but 0 * nan is nan.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.max_length = max_length
        self.lengths = [0] * batch_size
        self.starts: int | torch.Tensor = 0
        self.total = 0
        self._rows = torch.arange(batch_size, device=device).unsqueeze(1)  # (B, 1)
        self._slots: slice | torch.Tensor = slice(0, 0)

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
            self._slots = slice(first, self.total)
        else:
            starts = torch.tensor(self.lengths, device=self.keys.device)
            self.starts = starts
            self._slots = starts.unsqueeze(1) + torch.arange(count, device=starts.device)  # (B, n)
        self.lengths = [length + count for length in self.lengths]
        return self.starts

    def update(self, layer: int, k: torch.Tensor, v: torch.Tensor):
        """Writes the new tokens of one layer.

        Args:
            layer: index of the layer.
            k, v: (B, H, n, D), n as reserved.

        Returns:
            keys and values of all slots up to the longest row, views (B, H, total, D).
        """
        keys, values = self.keys[layer], self.values[layer]  # (B, H, S, D)
        slots = self._slots
        if isinstance(slots, slice):
            keys[:, :, slots] = k
            values[:, :, slots] = v
        else:
            keys[self._rows, :, slots] = k.transpose(1, 2).to(keys.dtype)  # (B, n, H, D)
            values[self._rows, :, slots] = v.transpose(1, 2).to(values.dtype)  # (B, n, H, D)
        return keys[:, :, : self.total], values[:, :, : self.total]

    def rewind(self, lengths: list[int]) -> None:
        """Keeps `lengths[b]` tokens of row b. Raises ValueError for a row that is shorter."""
        for row, (kept, held) in enumerate(zip(lengths, self.lengths, strict=True)):
            if not 0 <= kept <= held:
                raise ValueError(f"length {kept} of row {row} must lie between 0 and {held}")
        self.lengths = list(lengths)
