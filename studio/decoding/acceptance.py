"""Which drafts are accepted: rules as pure functions on distributions.

Every rule gives the probability of accepting a drafted token x from the target distribution p and
the distribution q that x was drawn from; a rejected token is replaced from `residual`.

- exact: min(1, p / q), Fast Inference from Transformers via Speculative Decoding, 2022, 2211.17192.
- grouped: Grouped Speculative Decoding for Autoregressive Image Generation, 2025 (its released
  settings and the paper's).
- relaxed: LANTERN, 2024, 2410.03355, and LANTERN++, 2025, 2502.06352: x also gets the mass of its
  neighbours in the codebook.
- annealed: COOL-SD, 2026: the slack falls with the place in the draft.
- seed: no probability at all. Draft and target take argmax(log p + g) with the same noise g, and
  a draft is accepted while it is what plain decoding takes (`leading_matches`).

The last three before "seed" change the distribution. For any acceptance that is at least the exact
one the best residual is the exact one, norm((p - q)+), so all rules share it; LANTERN's own, which
also removes neighbours, is in `trees.py` with the rest of its published procedure. At no slack all
rules are `exact` to the bit.
"""

import functools
import math
from collections.abc import Callable

import torch

from studio.decoding.sampling import pick

Rule = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
RELEASED = (7, 6)  # ranks below and above the draft in the released code of the grouped rule


