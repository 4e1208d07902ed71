"""Node rules by whole joints and by enumeration, and the shapes of trees."""

import itertools

import numpy as np
import pytest
import torch

from studio.decoding import noise, tree_growth, trees
from studio.decoding.sampling import pick
from studio.layers.tree_mask import depths
from tests.decoding.joints import T, V, chi_square, conditionals, joint, outcomes

ROWS = 40_000
TABLES, DRAFTS = conditionals(1), conditionals(2)


def numbers(rows, count, place, seed=0):
    return noise.uniform(noise.stream_states(np.arange(rows), place, seed), count)


def siblings_rule(p, q, place, seed, count=2):
    rows = len(p)
    gumbel = noise.gumbel(noise.stream_states(np.arange(rows), place, seed + 10), V).double()
    tokens = trees.draw_siblings(q, count, gumbel)
    u = torch.from_numpy(numbers(rows, count, place, seed))
    return tokens, *trees.verify_siblings(p, q, tokens, u)


def independent_rule(p, q, place, seed, count=3):
    rows = len(p)
    v = torch.from_numpy(numbers(rows, count, place + 50, seed))
    tokens = pick(q.unsqueeze(1).expand(-1, count, -1), v)
    u = torch.from_numpy(numbers(rows, count, place, seed))
    return tokens, *trees.verify_independent(p, q, tokens, u, trees.kseq_rho(p, q, count))


def sequences(rule, seed=0):
    """Every token from one node with children drawn from the drafter's tables."""
    tokens, prefix = torch.zeros(ROWS, T, dtype=torch.int64), torch.zeros(ROWS, dtype=torch.int64)
    for t in range(T):
        p, q = (tables[t].double().softmax(-1)[prefix] for tables in (TABLES, DRAFTS))
        drawn, taken, left = rule(p, q, t, seed)
        after = pick(left, torch.from_numpy(numbers(ROWS, 1, t + 100, seed)[:, 0]))
        stands = drawn.gather(1, taken.clamp(min=0).unsqueeze(1)).squeeze(1)
        tokens[:, t] = torch.where(taken >= 0, stands, after)
        prefix = prefix * V + tokens[:, t]
    return outcomes(tokens)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("rule", [siblings_rule, independent_rule])
def test_nodes_have_the_joint_of_the_target(rule, seed):
    assert chi_square(sequences(rule, seed), joint(TABLES)) > 1e-3


def test_a_missing_renormalisation_of_the_draft_is_caught(monkeypatch):
    def forgotten(q, tokens):
        return q.scatter(-1, tokens.unsqueeze(-1), 0.0)

    monkeypatch.setattr(trees, "without", forgotten)
    assert chi_square(sequences(siblings_rule), joint(TABLES)) < 1e-6


def dists(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, V, generator=generator).double() * 1.5).softmax(-1)


def chances(p, q, order):
    """The exact probability that each sibling of an order stands, and p as it is left at last."""
    through, stands = torch.ones(1, dtype=torch.float64), []
    for x in order:
        a = (p[:, x] / q[:, x]).clamp(max=1)
        stands.append(through * a)
        through = through * (1 - a)
        p = trees.residual(p, q)
        q = trees.without(q, torch.tensor([x]))
    return stands, through, p


def test_siblings_are_exact_by_enumeration():
    p, q = dists(1, seed=1), dists(1, seed=2)
    total = torch.zeros(V, dtype=torch.float64)
    for order in itertools.permutations(range(V), 2):
        drawn = q[0, order[0]] * q[0, order[1]] / (1 - q[0, order[0]])
        stands, through, left = chances(p, q, order)
        for x, chance in zip(order, stands, strict=True):
            total[x] += drawn * chance[0]
        total += drawn * through * left[0]
    assert (total - p[0]).abs().max() < 1e-12


