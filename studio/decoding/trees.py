"""Draft trees: several guesses for every next token, drawn and verified node by node.

- Siblings drawn without replacement and tested one after the other: Recursive Speculative
  Decoding, 2024, 2402.14160. Lossless.
- k independent siblings: K-SEQ of SpecTr, 2023, 2310.15141. Lossless.

Pure functions; trees are grown in `tree_growth.py`, the loop that uses both is `tree_loop.py`.
LANTERN's published rules are in `lantern.py`. Left out on purpose: beams over whole paths
(stochastic beam search).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from studio.decoding.acceptance import Rule, exact, prob_of, residual
from studio.decoding.sampling import pick
from studio.layers.tree_mask import ancestors

# --- shape ---------------------------------------------------------------------------------------


@dataclass
class Tree:
    """Drafts below a root, which is the last emitted token.

    Args:
        tokens: of every node.
        parents: the node above, -1 for children of the root; always a smaller number.
        probs: for every parent that has children (-1 for the root), the distribution (V,) that
            they were drawn from, the first one before any was taken out.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    probs: dict[int, torch.Tensor] = field(default_factory=dict)

    def add(self, parent: int, token: int) -> int:
        """A new node, the last of its siblings; its number."""
        self.parents.append(parent)
        self.tokens.append(token)
        return len(self.tokens) - 1

    def children(self, node: int) -> list[int]:
        """In the order in which they were drawn, which is that in which they are tested."""
        return [i for i, parent in enumerate(self.parents) if parent == node]

    def path(self, node: int) -> list[int]:
        """The tokens from the root down to a node; none for the root, -1."""
        tokens = []
        while node >= 0:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]


def ancestor_mask(parents: list[int]) -> torch.Tensor:
    """bool (M + 1, M + 1), True where a row may see a column: the root (row 0), a node's ancestors
    and itself."""
    return ancestors((-1, *(parent + 1 for parent in parents)))


# --- siblings without replacement ----------------------------------------------------------------


def draw_siblings(q: torch.Tensor, count: int, noise: torch.Tensor) -> torch.Tensor:
    """`count` different tokens of q (..., V) with Gumbel noise (..., V), int64 (..., count), in the
    order of a draw without replacement."""
    return (q.log() + noise).topk(count, dim=-1).indices


def draw_without(
    q: torch.Tensor, u: torch.Tensor, counts: Sequence[int] | None = None
) -> torch.Tensor:
    """Different tokens of distributions, one after the other, int64 (B, D, k).

    Args:
        q: (B, D, V). Where it has fewer tokens than are asked for, the rest mean nothing.
        u: uniforms (B, D, k).
        counts: how many of the k are wanted of each of the D; all when None.
    """
    tokens = torch.zeros(u.shape, dtype=torch.int64, device=u.device)
    left, places = q.double(), list(range(q.shape[1]))
    for j in range(u.shape[-1]):
        if counts is not None:
            kept = [i for i, place in enumerate(places) if counts[place] > j]
            if len(kept) < len(places):
                left, places = left[:, kept], [places[i] for i in kept]
        drawn = pick(left, u[:, places, j])  # (B, d)
        tokens[:, places, j] = drawn
        if j + 1 < u.shape[-1]:
            left = left.scatter(-1, drawn.unsqueeze(-1), 0.0)
    return tokens


def without(q: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """q (..., V) with tokens (...) taken out, of sum 1 again; zeros where nothing is left."""
    left = q.scatter(-1, tokens.unsqueeze(-1), 0.0)
    total = left.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, left / total, left)


