"""Scores of all tokens at once, from the condition alone.

Where a caption nearly decides its picture, most of what a generator has to learn is which tokens go
with which words. A perceptron over the pooled condition learns that at a small part of the cost of
a transformer over all tokens, which then corrects it from the tokens that are known. Ours, after
the idea of draft heads ("Medusa", 2024, arXiv 2401.10774); no official network has it. Leaves out
on purpose: any dependence between tokens.
"""

import torch
from torch import nn
from torch.nn import functional as F


class ConditionPrior(nn.Module):
    """Digit logits of every position from the rows of a condition.

    Args:
        dim: D, width of the condition's rows.
        hidden: of the perceptron.
        num_tokens: N.
        outputs: E, the sum of a code's digit levels.
    """

    def __init__(self, dim: int, hidden: int, num_tokens: int, outputs: int):
        super().__init__()
        self.num_tokens = num_tokens
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, num_tokens * outputs)

    def reset(self) -> None:
        """First weights: each layer keeps the size of its input, the last one starts small."""
        for layer in (self.fc1, self.fc2):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.normal_(self.out.weight, std=0.01)

    def forward(self, rows: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """Rows (B, S, D), of which `real` (B, S) count (all when None), to logits (B, N, E)."""
        if real is None:
            pooled = rows.mean(1)
        else:
            weights = real.to(rows.dtype).unsqueeze(-1)  # (B, S, 1)
            pooled = (rows * weights).sum(1) / weights.sum(1).clamp(min=1)  # (B, D)
        hidden = F.silu(self.fc1(self.norm(pooled)))
        hidden = hidden + F.silu(self.fc2(hidden))
        return self.out(hidden).unflatten(-1, (self.num_tokens, -1)).float()  # (B, N, E)


def build_prior(config, num_tokens: int) -> ConditionPrior | None:
    """The prior of a generator's config, or None. Raises ValueError without a head of digits."""
    if not config.prior_dim:
        return None
    if config.head == "full" or config.condition == "class":
        raise ValueError(
            f"prior_dim {config.prior_dim} needs captions and head 'digits' or 'digits+full'"
        )
    return ConditionPrior(config.dim, config.prior_dim, num_tokens, sum(config.token_levels))
