"""Shapes of trees, and the fast greedy forms against the plain one."""

import numpy as np
import torch

from studio.decoding.tree_growth import (
    chain_shape,
    even_shape,
    grow_levels,
    grow_ranks,
    grow_tree,
    links,
)


def test_even_shapes():
    assert even_shape(1, 4, 9) == (-1, 0, 1, 2)
    assert even_shape(2, 7, 9) == (-1, -1, 0, 0, 1, 1, 2)
    assert even_shape(2, 99, 2) == (-1, -1, 0, 0, 1, 1)
    assert even_shape((3, 1), 99, 9) == (-1, -1, -1, 0, 1, 2)
    assert even_shape((3, 1), 4, 9) == (-1, -1, -1, 0)
    assert even_shape(2, 5, 0) == even_shape(2, 0, 5) == ()


def test_chains():
    assert chain_shape(2, 6, 9) == (-1, -1, 0, 1, 2, 3)
    assert chain_shape(2, 7, 2) == (-1, -1, 0, 1)
    assert chain_shape(3, 2, 9) == ()


def test_links():
    depth, children = links((-1, -1, 0, 2, 0))
    assert depth.tolist() == [1, 1, 2, 3, 2]
    assert children.tolist() == [[0, 1], [2, 4], [-1, -1], [3, -1], [-1, -1], [-1, -1]]
    assert links(())[1].tolist() == [[-1]]


def test_the_fast_greedy_tree_is_the_plain_one():
    rng = np.random.default_rng(0)
    for _ in range(30):
        table = torch.from_numpy(rng.dirichlet(np.full(6, 0.4), size=4))
        table[1, 2:] = 0  # fewer tokens than are asked for
        table = table / table.sum(1, keepdim=True)
        u = rng.random(12)

        def below(path, table=table):
            return table[len(path)] if len(path) < len(table) else torch.zeros(6).double()

        wanted = grow_tree(below, 12, iter(u.tolist()))
        found = grow_levels(table.cumsum(1).numpy(), 12, u)
        assert (wanted.tokens, wanted.parents) == found


def test_ranks_go_where_acceptance_is_likeliest():
    chances = np.array([[0.6, 0.2, 0.05], [0.5, 0.1, 0.1], [0.4, 0.4, 0.01]])
    # 0.6, then 0.6 * 0.5, then 0.2 at the root
    assert grow_ranks(chances, 3) == ([0, 0, 1], [-1, 0, -1])
    values = []
    for rank, parent in zip(*grow_ranks(chances, 39), strict=True):
        above, depth = (1.0, 0) if parent < 0 else values[parent]
        values.append((above * chances[depth, rank], depth + 1))
    flat = [value for value, _ in values]
    assert flat == sorted(flat, reverse=True) and len(flat) == 3 + 9 + 27
    assert grow_ranks(chances[:0], 5) == grow_ranks(chances, 0) == ([], [])


def test_a_spine_goes_first():
    chances = np.full((5, 3), 0.1)
    ranks, parents = grow_ranks(chances, 6, spine=4)
    assert (ranks[:4], parents[:4]) == ([0, 0, 0, 0], [-1, 0, 1, 2])
    assert len(ranks) == 6
    table = np.tile(np.arange(1, 7) / 6, (5, 1))
    tokens, parents = grow_levels(table, 6, np.full(6, 0.5), spine=4)
    assert parents[:4] == [-1, 0, 1, 2] and tokens[:4] == [3] * 4 and len(tokens) == 6
    assert grow_levels(table[:2], 9, np.full(9, 0.5), spine=4)[1][:3] == [-1, 0, -1]
