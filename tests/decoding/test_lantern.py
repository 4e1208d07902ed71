"""The rules themselves are compared with recordings in tests/evaluation/golden; here is what those
leave out."""

import torch

from studio.decoding.lantern import Relaxation, reject_dynamic, relaxed_greedy, relaxed_walk
from studio.decoding.trees import Tree

V = 4


def test_certain_drafts_with_no_neighbours_are_exact():
    """EAGLE-2's rule by enumeration: p(x1), then p(x2) / (1 - p(x1)), then what is left."""
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    options = Relaxation(torch.zeros(V, 0, dtype=torch.int64), None)
    left = reject_dynamic(p, 2, options)
    last = reject_dynamic(left, 0, options)
    total = (1 - p[2]) * (1 - left[0]) * last
    total[2] += p[2]
    total[0] += (1 - p[2]) * left[0]
    assert (total - p).abs().max() < 1e-12


def test_the_longest_path_wins_at_temperature_zero():
    tree = Tree()
    first = tree.add(-1, 3)
    tree.add(-1, 2)
    tree.add(first, 1)
    probs = torch.eye(V)[[3, 1, 0, 0]]
    options = Relaxation(torch.zeros(V, 0, dtype=torch.int64), None)
    assert relaxed_greedy(tree, probs, options) == [0, 2]


def test_a_walk_takes_one_number_a_test_and_ends_where_nothing_stands():
    tree = Tree()
    tree.add(-1, 3)
    tree.add(-1, 2)
    probs = torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 3).double()
    options = Relaxation(torch.tensor([[1, 2, 3], [0, 2, 3], [1, 3, 0], [2, 1, 0]]), 1, 0.25)
    numbers = iter([0.9, 0.9, 0.5])
    path, left = relaxed_walk(tree, probs, numbers, options)
    assert path == [] and next(numbers) == 0.5 and abs(float(left.sum()) - 1) < 1e-12
    assert relaxed_walk(tree, probs, iter([0.3]), options)[0] == [0]
