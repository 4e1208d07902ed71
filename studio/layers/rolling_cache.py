"""Caches that hold a window of the latest tokens and some sinks, whatever the length of the stream.

Efficient Streaming Language Models with Attention Sinks (StreamingLLM), 2023, 2309.17453: the first
tokens stay, since softmax leans on them, and positions count slots of the cache, so keys are kept
before their rotary positions and turned at use. Reward Forcing: Efficient Streaming Video
Generation with Rewarded Distribution Matching Distillation, 2025, 2512.04678: what leaves the
window is blended into the sinks (EMA-Sink). Left out on purpose: attention over what has left.
"""

import torch

from studio.layers.cache import check_rewind, to_device
from studio.layers.rope import rotate


class RollingCache:
    """The first `sink` tokens, and a ring with the latest `window` ones.

    A token sees the sinks and the last `window` tokens, itself among them. The ring is `slack`
    slots longer than the window: so several tokens may be fed at once, each with a window of its
    own, and up to `slack` tokens taken back by moving a pointer.

    Args:
        num_layers, batch_size, num_heads, head_dim, dtype, device: as for `StaticCache`.
        sink: first tokens that stay.
        window: W latest tokens.
        slack: the longest roll-back.
        rope: None, keys come turned by their true positions. A rotary table of at least `sink +
            window + slack` rows: keys come as they are, and positions count what a token sees: a
            sink stands at its index, the newest token at `sink + window - 1` at most.
        prefix: rows of the table in front of position 0 (`rope_table(num_condition=...)`), which
            the first tokens keep; at most `sink`.
        max_length: not looked at; streams have no end.

    Raises:
        ValueError: `window` is below 1, or a table is too short.
    """

    in_order = False

    def __init__(
        self,
        *,
        num_layers: int,
        batch_size: int,
        num_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
        sink: int = 4,
        window: int = 512,
        slack: int = 64,
        rope: torch.Tensor | None = None,
        prefix: int = 0,
        max_length: int | None = None,
    ):
        self.sink, self.window, self.slack = sink, window, slack
        self.ring = window + slack
        size = sink + self.ring
        if window < 1 or sink < 0 or slack < 0:
            raise ValueError(f"window {window} must be at least 1, sink {sink} and slack {slack} 0")
        if rope is not None and len(rope) < size:
            raise ValueError(f"rope has {len(rope)} rows; sink, window and slack need {size}")
        shape = (num_layers, batch_size, num_heads, size, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = [0] * batch_size
        self.starts: int | torch.Tensor = 0
        self.total = size
        self.max_tokens = slack + 1
        self.turns_keys = rope is not None
        self.query_rope: torch.Tensor | None = None
        self._rope, self._prefix = rope, prefix
        self._written = [0] * batch_size  # the most tokens that each row ever held
        self._rows = torch.arange(batch_size, device=device).unsqueeze(1)  # (B, 1)

    @property
    def nbytes(self) -> int:
        """Bytes of both slabs."""
        return self.keys.nbytes + self.values.nbytes

    def reserve(self, count: int) -> int | torch.Tensor:
        """As `StaticCache.reserve`; `starts` are positions in the stream.

        Raises:
            ValueError: more than `max_tokens` at once.
        """
        if not 0 <= count <= self.max_tokens:
            raise ValueError(
                f"{count} tokens at once exceed the {self.max_tokens} that a rolling cache with "
                f"slack {self.slack} takes"
            )
        device = self.keys.device
        same = min(self.lengths) == max(self.lengths)
        held = self.lengths[:1] if same and len(set(self._written)) == 1 else self.lengths
        first = to_device(held, device).unsqueeze(1)  # (R, 1), R = 1 or B
        self.starts = self.lengths[0] if same else first[:, 0]
        self.lengths = [length + count for length in self.lengths]
        self._written = [max(w, n) for w, n in zip(self._written, self.lengths, strict=True)]
        self._at = first + torch.arange(count, device=device)  # (R, n) positions of new tokens
        over = (self._at - self.sink) % self.ring + self.sink
        self._slots = torch.where(self._at < self.sink, self._at, over)  # (R, n)
        self._held = self._positions(to_device(self._written[: len(first)], device))
        if self._rope is not None:
            self._turn(first, held, count)
        return self.starts

    def _positions(self, written: torch.Tensor) -> torch.Tensor:
        """Which token every slot holds when `written` (R,) were, (R, slots); < 0 for none."""
        sinks = torch.arange(self.sink, device=written.device).expand(len(written), -1)
        last = written.unsqueeze(1) - 1 - self.sink  # (R, 1), the last one's place past the sinks
        places = torch.arange(self.ring, device=written.device)
        held = last - (last - places) % self.ring  # (R, ring)
        held = torch.where(held < 0, -self.sink - 1, held) + self.sink
        return torch.cat((sinks, held), dim=1)  # (R, slots)

    def _turn(self, first: torch.Tensor, held: list[int], count: int) -> None:
        """The table's rows for the new queries, for the ring, and for one or more sets of sinks.

        Distances to the window are true ones. Distances to a sink stop growing once the window is
        full, so that tokens fed together may each need sinks turned for themselves.
        """
        at, table = self._at, self._rope
        assert table is not None  # it is why keys are turned here
        steps = torch.arange(count, device=at.device)
        base = first.clamp(max=self.sink + self.ring - count)  # (R, 1)
        slot = at.clamp(max=self.sink + self.window - 1)  # (R, n), positions as a token counts them
        full = max(held) + count > self.sink + self.window
        self._sets = count if full else 1
        shift = (base + steps - slot)[:, : self._sets, None]  # (R, sets, 1), turns a set of sinks
        sinks = (table[: self.sink] * table[self._prefix + shift]).flatten(1, 2)  # (R, ., P)
        ring = base - first + self._held[:, self.sink :]  # (R, ring)
        ring = table[ring.clamp(0, len(table) - 1)]  # (R, ring, P)
        self._key_rope = torch.cat((sinks, ring), dim=1)  # (R, sets * sink + ring, P)
        self.query_rope = table[base + steps]  # (R, n, P)

    def mask(self, columns: torch.Tensor | None = None) -> torch.Tensor:
        """Who may see what of the last `reserve`, bool (B or 1, 1, n, keys) for `update`'s keys.

        Args:
            columns: bool (B, positions), False at tokens that nobody sees but themselves (padding).
        """
        held, at = self._held.unsqueeze(1), self._at.unsqueeze(-1)  # (R, 1, slots), (R, n, 1)
        seen = (held >= 0) & (held <= at) & ((held < self.sink) | (at - held < self.window))
        if columns is not None:
            rows = self._held.expand(len(columns), -1).clamp(0, columns.shape[1] - 1)
            known = columns.gather(1, rows) | (self._held >= columns.shape[1])  # (B, slots)
            seen = seen & known.unsqueeze(1) | (held == at)
        if self.turns_keys and self._sets > 1:
            own = torch.eye(self._sets, dtype=torch.bool, device=seen.device)
            sinks = seen[..., None, : self.sink] & own[..., None]  # (R, n, sets, sink)
            seen = torch.cat((sinks.flatten(2), seen[..., self.sink :]), dim=-1)
        return seen.unsqueeze(1)  # (B or 1, 1, n, keys)

    def update(
        self,
        layer: int,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        q: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `StaticCache.update`; keys and values (B, H, keys, D) in the order of `mask`."""
        keys, values = self.keys[layer], self.values[layer]  # (B, H, slots, D)
        slots = self._slots.expand(len(keys), -1)
        keys[self._rows, :, slots] = k.transpose(1, 2).to(keys.dtype)  # (B, n, H, D)
        values[self._rows, :, slots] = v.transpose(1, 2).to(values.dtype)  # (B, n, H, D)
        if not self.turns_keys:
            return keys, values
        if self._sets > 1:
            keys, values = (
                torch.cat(
                    (x[:, :, : self.sink].repeat(1, 1, self._sets, 1), x[:, :, self.sink :]), 2
                )
                for x in (keys, values)
            )
        keys = rotate(keys.transpose(1, 2), self._key_rope).transpose(1, 2)
        return keys, values

    def rewind(self, lengths: list[int]) -> None:
        """Keeps `lengths[b]` tokens of row b.

        Raises:
            ValueError: a row is shorter, or what its next token has to see was overwritten.
        """
        check_rewind(lengths, self.lengths)
        for row, (kept, written) in enumerate(zip(lengths, self._written, strict=True)):
            if written > self.sink + self.ring and kept < written - self.slack - 1:
                raise ValueError(
                    f"length {kept} of row {row}: a rolling cache that saw {written} tokens goes "
                    f"back {self.slack + 1} at most (its slack)"
                )
        self.lengths = list(lengths)


class EMASinkCache:
    """A window over blocks whose sinks take in what leaves.

    The first `sink` tokens are the sinks. When a block does not fit any more, the oldest ones past
    the sinks leave as one block e, and s <- alpha s + (1 - alpha) e, slot by slot, for values and
    for keys before rotary. A block that is as long as the sinks blends; of any other length it
    overwrites the first of them, as the released code does. Positions count slots.

    Args:
        num_layers, batch_size, num_heads, head_dim, dtype, device: as for `StaticCache`; all rows
            are equally long.
        sink: tokens.
        window: tokens held at most, sinks among them.
        rope: rotary table of at least `window` rows.
        alpha: 0.999 in the released code.

    Raises:
        ValueError: `sink` is not below `window`, or the table is too short.
    """

    in_order = False
    turns_keys = True

    def __init__(
        self,
        *,
        num_layers: int,
        batch_size: int,
        num_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
        sink: int,
        window: int,
        rope: torch.Tensor,
        alpha: float = 0.999,
    ):
        if not 0 <= sink < window or len(rope) < window:
            raise ValueError(
                f"sink {sink} must be below window {window}, and rope's {len(rope)} rows cover it"
            )
        shape = (num_layers, batch_size, num_heads, window, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.sink, self.window, self.alpha = sink, window, alpha
        self.lengths = [0] * batch_size
        self.starts: int | torch.Tensor = 0
        self.total = 0
        self.max_tokens = window - sink
        self.query_rope: torch.Tensor | None = None
        self._rope = rope
        self._left = 0  # tokens that have left
        self._fixed = 0  # shortest length that can be gone back to
        self._new = slice(0, 0)

    @property
    def nbytes(self) -> int:
        """Bytes of both slabs."""
        return self.keys.nbytes + self.values.nbytes

    def reserve(self, count: int) -> int:
        """Makes room for a block, at the cost of the oldest one; returns its first slot.

        Raises:
            ValueError: the block is longer than the window past the sinks.
        """
        length = self.lengths[0]
        if count > self.max_tokens and length - self._left + count > self.window:
            raise ValueError(f"{count} tokens at once exceed the window's {self.max_tokens}")
        over = length - self._left + count - self.window
        if over > 0:
            self._evict(over, length)
        start = length - self._left
        self.starts, self.total = start, start + count
        self._new = slice(start, self.total)
        self.query_rope = self._rope[self._new]
        self.lengths = [length + count] * len(self.lengths)
        return start

    def _evict(self, count: int, length: int) -> None:
        sink = self.sink
        for slab in (self.keys, self.values):
            leaving = slab[..., sink : sink + count, :]
            if count == sink:
                slab[..., :sink, :] = self.alpha * slab[..., :sink, :] + (1 - self.alpha) * leaving
            else:
                some = min(count, sink)
                slab[..., :some, :] = leaving[..., :some, :].clone()
            slab[..., sink:-count, :] = slab[..., sink + count :, :].clone()
        self._left += count
        self._fixed = length

    def mask(self, columns: torch.Tensor | None = None) -> None:
        """None: a block sees all that is held, and itself both ways."""
        return None

    def update(
        self,
        layer: int,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        q: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `StaticCache.update`; keys come back turned by their slots."""
        keys, values = self.keys[layer], self.values[layer]  # (B, H, window, D)
        keys[:, :, self._new], values[:, :, self._new] = k.to(keys.dtype), v.to(values.dtype)
        seen = keys[:, :, : self.total].transpose(1, 2)  # (B, total, H, D)
        turned = rotate(seen, self._rope[: self.total]).transpose(1, 2)  # (B, H, total, D)
        return turned, values[:, :, : self.total]

    def rewind(self, lengths: list[int]) -> None:
        """Keeps `lengths[b]` tokens of row b, so that a block can be made again.

        Raises:
            ValueError: a row is shorter, rows differ, or tokens left since.
        """
        check_rewind(lengths, self.lengths)
        if len(set(lengths)) > 1:
            raise ValueError(f"lengths {lengths} must be equal in an EMA-sink cache")
        if lengths[0] < self._fixed:
            raise ValueError(
                f"length {lengths[0]}: an EMA-sink cache can't go back before {self._fixed}, where "
                "tokens left for the sinks"
            )
        self.lengths = list(lengths)
