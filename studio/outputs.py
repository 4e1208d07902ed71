"""What flows between the floors: the layout of a token sequence, and the results of each part.

`TokenLayout` says what a token sequence means; it is plain data and goes into every config as JSON.
Letters: B batch, N tokens, K codebooks, V vocabulary, T frames, H height, W width, C channels, D
width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TokenSegment:
    """A named run of tokens.

    Args:
        name: what the segment is called ("image", "coarse", ...).
        shape: its grid: `(32,)` for 1D tokens, `(16, 16)` for a grid, `(4, 8, 8)` for video.
        vocab_size: V, the number of codes; ids run from 0 to V - 1. 0 with `dim`.
        codebooks: K tokens at every cell (residual audio); 1 elsewhere.
        prefix: True when any first k tokens of the segment can be decoded.
        dim: D, numbers in a continuous token; 0 where tokens are codes.
    """

    name: str
    shape: tuple[int, ...]
    vocab_size: int
    codebooks: int = 1
    prefix: bool = False
    dim: int = 0

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape {self.shape} of segment {self.name!r} must hold sizes >= 1")
        if self.vocab_size < 2 and not (self.dim and self.vocab_size == 0):
            raise ValueError(f"vocab_size {self.vocab_size} of segment {self.name!r} must be >= 2")

    @property
    def num_tokens(self) -> int:
        return math.prod(self.shape) * self.codebooks

    @property
    def bits_per_token(self) -> float:
        """What one token carries; NaN for a continuous one."""
        return math.log2(self.vocab_size) if self.vocab_size else math.nan


@dataclass(frozen=True)
class TokenLayout:
    """The named segments of a token sequence, in order."""

    segments: tuple[TokenSegment, ...]

    @classmethod
    def single(cls, shape, vocab_size: int, *, name: str = "image", prefix: bool = False):
        """A layout of one segment."""
        return cls((TokenSegment(name, tuple(shape), vocab_size, prefix=prefix),))

    @property
    def num_tokens(self) -> int:
        return sum(s.num_tokens for s in self.segments)

    @property
    def vocab_size(self) -> int:
        """The largest vocabulary of all segments: the width that a generator's head needs."""
        return max(s.vocab_size for s in self.segments)

    @property
    def prefix(self) -> bool:
        """True when any first k tokens of the whole sequence can be decoded."""
        return len(self.segments) == 1 and self.segments[0].prefix

    def bits(self, num_tokens: int | None = None) -> float:
        """Bits carried by the first `num_tokens` tokens (all of them when None)."""
        left = self.num_tokens if num_tokens is None else num_tokens
        total = 0.0
        for segment in self.segments:
            n = min(left, segment.num_tokens)
            total += n * segment.bits_per_token
            left -= n
        return total

    def split(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Flat tokens (B, N) to one tensor a segment, each (B, *shape) or (B, K, *shape)."""
        if tokens.shape[-1] != self.num_tokens:
            raise ValueError(
                f"tokens have length {tokens.shape[-1]}; the layout has {self.num_tokens}"
            )
        parts, start = {}, 0
        for s in self.segments:
            lead = (s.codebooks,) if s.codebooks > 1 else ()
            part = tokens[..., start : start + s.num_tokens]
            parts[s.name] = part.reshape(*tokens.shape[:-1], *lead, *s.shape)
            start += s.num_tokens
        return parts

    def join(self, parts: dict[str, torch.Tensor]) -> torch.Tensor:
        """The inverse of `split`: segment tensors to flat tokens (B, N)."""
        import torch

        return torch.cat([parts[s.name].flatten(1) for s in self.segments], dim=1)  # (B, N)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, read back by `from_dict`."""
        return {
            "segments": [
                {
                    "name": s.name,
                    "shape": list(s.shape),
                    "vocab_size": s.vocab_size,
                    "codebooks": s.codebooks,
                    "prefix": s.prefix,
                    **({"dim": s.dim} if s.dim else {}),
                }
                for s in self.segments
            ]
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TokenLayout:
        return cls(
            tuple(TokenSegment(**{**s, "shape": tuple(s["shape"])}) for s in data["segments"])
        )


@dataclass
class QuantizerOutput:
    """What every quantizer returns.

    Args:
        quantized: (..., D), straight-through: its gradient reaches the input.
        indices: int64, the input's shape without the channel axis (with a trailing K for residual
            ones).
        loss: scalar, the quantizer's own training loss (zero when it has none).
        stats: plain tensors for logs, such as `usage` (share of the codebook seen in this batch).
    """

    quantized: torch.Tensor
    indices: torch.Tensor
    loss: torch.Tensor
    stats: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass
class TokenizerOutput:
    """What `Tokenizer.encode` returns.

    Args:
        tokens: int64 (B, N), or (B, K, N) with K codebooks; None for continuous tokenizers.
        latents: the encoder's continuous output before quantization; shape says its class.
        layout: what the tokens mean.
        quantized: what the decoder sees, same shape as `latents`; None where not kept.
        loss: the quantizer's training loss.
    """

    tokens: torch.Tensor | None
    latents: torch.Tensor
    layout: TokenLayout
    quantized: torch.Tensor | None = None
    loss: torch.Tensor | None = None


@dataclass(frozen=True)
class TokenRate:
    """The cost of a medium as tokens: `tokens` a medium, `bits` a medium, and bits per pixel
    (images, video) or per second (audio) in `bits_per_unit`."""

    tokens: int
    bits: float
    bits_per_unit: float
    unit: str


@dataclass
class DecodeState:
    """One step of a decoding stream. Tensors are views of the live run: copy what you keep.

    Args:
        tokens: int64 (B, N) so far; positions that are not `known` hold 0.
        known: bool (B, N), True where a token is there.
        final: bool (B, N), True where it will not change any more.
        step, num_steps: steps done, and how many there will be at most.
        passes: network passes so far (a guided pass counts once).
        proposed, accepted: int64 (B,) tokens drafted and accepted in this step (plain decoding: all
            accepted).
    """

    tokens: torch.Tensor
    known: torch.Tensor
    final: torch.Tensor
    step: int
    num_steps: int
    passes: int
    proposed: torch.Tensor
    accepted: torch.Tensor


@dataclass(frozen=True)
class DecodeStats:
    """What a whole decoding cost: `steps`, network `passes`, `tokens` made a sample, `seconds` of
    wall clock, and tokens `proposed` and `accepted` over all samples.

    `draft_passes` of a draft model. `speculating` is None where tokens are made one a pass, or by
    other means than drafts; False where speculation has switched itself off, since it does not pay
    on this machine.
    """

    steps: int
    passes: int
    tokens: int
    seconds: float
    proposed: int
    accepted: int
    draft_passes: int = 0
    speculating: bool | None = None
