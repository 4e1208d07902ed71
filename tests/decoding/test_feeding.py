import numpy as np
import torch

from studio.decoding.feeding import Feeder
from tests.decoding.joints import JointRun, V, conditionals

N, B = 5, 3
TABLES = conditionals(3)


def plain(line, positions):
    """Logits of positions from the whole prefix."""
    rows = []
    for row, places in zip(line, positions):
        prefix = [int(sum(t * V ** (n - 1 - i) for i, t in enumerate(row[:n]))) for n in places]
        rows.append(torch.stack([TABLES[n][p] for n, p in zip(places, prefix)]))
    return torch.stack(rows)


def test_rows_of_different_lengths_are_scored_as_if_alone():
    line = np.random.default_rng(0).integers(0, V, (B, N))
    run = JointRun(TABLES, B)
    feeder = Feeder(run)
    at = np.array([0, 1, 2])
    got = feeder.score(line, at, np.array([2, 2, 2]))  # rows begin at their own place at once
    torch.testing.assert_close(got, plain(line, at[:, None] + np.arange(2)))
    line[0, 1], line[2, 3] = (line[0, 1] + 1) % V, (line[2, 3] + 1) % V
    feeder.keep(np.array([1, 2, 3]))
    at, count = np.array([2, 3, 4]), np.array([2, 2, 1])
    got = feeder.score(line, at, count)
    for row in range(B):
        wanted = plain(line[row : row + 1], [range(at[row], at[row] + count[row])])
        torch.testing.assert_close(got[row : row + 1, : count[row]], wanted)
    assert run.passes == 2


def test_a_row_that_is_done_costs_the_others_nothing():
    line = np.random.default_rng(1).integers(0, V, (B, N))
    run = JointRun(TABLES, B)
    feeder = Feeder(run)
    feeder.score(line, np.array([0, 0, 0]), np.array([5, 5, 5]))
    feeder.keep(np.array([5, 0, 1]))
    got = feeder.score(line, np.array([5, 1, 2]), np.array([0, 4, 3]))
    torch.testing.assert_close(got[1:2], plain(line[1:2], [range(1, 5)]))
    torch.testing.assert_close(got[2:3, :3], plain(line[2:3], [range(2, 5)]))
    assert run.fed == [4, 4] and feeder.features.shape[:2] == (B, 4)


def test_a_row_that_lags_is_caught_up():
    line = np.random.default_rng(2).integers(0, V, (2, N))
    feeder = Feeder(JointRun(TABLES, 2))
    feeder.score(line, np.array([0, 0]), np.array([1, 1]))
    got = feeder.score(line, np.array([3, 1]), np.array([1, 1]))
    torch.testing.assert_close(got, plain(line, [[3], [1]]))
