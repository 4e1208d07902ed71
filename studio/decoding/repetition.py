"""Repetition-aware sampling: a token that was just drawn too often is drawn again, from everything.

VALL-E 2 (2024, 2406.05370): speech tokens drawn from few likely ones may get stuck in a loop, and
drawn from all they wander. So each is drawn from the few, and when the last ones hold it too often,
once more from the whole distribution. Left out on purpose: penalties on logits, which change every
token.
"""

import torch


def repeated(
    tokens: torch.Tensor, drawn: torch.Tensor, *, window: int, share: float
) -> torch.Tensor:
    """Whether each drawn token is at least `share` of the last `window` tokens, bool (B,).

    Args:
        tokens: int64 (B, n), those before; fewer than `window` count as they are.
        drawn: int64 (B,).
        window: >= 1.
        share: of `window`, above 0.
    """
    last = tokens[:, max(0, tokens.shape[1] - window) :]  # (B, m)
    return (last == drawn.unsqueeze(1)).sum(1) >= share * window
