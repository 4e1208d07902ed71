"""Relaxed verification of draft trees, as it was published.

LANTERN, 2024, 2410.03355, and LANTERN++, 2025, 2502.06352: "dynamic", where drafts are taken for
certain, and "static", where they were drawn without replacement. With no table of neighbours the
dynamic one is EAGLE-2's and lossless. Two habits of the released code are kept, since recordings of
it are what this is checked against: a rejection clears one neighbour more than k, and where nothing
is left the next token is uniform. Our own relaxed rule for chains is in `acceptance.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from studio.decoding.acceptance import relaxed_mass
from studio.decoding.trees import Tree, without
from studio.layers.tree_mask import depths


@dataclass(frozen=True)
class Relaxation:
    """The options of relaxed verification.

    Args:
        nearest: int64 (V, K), see `acceptance.relaxed_mass`.
        k, delta: neighbours, and the bound; k None for the strict rule.
    """

    nearest: torch.Tensor
    k: int | None
    delta: float = 0.1

    def mass(self, p: torch.Tensor, token: int) -> tuple[torch.Tensor, bool]:
        """The relaxed mass of a token under p (V,), and whether any neighbour gave to it."""
        if self.k is None:
            return p[token], False
        at = torch.tensor(token, device=p.device)
        mass, absorbed = relaxed_mass(p, at, self.nearest, k=self.k, delta=self.delta)
        return mass, bool(absorbed > 0)

    def clear(self, dist: torch.Tensor, token: int) -> torch.Tensor:
        """`dist` (V,) without the k + 1 nearest of a token (one more than k: published so)."""
        return dist.index_fill(0, self.nearest[token, : (self.k or 0) + 1], 0.0)


def reject_dynamic(p: torch.Tensor, token: int, options: Relaxation) -> torch.Tensor:
    """What is left of p (V,) after a rejection, where the draft was taken for certain."""
    _, gave = options.mass(p, token)
    at = torch.tensor([token], device=p.device)
    left = p.index_fill(0, at, 0.0)
    return _normalised(options.clear(left, token) if gave else left)


def reject_static(
    p: torch.Tensor, q: torch.Tensor, token: int, options: Relaxation
) -> torch.Tensor:
    """What is left of p (V,) after a rejection of a draft drawn from q (V,)."""
    _, gave = options.mass(p, token)
    return _normalised((p - (options.clear(q, token) if gave else q)).clamp(min=0))


def _normalised(dist: torch.Tensor) -> torch.Tensor:
    """Of sum 1; where nothing is left, uniform (published so)."""
    total = dist.sum()
    return dist / total if bool(total > 0) else torch.full_like(dist, 1.0 / len(dist))


def relaxed_walk(
    tree: Tree,
    probs: torch.Tensor,
    uniforms: Iterator[float],
    options: Relaxation,
    *,
    static: bool = False,
) -> tuple[list[int], torch.Tensor]:
    """LANTERN's verification of a whole tree; arguments and results as `verify_tree`.

    Args:
        static: drafts were drawn without replacement from `tree.probs` (LANTERN++); else they are
            the drafter's best and taken for certain.
    """
    path, node = [], -1
    while True:
        p, q = probs[node + 1], tree.probs.get(node)
        below = -2
        for kid in tree.children(node):
            token, u = tree.tokens[kid], next(uniforms)
            chance = q[token] if static and q is not None else 1.0
            if chance <= 0:
                continue
            mass, _ = options.mass(p, token)
            if u <= float(mass / chance):
                below = kid
                break
            if static and q is not None:
                p = reject_static(p, q, token, options)
                q = without(q, torch.tensor(token, device=q.device))
            else:
                p = reject_dynamic(p, token, options)
        if below < 0:
            return path, p
        node = below
        path.append(node)


def relaxed_greedy(tree: Tree, probs: torch.Tensor, options: Relaxation) -> list[int]:
    """Temperature 0: the longest path (the first of them) on which every token, given its relaxed
    mass, is the best one after its parent. `probs` (M + 1, V) as in `verify_tree`."""
    stands: list[bool] = []
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        p = probs[parent + 1]
        mass, _ = options.mass(p, token)
        raised = p.index_fill(0, torch.tensor([token], device=p.device), float(mass))
        best = int(raised.argmax()) == token
        stands.append(best and (parent < 0 or stands[parent]))
    levels = depths(tree.parents)
    longest, end = 0, -1
    for node, level in enumerate(levels):
        if stands[node] and level > longest:
            longest, end = level, node
    path = []
    while end >= 0:
        path.append(end)
        end = tree.parents[end]
    return path[::-1]
