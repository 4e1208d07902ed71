"""The Haar transform: there and back, order of the bands, chunks."""

import pytest
import torch

from studio.layers.haar import fold_clip, unfold_clip


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_there_and_back(patch):
    video = torch.randn(2, 3, 1 + 2 * patch, 8, 4, generator=torch.Generator().manual_seed(0))
    folded = fold_clip(video, patch)
    assert folded.shape == (2, 3 * patch**3, 3, 8 // patch, 4 // patch)
    torch.testing.assert_close(unfold_clip(folded, patch), video, atol=1e-5, rtol=0)
    later = fold_clip(video[:, :, 1 + patch :], patch, first=False)
    torch.testing.assert_close(folded[:, :, 2:], later)
    torch.testing.assert_close(unfold_clip(later, patch, first=False), video[:, :, 1 + patch :])


def test_bands_run_low_to_high_along_time_height_width():
    video = torch.zeros(1, 1, 2, 2, 2)
    for axis, band in ((4, 1), (3, 2), (2, 4)):
        slope = torch.tensor([1.0, -1.0]).view([2 if i == axis else 1 for i in range(5)])
        folded = fold_clip(video + slope, 2, first=False).flatten()
        assert folded.nonzero().tolist() == [[band]]
    plain = fold_clip(video + 1, 2, first=False).flatten()
    assert plain.nonzero().tolist() == [[0]] and plain.max() == pytest.approx(1.0)
