"""Windows: they cover everything, overlap as asked, and join without a seam."""

from itertools import pairwise

import pytest
import torch

from studio.layers.windows import crossfaded, window_bounds


@pytest.mark.parametrize("total", [1, 9, 10, 11, 25, 100, 103])
def test_windows_cover_all_and_overlap(total):
    bounds = list(window_bounds(total, 10, 4))
    assert bounds[0][0] == 0 and bounds[-1][1] == total
    for (_, stop), (start, _) in pairwise(bounds):
        assert stop - start >= 4
    assert all(stop - start == min(10, total) for start, stop in bounds)
    with pytest.raises(ValueError, match="window of 4 frames"):
        list(window_bounds(10, 4, 4))


@pytest.mark.parametrize("lost", [0, 3])
def test_pieces_of_a_wave_join_to_it(lost):
    """`lost` samples are missing at the end of each piece, as with centred frames."""
    wave = torch.randn(2, 53 * 3, generator=torch.Generator().manual_seed(0))

    def piece(start, stop):
        return wave[:, start * 3 : stop * 3 - lost]

    joined = crossfaded(piece, 53, size=12, overlap=6, fade=2, hop=3)
    assert torch.allclose(joined, wave[:, : 53 * 3 - lost])


def test_a_difference_of_level_is_crossed_slowly():
    made = iter([0.0, 1.0])

    def piece(start, stop):
        return torch.full((1, (stop - start) * 2), next(made))

    joined = crossfaded(piece, 12, size=8, overlap=4, fade=3, hop=2)[0]
    assert joined[0] == 0 and joined[-1] == 1
    assert joined.diff().max() <= 1 / 7 + 1e-6 and joined.diff().min() >= 0
