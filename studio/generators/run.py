"""The runs: the one kind of object that holds state while tokens are made.

Decoding knows networks through these two protocols alone.
"""

from typing import Protocol

import torch


class Run(Protocol):
    """What both kinds share: `batch_size` (B), `num_tokens` (N, the most there can be), `passes`
    (network passes so far, a guided and therefore doubled pass counting once) and `device`."""

    batch_size: int
    num_tokens: int
    passes: int
    device: torch.device


class OrderedRun(Run, Protocol):
    """Extends sequences from left to right."""

    @property
    def lengths(self) -> torch.Tensor:
        """Image tokens held by every row, int64 (B,)."""
        ...

    def extend(self, tokens: torch.Tensor) -> torch.Tensor:
        """Appends and scores tokens int64 (B, n) in one pass.

        Returns:
            float32 logits (B, n, V), guided; row i scores the token after input i. The first call
            also feeds the condition and its answer has one row more: (B, n + 1, V), row 0 scoring
            token 0.
        """
        ...

    def rewind(self, lengths: torch.Tensor) -> None:
        """Keeps only the first `lengths[b]` image tokens of row b, int64 (B,). Costs nothing."""
        ...


class UnorderedRun(Run, Protocol):
    """Scores all positions of partly known sequences."""

    def fill(
        self, tokens: torch.Tensor, known: torch.Tensor, *, step: int = 0, num_steps: int = 1
    ) -> torch.Tensor:
        """One pass over tokens int64 (B, N), of which those not `known` bool (B, N) are masked.

        Args:
            step, num_steps: where decoding stands; guidance schedules read it.

        Returns:
            float32 logits (B, N, V), guided.
        """
        ...
