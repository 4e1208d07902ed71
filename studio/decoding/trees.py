"""Draft trees: several guesses for every next token, drawn and verified node by node.

- Siblings drawn without replacement and tested one after the other: Recursive Speculative
  Decoding, 2024, 2402.14160. Lossless.
- The tree itself, grown greedily where acceptance is likeliest: DySpec, 2024, 2410.11744.
- k independent siblings: K-SEQ of SpecTr, 2023, 2310.15141. Lossless.

Pure functions; the loop that uses them is `tree_loop.py`, a pass over a tree `generators.tree_run`.
LANTERN's published rules are in `lantern.py`. Left out on purpose: beams over whole paths
(stochastic beam search).
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from studio.decoding.acceptance import prob_of, residual
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


def without(q: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """q (..., V) with tokens (...) taken out, of sum 1 again; zeros where nothing is left."""
    left = q.scatter(-1, tokens.unsqueeze(-1), 0.0)
    total = left.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, left / total, left)


def verify_siblings(
    p: torch.Tensor, q: torch.Tensor, tokens: torch.Tensor, u: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tests siblings one after the other, recursively.

    Args:
        p, q: (B, V), the target's and the drafter's distribution.
        tokens: int64 (B, k), drawn from q without replacement, in this order; a token that q can't
            draw is skipped.
        u: uniforms (B, k).

    Returns:
        which one stands, int64 (B,), -1 for none; and p as it is left, (B, V), from which the next
        token is drawn where none stands.
    """
    taken = torch.full((len(p),), -1, device=p.device)
    for j in range(tokens.shape[1]):
        x = tokens[:, j]
        own = prob_of(q, x)
        tried = (taken < 0) & (own > 0)
        stands = tried & (u[:, j] < prob_of(p, x) / own)
        taken = torch.where(stands, j, taken)
        rejected = (tried & ~stands).unsqueeze(1)
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


def grow_tree(
    next_probs: Callable[[list[int]], torch.Tensor],
    budget: int,
    uniforms: Iterator[float],
    *,
    threshold: float = 0.0,
) -> Tree:
    """DySpec's greedy tree: the place whose draft is likeliest to stand gets the next node.

    Args:
        next_probs: the drafter: drafted tokens to the distribution (V,) of the next one.
        budget: nodes at most.
        uniforms: the source of one number a node.
        threshold: places less likely than this stay empty.
    """
    tree, order = Tree(), 0
    slots = [(-1.0, order, -1, next_probs([]))]  # minus the value, age, parent, what is left of q
    while slots and len(tree.tokens) < budget:
        value, _, parent, q = heapq.heappop(slots)
        if -value < threshold or not bool(q.sum() > 0):
            continue
        u = torch.tensor([next(uniforms)], dtype=torch.float64, device=q.device)
        token = pick(q.unsqueeze(0), u)
        tree.probs.setdefault(parent, q)
        node, chance = tree.add(parent, int(token)), float(q[token])
        rest = without(q.unsqueeze(0), token)[0]
        heapq.heappush(slots, (value * (1.0 - chance), order + 1, parent, rest))
        below = next_probs(tree.path(node))
        heapq.heappush(slots, (value * chance, order + 2, node, below))
        order += 2
    return tree


# --- independent siblings ------------------------------------------------------------------------


def _overlap(p: torch.Tensor, q: torch.Tensor, rho: torch.Tensor) -> torch.Tensor:
    """min(q, p / rho), (B, V), and its sum is beta."""
    return torch.minimum(q, p / rho.unsqueeze(1))


def kseq_rho(p: torch.Tensor, q: torch.Tensor, k: int, *, rounds: int = 60) -> torch.Tensor:
    """K-SEQ's rho in [1, k], (B,): the least one that is valid, from above, by bisection of
    1 - (1 - beta)^k = rho beta."""
    low, high = torch.ones_like(p[:, 0]), torch.full_like(p[:, 0], float(k))
    for _ in range(rounds):
        middle = (low + high) / 2
        beta = _overlap(p, q, middle).sum(dim=1)
        over = 1 - (1 - beta) ** k > middle * beta
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return high


def verify_independent(
    p: torch.Tensor, q: torch.Tensor, tokens: torch.Tensor, u: torch.Tensor, rho: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """K-SEQ: tests k independent draws from q.

    Args:
        p, q: (B, V).
        tokens: int64 (B, k), drawn from q.
        u: uniforms (B, k).
        rho: (B,), `kseq_rho` or larger.

    Returns:
        as `verify_siblings`.
    """
    count = tokens.shape[1]
    chance = p.gather(1, tokens) / (rho.unsqueeze(1) * q.gather(1, tokens))  # (B, k)
    stands = u < chance
    first = stands.long().argmax(dim=1)
    taken = torch.where(stands.any(dim=1), first, -1)
    common = _overlap(p, q, rho)
    beta = common.sum(dim=1, keepdim=True)
    share = torch.where(beta > 0, (1 - (1 - beta) ** count) / beta, torch.zeros_like(beta))
    return taken, residual(p, common * share)