@pytest.mark.parametrize("count", [1, 2, 4])
def test_independent_siblings_are_exact_by_enumeration(count):
    p, q = dists(1, seed=3), dists(1, seed=4)
    rho = trees.kseq_rho(p, q, count)
    assert 1 <= float(rho) <= count
    total, through = torch.zeros(V, dtype=torch.float64), 1.0
    chance = (p / (rho * q)).clamp(max=1)[0]
    for _ in range(count):
        total += through * q[0] * chance
        through = through * float((q[0] * (1 - chance)).sum())
    none = torch.ones(1, count, dtype=torch.float64)  # a number that accepts nothing
    drawn = chance.argmin().repeat(1, count)
    taken, left = trees.verify_independent(p, q, drawn, none, rho)
    assert int(taken) == -1
    total += through * left[0]
    assert (total - p[0]).abs().max() < 1e-12


def test_one_independent_sibling_is_the_exact_rule():
    p, q = dists(50, seed=5), dists(50, seed=6)
    torch.testing.assert_close(trees.kseq_rho(p, q, 1), torch.ones(50, dtype=torch.float64))


def test_siblings_differ_and_what_cannot_be_drawn_is_skipped():
    q = torch.tensor([[0.5, 0.5, 0.0, 0.0]]).double()
    drawn = trees.draw_siblings(q, 3, torch.zeros(1, 4).double())
    assert sorted(drawn[0, :2].tolist()) == [0, 1]
    p = torch.tensor([[0.0, 0.0, 0.5, 0.5]]).double()
    taken, left = trees.verify_siblings(p, q, drawn, torch.full((1, 3), 0.5).double())
    assert int(taken) == -1 and torch.equal(left, p)


def test_shapes_of_a_tree():
    parents = [-1, -1, 0, 2, 1]
    assert depths(parents) == [1, 1, 2, 3, 2]
    seen = trees.ancestor_mask(parents)
    assert [row.nonzero().flatten().tolist() for row in seen] == [
        [0], [0, 1], [0, 2], [0, 1, 3], [0, 1, 3, 4], [0, 2, 5],
    ]  # fmt: skip


def greedy(seed, budget=6, threshold=0.0):
    def next_probs(path):
        prefix = sum(t * V ** (len(path) - 1 - i) for i, t in enumerate(path))
        return DRAFTS[len(path) % T].double().softmax(-1)[prefix % len(DRAFTS[len(path) % T])]

    u = (float(x) for x in numbers(1, 99, seed)[0])
    return tree_growth.grow_tree(next_probs, budget, u, threshold=threshold), next_probs


def test_a_greedy_tree_grows_where_acceptance_is_likely():
    tree, next_probs = greedy(0, budget=12)
    assert len(tree.tokens) == 12 and all(p < i for i, p in enumerate(tree.parents))
    for node in (-1, *range(12)):
        tokens = [tree.tokens[kid] for kid in tree.children(node)]
        assert len(set(tokens)) == len(tokens)
        if tokens:
            assert torch.equal(tree.probs[node], next_probs(tree.path(node)))
    assert len(greedy(0, budget=12, threshold=0.4)[0].tokens) < 12
    assert len(greedy(0, budget=0)[0].tokens) == 0


def test_walks_of_greedy_trees_are_exact():
    """The first token after the root over 500 trees; 16.3 is the 99.9th percentile."""
    counts, rows = torch.zeros(V), 500
    root = TABLES[0].double().softmax(-1)
    rest = dists(7, seed=9)
    for seed in range(rows):
        tree, _ = greedy(seed, budget=3)
        probs = torch.cat((root, rest[: len(tree.tokens)]))
        u = iter(numbers(1, 99, seed + rows)[0].tolist())
        path, left = trees.verify_tree(tree, probs, u)
        v = torch.tensor(next(u), dtype=torch.float64)
        counts[tree.tokens[path[0]] if path else int(pick(left, v))] += 1
    expected = root[0] * rows
    assert ((counts - expected) ** 2 / expected).sum() < 16.3
