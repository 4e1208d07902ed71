"""Keys and values at 8, 4 or 2 bits: the codes, what they mean, and the bytes that hold them.

ZipCache: Accurate and Efficient KV Cache Quantization with Salient Token Identification, 2024,
2405.14256: asymmetric steps between the least and the greatest value, keys per channel, values per
token after each channel c was divided by sqrt(max |x_c|). Left out on purpose: fused kernels.
"""

import torch

BITS = (8, 4, 2)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes uint8 (..., C) below 2^bits to bytes (..., C bits / 8), the first one lowest."""
    share = 8 // bits
    shifts = torch.arange(share, device=codes.device, dtype=torch.uint8) * bits
    return (codes.unflatten(-1, (-1, share)) << shifts).sum(-1, dtype=torch.uint8)


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """The reverse of `pack`: bytes (..., P) to codes uint8 (..., P 8 / bits)."""
    shifts = torch.arange(8 // bits, device=packed.device, dtype=torch.uint8) * bits
    codes = (packed.unsqueeze(-1) >> shifts) & (2**bits - 1)  # (..., P, 8 / bits)
    return codes.flatten(-2)


def _bounds(x: torch.Tensor, dims: int | tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The least value and the span over `dims`, which stay as 1, as they are kept: float16."""
    low, high = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
    return low.half(), (high - low).clamp(min=1e-5).half()


def _log_codes(x: torch.Tensor, rounded=torch.round) -> torch.Tensor:
    """Positive numbers as int8: eighths of their logarithm to base 2."""
    return rounded(x.float().clamp(min=2**-16).log2() * 8).clamp(-128, 127).to(torch.int8)


def _from_log(codes: torch.Tensor) -> torch.Tensor:
    return torch.exp2(codes.float() / 8)


def _encode(x: torch.Tensor, low: torch.Tensor, span: torch.Tensor, bits: int) -> torch.Tensor:
    steps = 2**bits - 1
    return ((x - low.float()) * (steps / span.float())).round().clamp(0, steps).to(torch.uint8)


def _decode(codes: torch.Tensor, low: torch.Tensor, span: torch.Tensor, bits: int) -> torch.Tensor:
    return torch.addcmul(low.float(), codes.float(), span.float() / (2**bits - 1))


class RecentTokens:
    """The newest tokens of all rows at 8 bits, per token and head: (L, B, H, slots, D)."""

    def __init__(self, shape: tuple[int, ...], device):
        self.codes = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.bounds = torch.zeros((2, *shape[:-1], 1), dtype=torch.float16, device=device)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.bounds.nbytes

    def write(self, layer: int, rows: torch.Tensor, slots: torch.Tensor, x: torch.Tensor) -> None:
        """x (B, H, n, D) at slots (B, n)."""
        x = x.transpose(1, 2).float()  # (B, n, H, D)
        low, span = _bounds(x, -1)  # (B, n, H, 1)
        self.codes[layer, rows, :, slots] = _encode(x, low, span, 8)
        self.bounds[0, layer, rows, :, slots] = low
        self.bounds[1, layer, rows, :, slots] = span

    def read(self, part) -> torch.Tensor:
        """The float32 values of an index into (L, B, H, slots)."""
        return _decode(self.codes[part], self.bounds[0][part], self.bounds[1][part], 8)

    def drop(self, rows: torch.Tensor, count: int) -> None:
        """Takes the first `count` slots of some rows out."""
        for slab in (self.codes, *self.bounds):
            slab[:, rows, :, :-count] = slab[:, rows, :, count:].clone()

    def resized(self, slots: int) -> "RecentTokens":
        """The same with another number of slots, which what is held must fit."""
        *front, old, dim = self.codes.shape
        other = RecentTokens((*front, slots, dim), self.codes.device)
        kept = min(old, slots)
        other.codes[..., :kept, :] = self.codes[..., :kept, :]
        other.bounds[..., :kept, :] = self.bounds[..., :kept, :]
        return other


class PackedTokens:
    """Full blocks of keys or of values: (L, B, blocks, H, tokens, D) at two widths of bits.

    `low` and `span` are per channel for keys, (L, B, blocks, H, 1, D), and per token for values,
    (L, B, blocks, 1, G, 1), whose channels are divided by `scale`. What is kept a channel takes few
    bits: the logarithm of spans, rounded up, and of scales.
    """

    def __init__(
        self, shape: tuple[int, ...], split: int, bits: tuple[int, int], device, keys: bool
    ):
        *front, heads, tokens, dim = shape
        self.bits, self.split = bits, split
        self.parts = [
            torch.zeros((*front, heads, n, dim * b // 8), dtype=torch.uint8, device=device)
            for n, b in zip((split, tokens - split), bits, strict=True)
        ]
        bounds = (heads, 1, dim) if keys else (1, tokens, 1)
        self.low = torch.zeros((*front, *bounds), dtype=torch.float16, device=device)
        self.span = torch.zeros_like(self.low, dtype=torch.int8 if keys else torch.float16)
        channels = (*front, heads, 1, dim)
        self.scale = None if keys else torch.zeros(channels, dtype=torch.int8, device=device)

    @property
    def nbytes(self) -> int:
        scale = 0 if self.scale is None else self.scale.nbytes
        return sum(p.nbytes for p in self.parts) + self.low.nbytes + self.span.nbytes + scale

    def write(self, rows: torch.Tensor, blocks: torch.Tensor, x: torch.Tensor) -> None:
        """x (L, R, H, G, D), the most salient tokens first, as block `blocks[i]` of `rows[i]`."""
        place = (slice(None), rows, blocks)
        if self.scale is not None:
            scale = _log_codes(x.abs().amax(-2, keepdim=True).sqrt())
            self.scale[place] = scale
            x = x / _from_log(scale)
        low, span = _bounds(x, -2 if self.scale is None else (-3, -1))
        if self.scale is None:
            span = _log_codes(span, torch.ceil)
        self.low[place], self.span[place] = low, span
        pieces = x[..., : self.split, :], x[..., self.split :, :]
        bounds = zip(self._halves(low), self._halves(span), strict=True)
        for part, bits, piece, pair in zip(self.parts, self.bits, pieces, bounds, strict=True):
            part[place] = pack(_encode(piece, *pair, bits), bits)

    def read(self, layer: int, blocks: int) -> torch.Tensor:
        """The first blocks of a layer, float32 (B, blocks, H, G, D), salient tokens first."""
        place = (layer, slice(None), slice(0, blocks))
        bounds = zip(self._halves(self.low[place]), self._halves(self.span[place]), strict=True)
        both = [
            _decode(unpack(part[place], bits), *pair, bits)
            for part, bits, pair in zip(self.parts, self.bits, bounds, strict=True)
        ]
        x = torch.cat(both, dim=-2)  # (B, blocks, H, G, D)
        return x if self.scale is None else x * _from_log(self.scale[place])

    def _halves(self, bounds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The bounds of salient tokens and of the others; those of keys are the same."""
        if self.scale is None:
            bounds = _from_log(bounds) if bounds.dtype == torch.int8 else bounds
            return bounds, bounds
        return bounds[..., : self.split, :], bounds[..., self.split :, :]
