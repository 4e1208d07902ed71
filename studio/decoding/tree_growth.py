"""Which shape a tree of drafts has: even, chains, or grown where acceptance is likeliest.

DySpec: Faster Speculative Decoding with Dynamic Token Tree Structure, 2024, 2410.11744, is the
greedy one: of all places the one whose draft is likeliest to stand gets the next node. `grow_tree`
is its plain form for any drafter; `grow_levels` and `grow_ranks` serve drafters that say the same
at all nodes of a depth. Left out on purpose: a threshold in the fast forms, whose budget is small.

Every decision must be made before what it decides on is drawn, and what is drawn at one node must
not depend on what is drawn at another: else the drafts that are there are no draws any more.
"""

import functools
import heapq
from collections.abc import Callable, Iterator

import numpy as np
import torch

from studio.decoding.sampling import pick
from studio.decoding.trees import Tree, without
from studio.layers.tree_mask import depths

TREES = ("recursive", "greedy", "kseq")


@functools.lru_cache(maxsize=512)
def even_shape(branches: int | tuple[int, ...], budget: int, deepest: int) -> tuple[int, ...]:
    """Parents of a tree whose nodes at a depth all have as many children.

    Args:
        branches: children of every node; or of the root, of every node below it, and so on, those
            at the end having none.
        budget, deepest: nodes at most, and how deep.
    """
    parents: list[int] = []
    level = [-1]
    for depth in range(min(deepest, budget)):
        if isinstance(branches, tuple) and depth >= len(branches):
            break
        room = budget - len(parents)
        count = min(room, branches[depth] if isinstance(branches, tuple) else branches)
        above = [node for node in level for _ in range(count)][:room]
        level = list(range(len(parents), len(parents) + len(above)))
        parents.extend(above)
    return tuple(parents)


@functools.lru_cache(maxsize=512)
def chain_shape(count: int, budget: int, deepest: int) -> tuple[int, ...]:
    """Parents of `count` chains below the root, equally long, the first nodes of all of them
    first."""
    long = min(deepest, budget // count)
    return tuple(node - count if node >= count else -1 for node in range(count * long))


@functools.lru_cache(maxsize=512)
def links(parents: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """How deep every node stands, int64 (M,), 1 for children of the root; and the children of every
    node in their order, int64 (M + 1, b), -1 where there are no more; row 0 is the root, row 1 + i
    node i."""
    below: list[list[int]] = [[] for _ in range(len(parents) + 1)]
    for node, parent in enumerate(parents):
        below[parent + 1].append(node)
    most = max(1, *map(len, below)) if len(below) > 1 else 1
    table = np.array([kids + [-1] * (most - len(kids)) for kids in below], dtype=np.int64)
    return np.array(depths(parents), dtype=np.int64), table


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


def grow_levels(
    cumulative: np.ndarray, budget: int, uniforms: np.ndarray, *, spine: int = 0
) -> tuple[list[int], list[int]]:
    """`grow_tree` where the draft depends on the depth alone, which is much faster.

    Args:
        cumulative: float64 (D, V), running sums of the distribution at every depth; the tree is D
            deep at most.
        budget: nodes at most.
        uniforms: one number a node.
        spine: nodes that go to the chain of first siblings in any case, the first ones.

    Returns:
        tokens and parents of the nodes.
    """
    tokens: list[int] = []
    parents: list[int] = []
    order = 0
    # minus the value, age, parent, depth, the tokens taken already with where their mass begins
    slots: list[tuple] = []
    below: tuple | None = (-1.0, order, -1, 0, ())
    while (slots or below) and len(tokens) < budget:
        value, _, parent, depth, taken = below or heapq.heappop(slots)
        below = None
        if depth >= len(cumulative):
            continue
        row = cumulative[depth]
        left = row[-1] - sum(mass for _, _, mass in taken)
        if left <= row[-1] * 1e-12:  # nothing is left but rounding
            continue
        place = uniforms[len(tokens)] * left
        for _, begin, mass in taken:  # in the order of their ids
            place += mass if place >= begin else 0.0
        token = min(int(row.searchsorted(place, side="right")), len(row) - 1)
        begin = float(row[token - 1]) if token else 0.0
        mass = float(row[token]) - begin
        chance = mass / left
        tokens.append(token)
        parents.append(parent)
        rest = tuple(sorted((*taken, (token, begin, mass))))
        heapq.heappush(slots, (value * (1.0 - chance), order + 1, parent, depth, rest))
        child = (value * chance, order + 2, len(tokens) - 1, depth + 1, ())
        if len(tokens) < spine:
            below = child
        else:
            heapq.heappush(slots, child)
        order += 2
    return tokens, parents


def grow_ranks(chances: np.ndarray, budget: int, *, spine: int = 0) -> tuple[list[int], list[int]]:
    """The greedy tree where the siblings of every depth are known already.

    Args:
        chances: float (D, k), how likely the sibling of each rank is to stand, falling with rank.
        budget, spine: as in `grow_levels`.

    Returns:
        ranks and parents of the nodes.
    """
    ranks: list[int] = []
    parents: list[int] = []
    deepest, most = chances.shape
    table = chances.tolist()
    # minus the value, that of the parent, parent, depth, rank
    slots: list[tuple] = []
    below: tuple | None = (-table[0][0], -1.0, -1, 0, 0) if deepest and most else None
    while (slots or below) and len(ranks) < budget:
        value, above, parent, depth, rank = below or heapq.heappop(slots)
        below = None
        ranks.append(rank)
        parents.append(parent)
        if rank + 1 < most:
            other = above * table[depth][rank + 1]
            heapq.heappush(slots, (other, above, parent, depth, rank + 1))
        if depth + 1 < deepest:
            child = (value * table[depth + 1][0], value, len(ranks) - 1, depth + 1, 0)
            if len(ranks) < spine:
                below = child
            else:
                heapq.heappush(slots, child)
    return ranks, parents
