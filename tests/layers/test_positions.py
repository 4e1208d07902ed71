"""Position tables: shapes, and every place its own row."""

import torch

from studio.layers.positions import grid_table, sine_table, video_table


def test_tables():
    assert (
        sine_table(5, 8).shape == (5, 8) and sine_table(1, 8)[0].tolist() == [0.0] * 4 + [1.0] * 4
    )
    grid = grid_table(2, 3, 8)
    assert grid.shape == (6, 8) and torch.equal(grid[4, :4], sine_table(3, 4)[1])
    assert torch.equal(grid[4, 4:], sine_table(2, 4)[1])
    video = video_table(2, 2, 3, 8)
    assert torch.equal(video[6:], grid + sine_table(2, 8)[1])
    assert len(video.unique(dim=0)) == 12