def verify_siblings(
    p: torch.Tensor,
    q: torch.Tensor,
    tokens: torch.Tensor,
    u: torch.Tensor,
    *,
    there: torch.Tensor | None = None,
    rule: Rule = exact,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tests siblings one after the other, recursively.

    Args:
        p, q: (B, V), the target's and the drafter's distribution.
        tokens: int64 (B, k), drawn from q without replacement, in this order; a token that q can't
            draw is skipped.
        u: uniforms (B, k).
        there: bool (B, k), False for those that a row does not have.
        rule: probability of accepting. Another one than `exact` changes the distribution.

    Returns:
        which one stands, int64 (B,), -1 for none; and p as it is left, (B, V), from which the next
        token is drawn where none stands.
    """
    taken = torch.full((len(p),), -1, device=p.device)
    waits = p.device.type != "cpu"  # a GPU would wait for what a CPU just looks at
    own = torch.ones_like(tokens, dtype=torch.bool) if there is None else there
    for j in range(tokens.shape[1]):
        left = (taken < 0) & own[:, j]
        if not waits and not left.any():
            continue
        x = tokens[:, j]
        tried = left & (prob_of(q, x) > 0)
        stands = tried & (u[:, j] < rule(p, q, x))
        taken = torch.where(stands, j, taken)
        rejected = (tried & ~stands).unsqueeze(1)
        if not waits and not rejected.any():
            continue
        p = torch.where(rejected, residual(p, q), p)
        q = torch.where(rejected, without(q, x), q)
    return taken, p


def verify_tree(
    tree: Tree, probs: torch.Tensor, uniforms: Iterator[float]
) -> tuple[list[int], torch.Tensor]:
    """Walks down from the root for as long as a child stands.

    Args:
        tree: with the distributions that children were drawn from.
        probs: (M + 1, V), the target's after the root (row 0) and after every node.
        uniforms: the source of one number a test.

    Returns:
        the nodes that stand, and the distribution (V,) of the token that follows the last one.
    """
    path, node = [], -1
    while True:
        p, kids = probs[node + 1].unsqueeze(0), tree.children(node)
        if not kids:
            return path, p[0]
        tokens = torch.tensor([[tree.tokens[kid] for kid in kids]], device=p.device)
        u = torch.tensor([[next(uniforms) for _ in kids]], dtype=torch.float64, device=p.device)
        taken, left = verify_siblings(p, tree.probs[node].unsqueeze(0), tokens, u)
        if int(taken) < 0:
            return path, left[0]
        node = kids[int(taken)]
        path.append(node)


# --- independent siblings ------------------------------------------------------------------------


def _overlap(p: torch.Tensor, q: torch.Tensor, rho: torch.Tensor) -> torch.Tensor:
    """min(q, p / rho), (B, V), and its sum is beta."""
    return torch.minimum(q, p / rho.unsqueeze(1))


def kseq_rho(
    p: torch.Tensor, q: torch.Tensor, k: int | torch.Tensor, *, rounds: int = 60
) -> torch.Tensor:
    """K-SEQ's rho in [1, k], (B,): the least one that is valid, from above, by bisection of
    1 - (1 - beta)^k = rho beta; k is one number or (B,)."""
    low = torch.ones_like(p[:, 0])
    high = low * k
    for _ in range(rounds):
        middle = (low + high) / 2
        beta = _overlap(p, q, middle).sum(dim=1)
        over = 1 - (1 - beta) ** k > middle * beta
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return high


def verify_independent(
    p: torch.Tensor,
    q: torch.Tensor,
    tokens: torch.Tensor,
    u: torch.Tensor,
    rho: torch.Tensor,
    *,
    there: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """K-SEQ: tests k independent draws from q.

    Args:
        p, q: (B, V).
        tokens: int64 (B, k), drawn from q.
        u: uniforms (B, k).
        rho: (B,), `kseq_rho` of as many as there are, or larger.
        there: bool (B, k), False for those that a row does not have; every row has one.

    Returns:
        as `verify_siblings`.
    """
    count = tokens.shape[1] if there is None else there.sum(dim=1, keepdim=True)
    chance = p.gather(1, tokens) / (rho.unsqueeze(1) * q.gather(1, tokens))  # (B, k)
    stands = u < chance
    if there is not None:
        stands = stands & there
    first = stands.long().argmax(dim=1)
    taken = torch.where(stands.any(dim=1), first, -1)
    common = _overlap(p, q, rho)
    beta = common.sum(dim=1, keepdim=True)
    share = torch.where(beta > 0, (1 - (1 - beta) ** count) / beta, torch.zeros_like(beta))
    return taken, residual(p, common * share)
