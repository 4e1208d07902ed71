import numpy as np
import pytest

from studio.decoding.filling import neighbour_sources
from studio.outputs import TokenLayout, TokenSegment


def test_sources_on_a_grid():
    grid = TokenLayout.single((3, 4), 9)
    left = neighbour_sources(grid, "left").reshape(3, 4)
    assert (left[:, 0] == -1).all() and left[2].tolist() == [-1, 8, 9, 10]
    above = neighbour_sources(grid, "above").reshape(3, 4)
    assert above[0].tolist() == [-1, 0, 1, 2] and above[2].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("name", ["left", "above"])
def test_sources_of_one_dimension_are_the_token_before(name):
    assert neighbour_sources(TokenLayout.single((4,), 9), name).tolist() == [-1, 0, 1, 2]


def test_segments_codebooks_and_frames_are_kept_apart():
    layout = TokenLayout(
        (
            TokenSegment("coarse", (2,), 5),
            TokenSegment("audio", (3,), 7, codebooks=2),
            TokenSegment("video", (2, 2, 2), 9),
        )
    )
    left = neighbour_sources(layout, "left")
    assert left.tolist() == [-1, 0, -1, 2, 3, -1, 5, 6, -1, 8, -1, 10, -1, 12, -1, 14]
    above = neighbour_sources(layout, "above")
    assert above[8:].tolist() == [-1, 8, 8, 9, -1, 12, 12, 13]
    sizes = np.array([5] * 2 + [7] * 6 + [9] * 8)
    for sources in (left, above):
        there = sources >= 0
        assert (sources[there] < there.nonzero()[0]).all()
        assert (sizes[sources[there]] == sizes[there]).all()
