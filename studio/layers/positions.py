"""Fixed sine and cosine tables that are added to tokens: along a row, over a grid, over video.

Attention Is All You Need, 2017, 1706.03762; grids as in masked autoencoders, 2021, 2111.06377: half
of the channels say the column, half the row. Rotary positions are in `layers.rope`.
"""

import torch


def sine_table(count: int, dim: int) -> torch.Tensor:
    """Positions of a row, float32 (N, D): D / 2 sines, then D / 2 cosines."""
    frequencies = 10000 ** (-torch.arange(dim // 2).double() / (dim // 2))
    angles = torch.arange(count).double()[:, None] * frequencies  # (N, D / 2)
    return torch.cat((angles.sin(), angles.cos()), dim=1).float()


def grid_table(height: int, width: int, dim: int) -> torch.Tensor:
    """Positions of a grid in raster order, float32 (H * W, D): the column, then the row."""
    columns = sine_table(width, dim // 2).expand(height, -1, -1)  # (H, W, D / 2)
    rows = sine_table(height, dim // 2)[:, None].expand(-1, width, -1)  # (H, W, D / 2)
    return torch.cat((columns, rows), dim=-1).flatten(0, 1)


def video_table(frames: int, height: int, width: int, dim: int) -> torch.Tensor:
    """Positions of video, float32 (T * H * W, D): the sum of a grid's and a row's along time."""
    grid = grid_table(height, width, dim)  # (H * W, D)
    return (sine_table(frames, dim)[:, None] + grid).flatten(0, 1)
