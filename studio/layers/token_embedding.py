"""Vectors of tokens, and scores of tokens, with an option for codes made of digits.

A code of a finite scalar quantizer (2023, 2309.15505) is a number whose digits, the first one
fastest, are its levels on every axis. Codes that share digits look alike, so a table a digit learns
much faster than one row a code. Left out on purpose: weight tying, which none of our models uses.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

HEADS = ("full", "digits", "digits+full")


def digit_basis(levels: Sequence[int]) -> list[int]:
    """What one step of each digit is worth, the first digit being the fastest."""
    return [math.prod(levels[:i]) for i in range(len(levels))]


def digit_rows(levels: Sequence[int]) -> torch.Tensor:
    """The row of each digit of every code in a table that holds the levels of all digits one after
    the other: int64 (V, d)."""
    digits = Digits(levels)(torch.arange(math.prod(levels), device="cpu"))  # (V, d)
    first = [sum(levels[:i]) for i in range(len(levels))]
    return digits + torch.tensor(first, device="cpu")


def check_levels(levels: Sequence[int], vocab_size: int) -> None:
    """Raises ValueError unless the levels multiply to the vocabulary."""
    if math.prod(levels) != vocab_size:
        raise ValueError(f"token_levels {list(levels)} must multiply to vocab_size {vocab_size}")


class Digits(nn.Module):
    """Splits codes into digits. Plain numbers inside: nothing to load or to misplace."""

    def __init__(self, levels: Sequence[int]):
        super().__init__()
        self.levels = tuple(levels)
        self.basis = digit_basis(levels)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (...) to digits int64 (..., d)."""
        parts = [(codes // b) % n for b, n in zip(self.basis, self.levels, strict=True)]
        return torch.stack(parts, dim=-1)  # (..., d)


class TokenEmbedding(nn.Module):
    """Ids to vectors.

    Args:
        vocab_size: V, ids 0 .. V - 1 are codes.
        dim: D.
        levels: levels of each digit of a code; None for one row a code.
        num_special: ids V .. V + num_special - 1 (mask, classes ...), always one row each.
        num_positions: N, when every position has digit tables of its own (1D tokens, where a digit
            means something else at each position); 0 when all share them.
        num_places: N, when every position has a vector of its own that is added to its code's; 0
            for none.
    """

    rows: torch.Tensor

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        levels: Sequence[int] | None = None,
        num_special: int = 0,
        num_positions: int = 0,
        num_places: int = 0,
    ):
        super().__init__()
        self.vocab_size = vocab_size
        self.num_positions = num_positions
        self.digits = None
        self.places = nn.Embedding(num_places, dim) if num_places else None
        if num_positions and levels is None:
            raise ValueError(f"num_positions {num_positions} needs token_levels")
        if levels is None:
            self.table = nn.Embedding(vocab_size + num_special, dim)
            return
        check_levels(levels, vocab_size)
        self.digits = Digits(levels)
        # Follows from the levels, so it is in no file; a table, since decoding is bound by calls.
        self.register_buffer("rows", digit_rows(levels), persistent=False)
        self.table = nn.Embedding(sum(levels) * max(1, num_positions), dim)
        self.special = nn.Embedding(num_special, dim) if num_special else None

    def forward(self, ids: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Ids int64 (..., n) to (..., n, D); `positions` broadcast to ids, first n when None."""
        x = self._of_codes(ids, positions)
        if self.places is None:
            return x
        first = torch.arange(ids.shape[-1], device=ids.device)
        return x + self.places(first if positions is None else positions)

    @property
    def needs_positions(self) -> bool:
        """Whether the answer depends on where ids stand."""
        return bool(self.num_positions) or self.places is not None

    def _of_codes(self, ids: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
        if self.digits is None:
            return self.table(ids)
        codes = ids if self.special is None else ids.clamp(max=self.vocab_size - 1)
        rows = F.embedding(codes, self.rows)  # (..., n, d)
        if self.num_positions:
            first = torch.arange(ids.shape[-1], device=ids.device)
            places = first if positions is None else positions
            rows = rows + (places * sum(self.digits.levels)).unsqueeze(-1)
        x, *others = self.table(rows).unbind(-2)  # (..., n, D) each
        for other in others:
            x = x + other
        if self.special is None:
            return x
        special = self.special((ids - self.vocab_size).clamp(min=0))
        return torch.where((ids >= self.vocab_size).unsqueeze(-1), special, x)


class TokenHead(nn.Module):
    """Features to logits over all codes.

    Args:
        dim: D.
        vocab_size: V.
        kind: "full", one linear map to V; "digits", a linear map to the levels of each digit, a
            code's logit being the sum over its digits (an exact softmax over V which takes the
            digits as independent given the context); "digits+full", that plus a map of low rank to
            V, which starts at zero and learns what digits have to do with each other.
        levels: levels of each digit; needed by the latter two.
        rank: of the low-rank map.
        bias: whether the linear maps carry one.
        num_positions: N, when every position has a digit map of its own; 0 when all share one.
    """

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        *,
        kind: str = "full",
        levels: Sequence[int] | None = None,
        rank: int = 64,
        bias: bool = False,
        num_positions: int = 0,
    ):
        super().__init__()
        self.num_positions = num_positions
        if num_positions and kind == "full":
            raise ValueError(f'num_positions {num_positions} needs head "digits" or "digits+full"')
        if kind not in HEADS:
            raise ValueError(f"head {kind!r} must be one of {HEADS}")
        self.kind = kind
        if kind == "full":
            self.full = nn.Linear(dim, vocab_size, bias=bias)
            return
        if levels is None:
            raise ValueError(f"head {kind!r} needs token_levels")
        check_levels(levels, vocab_size)
        self.split = Digits(levels)
        self.digits = nn.Linear(dim, sum(levels), bias=bias)
        if num_positions:
            self.by_position = nn.Parameter(torch.randn(num_positions, dim, sum(levels)) * 0.02)
        if kind == "digits+full":
            self.down = nn.Linear(dim, rank, bias=False)
            self.up = nn.Linear(rank, vocab_size, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        positions: torch.Tensor | None = None,
        prior: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Features (B, n, D) to float32 logits (B, n, V).

        Args:
            positions: (n,) or (B, n), for heads with maps a position; the first n when None.
            prior: digit logits (B, n, sum(levels)) that are added.
        """
        if self.kind == "full":
            return self.full(x).float()
        logits = self.expand(self.digit_logits(x, positions, prior))
        return logits if self.kind == "digits" else logits + self.up(self.down(x)).float()

    def zero_correction(self) -> None:
        """Makes the low-rank map start at zero."""
        if self.kind == "digits+full":
            nn.init.zeros_(self.up.weight)

    def digit_logits(
        self,
        x: torch.Tensor,
        positions: torch.Tensor | None = None,
        prior: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, n, D) to the logits of all digits side by side, float32 (B, n, sum(levels))."""
        if self.kind == "full":
            raise ValueError('digit logits need head "digits" or "digits+full", not "full"')
        logits = self.digits(x)
        if self.num_positions:
            count = x.shape[-2]
            weights = self.by_position[:count] if positions is None else self.by_position[positions]
            shape = "bnd,bnde->bne" if weights.ndim == 4 else "bnd,nde->bne"
            logits = logits + torch.einsum(shape, x, weights)  # (B, n, sum(levels))
        return logits.float() if prior is None else logits.float() + prior

    def expand(self, logits: torch.Tensor) -> torch.Tensor:
        """Digit logits (..., sum(levels)) to the logits of all codes (..., V)."""
        parts = logits.split(self.split.levels, dim=-1)
        total, front = parts[0], logits.shape[:-1]
        for part in parts[1:]:
            total = (part.unsqueeze(-1) + total.unsqueeze(-2)).view(*front, -1)  # (..., n * so far)
        return total

    def cross_entropy(
        self,
        x: torch.Tensor,
        targets: torch.Tensor,
        *,
        label_smoothing: float = 0.0,
        prior: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Loss of every token, computed the cheap way where there is one.

        Args:
            x: features (B, N, D).
            targets: codes int64 (B, N).
            label_smoothing: share of the target given to all codes; of each digit for head
                "digits".
            prior: as in `forward`.

        Returns:
            float32 (B, N), in nats. Without smoothing it is -log softmax(forward(x))[target].
        """
        if self.kind != "digits":
            return _entropy(self(x, prior=prior), targets, label_smoothing)
        return self.digit_entropy(self.digit_logits(x, prior=prior), targets, label_smoothing)

    def digit_entropy(
        self, logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
    ) -> torch.Tensor:
        """Loss (B, N) of digit logits (B, N, sum(levels)) at codes (B, N), in nats."""
        parts = logits.split(self.split.levels, dim=-1)
        digits = self.split(targets).unbind(-1)
        losses = [_entropy(p, d, label_smoothing) for p, d in zip(parts, digits, strict=True)]
        return torch.stack(losses).sum(0)  # (B, N)


def _entropy(logits: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    loss = F.cross_entropy(
        logits.flatten(0, -2), targets.flatten(), reduction="none", label_smoothing=smoothing
    )
    return loss.view(targets.shape)
