"""The window rule against sets built cell by cell, and what is refused."""

import itertools

import pytest
import torch

from studio.layers.neighborhood_window import (
    Neighborhood,
    axis_windows,
    neighborhood_mask,
    raster_windows,
)

AXES = [
    axis
    for axis in itertools.product((5, 8, 13), (2, 3, 4, 5), (1, 2, 3), (1, 2), (False, True))
    if axis[1] * axis[3] <= axis[0] and axis[2] <= axis[1]
]


def seen_by_hand(axis):
    """For each place the set of places it sees, after the words of the rule."""
    size, kernel, stride, dilation, causal = axis
    sets = []
    for place in range(size):
        group = list(range(place % dilation, size, dilation))
        own = group.index(place)
        block = group[own // stride * stride : own // stride * stride + stride]
        if causal:
            last = group.index(block[-1]) if len(block) == stride else len(group) - 1
            sets.append({group[i] for i in range(max(last - kernel + 1, 0), own + 1)})
            continue
        leader = min(own // stride * stride + stride // 2, len(group) - 1)
        first = min(max(leader - kernel // 2, 0), len(group) - kernel)
        sets.append(set(group[first : first + kernel]))
    return sets


@pytest.mark.parametrize("axis", AXES, ids=str)
def test_one_axis(axis):
    first, last = axis_windows(*axis)
    mask = neighborhood_mask(Neighborhood((axis[0],), *axis[1:]))
    for place, expected in enumerate(seen_by_hand(axis)):
        low, high = int(first[place]), int(last[place])
        assert set(range(low, high + 1, axis[3])) == expected
        assert set(mask[place].nonzero().flatten().tolist()) == expected
        assert place in expected
        assert axis[4] or len(expected) == axis[1]


def test_axes_are_anded():
    window = Neighborhood((3, 5, 6), (2, 3, 4), (1, 2, 1), (1, 1, 1), (True, False, False))
    mask = neighborhood_mask(window).view(3, 5, 6, 3, 5, 6)
    sets = [seen_by_hand(axis) for axis in window.axes]
    for t, h, w in ((0, 0, 0), (1, 3, 5), (2, 4, 2)):
        expected = set(itertools.product(sets[0][t], sets[1][h], sets[2][w]))
        assert set(map(tuple, mask[t, h, w].nonzero().tolist())) == expected


def test_raster_windows_look_at_the_next_cell():
    window = Neighborhood((4, 5), 3)
    seen, grid = raster_windows(window, 2), neighborhood_mask(window)
    assert seen.shape == (22, 22) and seen[2:, :2].all()
    assert torch.equal(seen[:2, :2], torch.ones(2, 2, dtype=torch.bool).tril())
    assert not seen.triu(1).any() and seen.diagonal().all()
    for cell in range(19):
        expected = {c for c in grid[cell + 1].nonzero().flatten().tolist() if c <= cell} | {cell}
        assert set(seen[cell + 2, 2:].nonzero().flatten().tolist()) == expected
    # At the end of line 1 the start of line 2 is next, so the start of line 1 is seen.
    assert seen[2 + 9, 2 + 5] and not seen[2 + 9, 2 + 8]


def test_config_values():
    window = Neighborhood.from_config({"kernel": [3, 5], "causal": [True, False]}, (6, 9))
    assert window == Neighborhood((6, 9), (3, 5), (1, 1), (1, 1), (True, False))
    assert (window.num_tokens, window.num_keys) == (54, 15)
    assert hash(window) == hash(Neighborhood([6, 9], [3, 5], causal=[True, False]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kernel": 1}, "kernel 1 with dilation 1 must be at least 2"),
        ({"kernel": 3, "dilation": 3}, "kernel 3 with dilation 3 .* at most 6"),
        ({"kernel": 3, "stride": 4}, "stride 4 of axis 0 must be from 1 to the kernel, 3"),
        ({"kernel": (3, 3, 3)}, "kernel .* one for each axis"),
        ({"kernel": 2.5}, "kernel 2.5 must be"),
        ({"stride": 1}, "must have a kernel"),
        ({"kernel": 3, "size": 3}, "must have a kernel and may have"),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(ValueError, match=message):
        Neighborhood.from_config(values, (6, 9))


def test_four_axes_are_too_many():
    with pytest.raises(ValueError, match="one to three axes"):
        Neighborhood((4, 4, 4, 4), 2)
