"""Scores of all tokens at once, from the caption alone.

Where a caption nearly decides its picture, most of what a generator has to learn is which tokens go
with which words. A small network over the condition learns that at a small part of the cost of a
transformer over all tokens, which then corrects it from the tokens that are known. Three things
make it learn fast and combine what it never saw together: attention pooling ("Set Transformer",
2018, arXiv 1810.00825) gathers object and colours apart, products of them ("GLU Variants Improve
Transformer", 2020, arXiv 2002.05202, the bilinear one) carry a colour over to any object, and a
digit of a finite scalar code is scored as what it is, an interval of a number. Ours, after the idea
of draft heads ("Medusa", 2024, arXiv 2401.10774); no official network has it. Leaves out on
purpose: any dependence between tokens.
"""

import torch
import torch.nn.functional as F
from torch import nn

QUERIES = 4
RANGE = 1.75  # centres of the levels start between - RANGE and RANGE


class ConditionPrior(nn.Module):
    """Digit logits of every position from the rows of a condition.

    Every digit of every token is a number m, every token has a sharpness k, and level l of a digit,
    with its centre c_l, has the logit - k (m - c_l)^2 + b_l.

    Args:
        dim: D, width of the condition's rows.
        hidden: of the perceptron.
        num_tokens: N.
        levels: of every digit of a code; E is their sum.
        refined: how many leading tokens are followed by one that codes what rounding them left over
            (`PrefixTokenizer`); the two share their numbers, since what is left over jumps where
            the number does not.
        gates: G; 0 reads the numbers from the products themselves. Otherwise they are brought down
            to a look of `look` numbers, and how a look becomes tokens is a matter of the gate that
            is open (a motion): what is learned of a look with one gate is there for all.
        look: R, width of the look.

    Raises:
        ValueError: only one of `gates` and `look` is there.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        num_tokens: int,
        levels: list[int],
        *,
        refined: int = 0,
        gates: int = 0,
        look: int = 0,
    ):
        super().__init__()
        if (gates > 0) != (look > 0):
            raise ValueError(f"prior_gates {gates} and prior_look {look} must both be 0 or neither")
        self.levels, self.refined = list(levels), refined
        self.queries = nn.Parameter(torch.empty(QUERIES, dim))
        self.norm = nn.LayerNorm(QUERIES * dim)
        self.factors = nn.Linear(QUERIES * dim, 2 * hidden)
        self.gates = nn.Linear(QUERIES * dim, gates) if gates else None
        self.look = nn.Linear(hidden, look, bias=False) if gates else None
        width = gates * (look + 1) if gates else hidden
        self.out = nn.Linear(width, (num_tokens - refined) * (len(levels) + 1))
        self.centres = nn.Parameter(torch.empty(num_tokens, sum(levels)))
        self.bias = nn.Parameter(torch.empty(num_tokens, sum(levels)))

    def reset(self) -> None:
        """First weights: each layer keeps the size of its input."""
        nn.init.normal_(self.queries, std=0.3)
        nn.init.normal_(self.factors.weight, std=self.factors.in_features**-0.5)
        nn.init.normal_(self.out.weight, std=0.3 * self.out.in_features**-0.5)
        nn.init.zeros_(self.bias)
        fine = slice(1, 2 * self.refined, 2)
        with torch.no_grad():
            rows = [torch.linspace(-RANGE, RANGE, n) for n in self.levels]
            self.centres.copy_(torch.cat(rows))  # (N, E)
            # the levels of what is left over fill one step of the number's own levels
            self.centres[fine] = torch.cat([row / n for row, n in zip(rows, self.levels)])

    def forward(self, rows: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """Rows (B, S, D), of which `real` (B, S) count (all when None), to logits (B, N, E)."""
        return self.logits(*self.numbers(rows, real))

    def numbers(
        self, rows: torch.Tensor, real: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (B, S, D) to numbers (B, N - r, d) and sharpness (B, N - r, 1)."""
        pooled = self.pooled(rows, real)
        products = self.products(pooled)
        if self.gates is not None and self.look is not None:
            look = F.pad(self.look(products), (0, 1), value=1.0)  # (B, R + 1)
            opened = self.gates(pooled).softmax(-1)  # (B, G)
            products = (opened.unsqueeze(-1) * look.unsqueeze(-2)).flatten(1)  # (B, G (R + 1))
        found = self.out(products).float().unflatten(-1, (-1, len(self.levels) + 1))
        return found[..., :-1], (1 + found[..., -1:] / 2).exp()

    def pooled(self, rows: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """Rows (B, S, D) to what the queries find in them, (B, Q D)."""
        scores = rows @ self.queries.T  # (B, S, Q)
        if real is not None:
            scores = scores.masked_fill(~real.unsqueeze(-1), -1e4)
        found = scores.softmax(1).transpose(1, 2) @ rows  # (B, Q, D)
        return self.norm(found.flatten(1))

    def products(self, pooled: torch.Tensor) -> torch.Tensor:
        """What `pooled` gives, to products (B, hidden) of two of its features each."""
        left, right = self.factors(pooled).chunk(2, dim=-1)
        return left * right

    def logits(self, numbers: torch.Tensor, sharpness: torch.Tensor) -> torch.Tensor:
        """What `numbers` gives, to logits (B, N, E)."""
        r = self.refined
        repeats = torch.tensor(self.levels, device=numbers.device)
        centres, bias = self.centres.float(), self.bias.float()
        wide = numbers[:, r:].repeat_interleave(repeats, dim=-1)  # (B, N - 2r, E)
        logits = bias[2 * r :] - sharpness[:, r:] * (wide - centres[2 * r :]).square()
        if not r:
            return logits
        pairs = self._pairs(numbers[:, :r], sharpness[:, :r], centres[: 2 * r])
        return torch.cat((bias[: 2 * r] + pairs, logits), dim=1)  # (B, N, E)

    def _pairs(self, numbers, sharpness, centres) -> torch.Tensor:
        """Logits (B, 2r, E) of tokens and what refines them: a cell is a level of the one and a
        level of the other."""
        coarse, fine = [], []
        splits = zip(centres[0::2].split(self.levels, -1), centres[1::2].split(self.levels, -1))
        for digit, (c, f) in enumerate(splits):
            cells = c.unsqueeze(-1) + f.unsqueeze(-2)  # (r, L, L)
            distance = (numbers[..., digit, None, None] - cells).square()
            joint = -sharpness[..., None] * distance  # (B, r, L, L)
            coarse.append(joint.logsumexp(-1))
            fine.append(joint.logsumexp(-2))
        both = torch.stack((torch.cat(coarse, -1), torch.cat(fine, -1)), dim=2)  # (B, r, 2, E)
        return both.flatten(1, 2)


class SpeechPrior(nn.Module):
    """Digit logits of every token of speech from the vector that says what is spoken there.

    Args:
        dim: D, width of the vectors.
        levels: of every digit of a code; E is their sum.
    """

    def __init__(self, dim: int, levels: list[int]):
        super().__init__()
        self.out = nn.Linear(dim, sum(levels))

    def reset(self) -> None:
        """First weights: as of any other linear map."""

    def forward(self, told: torch.Tensor) -> torch.Tensor:
        """Vectors (B, N, D) to logits (B, N, E)."""
        return self.out(told).float()


def build_prior(config, num_tokens: int) -> ConditionPrior | SpeechPrior | None:
    """The prior of a generator's config, or None. Raises ValueError without a head of digits."""
    if not config.prior_dim:
        return None
    if config.condition == "speech" and config.head != "full":
        return SpeechPrior(config.dim, config.token_levels)
    if config.head == "full" or config.condition == "class":
        raise ValueError(
            f"prior_dim {config.prior_dim} needs captions and head 'digits' or 'digits+full'"
        )
    return ConditionPrior(
        config.dim,
        config.prior_dim,
        num_tokens,
        config.token_levels,
        refined=config.prior_refined,
        gates=config.prior_gates,
        look=config.prior_look,
    )