def prob_of(dist: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Entries (...) of distributions (..., V) at tokens (...)."""
    return dist.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)  # (...)


def one_hot(tokens: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Point masses (..., V) at tokens (...), with the width, type and device of `like`."""
    mass = like.new_zeros(*tokens.shape, like.shape[-1])
    return mass.scatter_(-1, tokens.unsqueeze(-1), 1.0)


def residual(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """What replaces a rejected token: norm((p - q)+), (..., V); p where nothing is left, which
    only rounding can cause."""
    left = (p - q).clamp(min=0)
    total = left.sum(dim=-1, keepdim=True)  # (..., 1)
    return torch.where(total > 0, left / total, p)


def num_accepted(accepted: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """How many drafts of every row stand, int64 (B,): those before the first rejection.

    Args:
        accepted: bool (B, m), the outcome of every test on its own.
        limits: int64 (B,), how many drafts of a row may stand at all.
    """
    within = torch.arange(accepted.shape[1], device=accepted.device) < limits.unsqueeze(1)
    return (accepted & within).long().cumprod(dim=1).sum(dim=1)


def leading_matches(
    choices: torch.Tensor, drafts: torch.Tensor, limits: torch.Tensor
) -> torch.Tensor:
    """The seed-faithful rule: how many drafts (B, m) equal the target's choices (B, m), int64
    (B,), as in `num_accepted`. The choice at the first mismatch is plain decoding's token."""
    return num_accepted(choices == drafts, limits)


def exact(p: torch.Tensor, q: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """min(1, p(x) / q(x)), (...)."""
    return (prob_of(p, tokens) / prob_of(q, tokens)).clamp(max=1.0)


def grouped(
    p: torch.Tensor,
    q: torch.Tensor,
    tokens: torch.Tensor,
    *,
    size: int | None = None,
    delta: float = 0.15,
    distance: float | None = 0.5,
    codebook: torch.Tensor | None = None,
    masked: bool = False,
) -> torch.Tensor:
    """min(1, P(C) / Q(C)) of the group C around a draft, (...).

    Args:
        p, q, tokens: (..., V), (..., V), (...).
        size: G of the paper, G / 2 ranks of p on each side; None for the released code's 7 below
            and 6 above, where a draft with fewer than 7 ranks below it stands alone.
        delta: members are less than this far from p(x).
        distance, codebook: members are less than this squared distance from the draft in the
            table (V, D); either None for no such filter.
        masked: whether tokens of probability 0 may be members, as in the released code. Where
            top-k has cut the tail off, their order is only that of the sort.
    """
    members, kept = group(
        p, tokens, size=size, delta=delta, distance=distance, codebook=codebook, masked=masked
    )
    ratio = (p.gather(-1, members) * kept).sum(-1) / (q.gather(-1, members) * kept).sum(-1)
    return ratio.clamp(max=1.0)


def group(
    p: torch.Tensor,
    tokens: torch.Tensor,
    *,
    size: int | None = None,
    delta: float = 0.15,
    distance: float | None = 0.5,
    codebook: torch.Tensor | None = None,
    masked: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates int64 (..., G) of the groups of drafts, and which of them are members, bool
    (..., G). Options as in `grouped`."""
    half = min((size or 0) // 2, p.shape[-1] - 1)
    below, above = RELEASED if size is None else (half, half)
    order = p.argsort(dim=-1, stable=True)  # (..., V), ascending
    rank = (order == tokens.unsqueeze(-1)).long().argmax(dim=-1, keepdim=True)  # (..., 1)
    slots = rank + torch.arange(-below, above + 1, device=p.device)  # (..., G)
    kept = (slots >= 0) & (slots < p.shape[-1])
    if size is None:
        kept = kept & (rank >= below)
    members = order.gather(-1, slots.clamp(0, p.shape[-1] - 1))  # (..., G)
    masses, own = p.gather(-1, members), prob_of(p, tokens).unsqueeze(-1)
    kept = kept & ((masses - own).abs() < delta)
    if not masked:
        kept = kept & (masses > 0)
    if codebook is not None and distance is not None:
        vectors = codebook[members] - codebook[tokens].unsqueeze(-2)  # (..., G, D)
        kept = kept & (vectors.square().sum(dim=-1) < distance)
    return members, kept | (slots == rank)


def relaxed_mass(
    p: torch.Tensor,
    tokens: torch.Tensor,
    nearest: torch.Tensor,
    *,
    k: int = 1000,
    delta: float = 0.1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """p(x) with the mass of the nearest codes, as many as the bound allows: (...) and how many,
    int64 (...).

    Args:
        p, tokens: (..., V), (...).
        nearest: int64 (V, K), the neighbours of every code, nearest first, itself left out.
        k: neighbours that count, <= K.
        delta: at most 1, the most mass that may move (LANTERN); more than 1, the most that x may
            have, in multiples of p(x) (lambda of LANTERN++).
    """
    own = prob_of(p, tokens)
    moved = p.gather(-1, nearest[tokens, :k]).cumsum(dim=-1)  # (..., k)
    limit = torch.full_like(own, delta) if delta <= 1 else (delta - 1) * own
    absorbed = (moved <= limit.unsqueeze(-1)).sum(dim=-1)  # (...)
    moved = torch.cat((torch.zeros_like(own).unsqueeze(-1), moved), dim=-1)  # (..., k + 1)
    return own + prob_of(moved, absorbed), absorbed


def relaxed(
    p: torch.Tensor,
    q: torch.Tensor,
    tokens: torch.Tensor,
    *,
    nearest: torch.Tensor,
    k: int = 1000,
    delta: float = 0.1,
) -> torch.Tensor:
    """min(1, a(x) / q(x)) with a of `relaxed_mass`, (...)."""
    mass, _ = relaxed_mass(p, tokens, nearest, k=k, delta=delta)
    return (mass / prob_of(q, tokens)).clamp(max=1.0)


def annealed(
    p: torch.Tensor,
    q: torch.Tensor,
    tokens: torch.Tensor,
    *,
    delta: float = 1.1,
    nu: float = 0.7,
    mu: float = 0.0,
) -> torch.Tensor:
    """min(1, w p(x) / q(x)) with w = delta exp(-nu i - mu) for the i-th draft (from 0) along the
    last axis of tokens, (..., m). w is never below 1, where it would only cost acceptance."""
    count = tokens.shape[-1]
    weights = [max(1.0, delta * math.exp(-nu * i - mu)) for i in range(count)]
    slack = torch.tensor(weights, dtype=p.dtype, device=p.device)  # (m,)
    return (slack * (prob_of(p, tokens) / prob_of(q, tokens))).clamp(max=1.0)


def couple(
    p: torch.Tensor, q: torch.Tensor, tokens: torch.Tensor, u: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    """Maximal coupling: a draw from p (..., V) that equals `tokens` (...), a draw from q (..., V),
    as often as can be.

    Args:
        u, v: uniforms (...), for the test and for the replacement.
    """
    kept = u < exact(p, q, tokens)  # (...)
    if kept.device.type != "cpu":  # a GPU would wait for how many were lost
        return torch.where(kept, tokens, pick(residual(p, q), v))
    drawn, lost = tokens.clone(), ~kept
    drawn[lost] = pick(residual(p[lost], q[lost]), v[lost])
    return drawn


def verify_chain(
    p: torch.Tensor,
    q: torch.Tensor,
    tokens: torch.Tensor,
    u: torch.Tensor,
    v: torch.Tensor,
    limits: torch.Tensor,
    rule: Rule = exact,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of draft and verify.

    Args:
        p: (B, m + 1, V); row i judges draft i, and row m is for the token after all drafts.
        q: (B, m, V), what the drafts were drawn from.
        tokens: int64 (B, m), the drafts.
        u: uniforms (B, m) of the tests.
        v: uniforms (B, m + 1) of what is drawn at each place.
        limits: int64 (B,), drafts that a row may accept at all, <= m.
        rule: probability of accepting.

    Returns:
        how many drafts stand, int64 (B,), and the token that follows them, int64 (B,): a
        replacement after a rejection, else a draw of its own.
    """
    accepted = num_accepted(u < rule(p[:, :-1], q, tokens), limits)
    rows = torch.arange(len(p), device=p.device)
    dist = p[rows, accepted]  # (B, V)
    if q.shape[1]:
        other = q[rows, accepted.clamp(max=q.shape[1] - 1)]  # (B, V)
        rejected = (accepted < limits).unsqueeze(1)
        dist = torch.where(rejected, residual(dist, other), dist)
    return accepted, pick(dist, v[rows, accepted])


def _exact(config, table) -> Rule:
    return exact


def _grouped(config, table) -> Rule:
    return functools.partial(
        grouped,
        size=config.group_size,
        delta=config.group_delta,
        distance=config.group_distance,
        codebook=None if table is None else table.codebook,
    )


def _relaxed(config, table) -> Rule:
    if table is None:
        raise ValueError(
            "acceptance 'relaxed' needs a table of neighbours: set the strategy's `neighbours`"
        )
    return functools.partial(
        relaxed, nearest=table.nearest, k=config.relax_neighbours, delta=config.relax_delta
    )


def _annealed(config, table) -> Rule:
    return functools.partial(
        annealed, delta=config.anneal_delta, nu=config.anneal_nu, mu=config.anneal_mu
    )


# name -> how the rule is made of a strategy's config and its table of neighbours; a new rule is one
# line here. "seed" has no probability and is the loop's own.
RULES: dict[str, Callable[..., Rule]] = {
    "exact": _exact,
    "grouped": _grouped,
    "relaxed": _relaxed,
    "annealed": _annealed,
}
ACCEPTANCES = ("seed", *RULES)
