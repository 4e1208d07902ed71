"""A cache whose older tokens are packed to 8, 4 or 2 bits a value.

ZipCache: Accurate and Efficient KV Cache Quantization with Salient Token Identification, 2024,
2405.14256. Keys are quantised per channel; values per token after each channel c was divided by
sqrt(max |x_c|); the tokens that attention leans on keep more bits than the rest. A token's saliency
is its attention column over a few probe queries (the last 5 % of a block and a random 5 %) divided
by the number of probes that could see it; without the division early tokens would always win.

Beyond it: the newest tokens, up to a block, wait at 8 bits (per token and head) until their block
is full. A pass reads its own tokens as they are. Left out on purpose: kernels that attend to packed
values; they are unpacked layer by layer, so this cache saves memory, and time only where memory is
what is short.
"""

import math

import torch

from studio.layers.attention import causal_mask
from studio.layers.cache import check_rewind, to_device
from studio.layers.packing import BITS, PackedTokens, RecentTokens

PROBES = 0.05  # share of a block's queries that probe because they are last, and again at random


class QuantizedCache:
    """Blocks of packed tokens, and the newest ones at 8 bits.

    Args:
        num_layers, batch_size, num_heads, max_length, head_dim, dtype, device: as for
            `StaticCache`; `dtype` is that of what is read.
        salient_bits, bits: 8, 4 or 2, of salient tokens and of the others.
        salient_share: of every block, 0 to 1.
        block: tokens that are packed together, at most 256. Long blocks have less to store beside
            the codes, but wait longer; None takes the length that needs the least memory.

    Packing waits for the next `reserve`, when what was taken back of the last pass is gone; packed
    tokens can't be taken back. A draft is thus verified against neighbours at 8 bits, or as they
    are, where plain decoding may have packed them: over this cache, speculation is not exact.

    Raises:
        ValueError: bits or sizes that do not fit each other.
    """

    in_order = True
    turns_keys = False

    def __init__(
        self,
        *,
        num_layers: int,
        batch_size: int,
        num_heads: int,
        head_dim: int,
        max_length: int,
        dtype: torch.dtype,
        device: torch.device | str,
        salient_bits: int = 4,
        bits: int = 2,
        salient_share: float = 0.6,
        block: int | None = None,
    ):
        for name, value in (("salient_bits", salient_bits), ("bits", bits)):
            if value not in BITS:
                raise ValueError(f"{name} {value} must be one of {BITS}")
        mean_bits = bits + salient_share * (salient_bits - bits)
        block = block or _best_block(max_length, mean_bits)
        if head_dim * min(bits, salient_bits) % 8 or not 2 <= block <= 256:
            raise ValueError(
                f"head_dim {head_dim} must fill whole bytes at {min(bits, salient_bits)} bits, and "
                f"block {block} lie between 2 and 256"
            )
        if not 0 <= salient_share <= 1:
            raise ValueError(f"salient_share {salient_share} must lie between 0 and 1")
        self.block, self.dtype = block, dtype
        self.max_length = self.max_tokens = max_length
        self.lengths = [0] * batch_size
        self.starts: int | torch.Tensor = 0
        self.total = 0
        blocks = max(0, max_length - 1) // block
        front, split = (num_layers, batch_size), round(block * salient_share)
        shape = (*front, blocks, num_heads, block, head_dim)
        widths = (salient_bits, bits)
        self._keys = PackedTokens(shape, split, widths, device, keys=True)
        self._values = PackedTokens(shape, split, widths, device, keys=False)
        self._order = torch.zeros((*front, blocks, block), dtype=torch.uint8, device=device)
        recent = (*front, num_heads, block, head_dim)
        self._new_keys, self._new_values = (
            RecentTokens(recent, device),
            RecentTokens(recent, device),
        )
        # Sums of attention columns over probes, and how many probes could see them.
        self._seen = torch.zeros((2, *front, block), dtype=torch.float16, device=device)
        self._packed = [0] * batch_size  # full blocks of every row
        self._rows = torch.arange(batch_size, device=device).unsqueeze(1)  # (B, 1)
        probes = _probe_places(block)
        self._probe_list, self._probes = probes.tolist(), probes.to(device)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept: codes, bounds, order, saliency."""
        parts = (self._keys, self._values, self._new_keys, self._new_values)
        return sum(p.nbytes for p in parts) + self._order.nbytes + self._seen.nbytes

    def reserve(self, count: int) -> int | torch.Tensor:
        """As `StaticCache.reserve`; packs the blocks that are full by now."""
        first, longest = min(self.lengths), max(self.lengths)
        if longest + count > self.max_length:
            raise ValueError(
                f"{count} tokens after {longest} exceed the cache's max_length {self.max_length}"
            )
        while rows := [b for b in range(len(self.lengths)) if self._waiting(b) >= self.block]:
            self._pack(rows)
        device = self._rows.device
        waiting = [self._waiting(b) for b in range(len(self.lengths))]
        self._resize(-(-(max(waiting) + count) // self.block) * self.block)
        steps = torch.arange(count, device=device)
        first_slots = to_device(waiting, device).unsqueeze(1)  # (B, 1)
        self._slots = first_slots + steps  # (B, n)
        self._at = to_device(self.lengths, device).unsqueeze(1) + steps  # (B, n)
        held = torch.arange(self._seen.shape[-1], device=device) < first_slots  # (B, slots)
        self._seen *= held  # what was taken back counts no more
        self.starts = first if first == longest else to_device(self.lengths, device)
        self.total = longest + count
        places, held = self._probe_list, set(self.lengths)
        self._probing = [  # the queries of this pass that probe, in any row
            i for i in range(count) if any(places[(n + i) % self.block] for n in held)
        ]
        self.lengths = [length + count for length in self.lengths]
        return self.starts

    def _waiting(self, row: int) -> int:
        return self.lengths[row] - self._packed[row] * self.block

    def _resize(self, slots: int) -> None:
        """Room for so many newest tokens, a whole number of blocks: more only for long passes."""
        slots = max(slots, self.block)
        if slots == self._seen.shape[-1]:
            return
        self._new_keys = self._new_keys.resized(slots)
        self._new_values = self._new_values.resized(slots)
        seen = self._seen.new_zeros((*self._seen.shape[:-1], slots))
        kept = min(slots, self._seen.shape[-1])
        seen[..., :kept] = self._seen[..., :kept]
        self._seen = seen

    def _pack(self, rows: list[int]) -> None:
        """Packs the first waiting block of some rows, the most salient tokens first."""
        size, device = self.block, self._rows.device
        at = torch.tensor(rows, device=device)
        blocks = torch.tensor([self._packed[b] for b in rows], device=device)
        sums, counts = self._seen[:, :, at, :size].float()  # (L, R, G)
        order = (sums / counts.clamp(min=1)).argsort(dim=-1, descending=True, stable=True)
        self._order[:, at, blocks] = order.to(torch.uint8)
        for recent, packed in ((self._new_keys, self._keys), (self._new_values, self._values)):
            x = recent.read((slice(None), at, slice(None), slice(0, size)))  # (L, R, H, G, D)
            index = order[:, :, None, :, None].expand_as(x)
            packed.write(at, blocks, x.gather(-2, index))
            recent.drop(at, size)
        self._seen[:, :, at, :-size] = self._seen[:, :, at, size:].clone()
        for b in rows:
            self._packed[b] += 1

    def update(
        self,
        layer: int,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        q: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `StaticCache.update`; the new tokens come back as they are, all others unpacked.

        Args:
            q, mask: weigh the tokens; without queries those of a block count alike.
        """
        keys = self._read(layer, self._keys, self._new_keys, k)
        values = self._read(layer, self._values, self._new_values, v)
        if q is not None and self._probing:
            self._weigh(layer, q, keys, mask)
        return keys, values

    def _read(self, layer: int, packed: PackedTokens, recent: RecentTokens, new: torch.Tensor):
        """Takes `new` (B, H, n, D) and gives all slots up to the longest row, (B, H, total, D)."""
        recent.write(layer, self._rows, self._slots, new)
        batch, heads, _, dim = new.shape
        out = new.new_zeros((batch, heads, self.total, dim), dtype=self.dtype)
        most, size = max(self._packed), self.block
        if most:
            salient = packed.read(layer, most)  # (B, blocks, H, G, D)
            order = self._order[layer, :, :most].long()[:, :, None, :, None].expand_as(salient)
            plain = torch.empty_like(salient).scatter_(-2, order, salient)
            some = min(most * size, self.total)
            out[:, :, :some] = plain.transpose(1, 2).flatten(2, 3)[:, :, :some].to(self.dtype)
        for start, rows in self._groups():
            part = recent.read((layer, rows, slice(None), slice(0, self.total - start)))
            out[rows, :, start : start + part.shape[2]] = part.to(self.dtype)  # (R, H, ., D)
        out[self._rows, :, self._at] = new.transpose(1, 2).to(self.dtype)
        return out

    def _groups(self) -> list[tuple[int, list[int] | slice]]:
        """Where rows stop to be packed, and which rows do."""
        groups: dict[int, list[int]] = {}
        for row, blocks in enumerate(self._packed):
            groups.setdefault(blocks * self.block, []).append(row)
        if len(groups) == 1:
            return [(next(iter(groups)), slice(None))]
        return list(groups.items())

    def _weigh(self, layer: int, q: torch.Tensor, keys: torch.Tensor, mask) -> None:
        """Adds what the probing queries of this pass give to the tokens that wait."""
        heads, n = keys.shape[1], q.shape[2]
        if mask is None:
            starts = self._at[:, 0] if len(set(self.lengths)) > 1 else None
            mask = causal_mask(n, self.total, starts=starts, device=q.device)
        seen = mask if mask.dtype == torch.bool else mask > -math.inf
        seen = seen.expand(len(q), 1, n, self.total)[:, :, self._probing]  # (B, 1, p, total)
        q = q[:, :, self._probing].unflatten(1, (heads, -1))  # (B, H, g, p, D)
        scores = q.float() @ keys.float().unsqueeze(2).transpose(-1, -2) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~seen.unsqueeze(1), -math.inf)
        probes = self._probes[self._at[:, self._probing] % self.block]  # (B, p)
        weights = scores.softmax(-1).mean((1, 2)) * probes.unsqueeze(-1)  # (B, p, total)
        counts = (seen[:, 0] & probes.unsqueeze(-1)).float()  # (B, p, total)
        for start, rows in self._groups():
            for slab, found in zip(self._seen, (weights, counts), strict=True):
                part = found[rows, :, start:].sum(1)[:, : slab.shape[-1]]  # (R, <= slots)
                slab[layer, rows, : part.shape[1]] += part.to(slab.dtype)

    def rewind(self, lengths: list[int]) -> None:
        """Keeps `lengths[b]` tokens of row b.

        Raises:
            ValueError: a row is shorter, or the tokens are packed already.
        """
        check_rewind(lengths, self.lengths)
        for row, kept in enumerate(lengths):
            if kept < self._packed[row] * self.block:
                raise ValueError(
                    f"length {kept} of row {row}: a quantized cache can't go back into the "
                    f"{self._packed[row] * self.block} tokens that it has packed"
                )
        self.lengths = list(lengths)


def _best_block(max_length: int, bits: float) -> int:
    """The block length with the least memory for codes of so many bits on average: a block keeps
    some 16 bits a channel beside them, and as many tokens wait at 8."""

    def cost(block: int) -> float:
        blocks = max(0, max_length - 1) // block
        return blocks * (block * bits + 16) + block * 8.5

    return min(range(16, 257), key=cost)


def _probe_places(block: int) -> torch.Tensor:
    """Which places of a block probe, bool (block,): its end and as many others, always the same."""
    count = max(1, round(PROBES * block))
    places = torch.zeros(block, dtype=torch.bool)
    places[-count:] = True
    others = torch.randperm(block - count, generator=torch.Generator().manual_seed(block))
    places[others[:count]] = True
    return places
