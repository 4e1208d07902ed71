"""Video folded by the 3D Haar transform: 2 x 2 x 2 pixels to 8 bands, once or several times.

As in the Cosmos tokenizers (2025, 2501.03575). The transform is orthonormal but for a scale that
keeps averages in the range of the pixels. Left out on purpose: other wavelets.
"""

import math

import torch

_ROUND = 2 * math.sqrt(2)


def fold_clip(video: torch.Tensor, patch: int, *, first: bool = True) -> torch.Tensor:
    """Pixels to bands.

    Args:
        video: (B, C, T, H, W); T is 1 + k * patch at the start of a clip, else k * patch, H and W
            are multiples of `patch`.
        patch: a power of 2.
        first: whether this is the start, whose first frame is repeated to fill a patch.

    Returns:
        (B, C * patch^3, ceil(T / patch), H / patch, W / patch); bands low to high along time,
        height, width, the last the fastest.
    """
    if first and patch > 1:
        front = video[:, :, :1].expand(-1, -1, patch - 1, -1, -1)
        video = torch.cat((front, video), dim=2)  # (B, C, T + patch - 1, H, W)
    for _ in range(int(math.log2(patch))):
        bands = [video]
        for dim in (2, 3, 4):
            bands = [half for band in bands for half in _split(band, dim)]
        video = torch.cat(bands, dim=1) / _ROUND  # (B, 8C, T/2, H/2, W/2)
    return video


def unfold_clip(bands: torch.Tensor, patch: int, *, first: bool = True) -> torch.Tensor:
    """The inverse of `fold_clip`: (B, C * patch^3, t, h, w) to (B, C, T, H, W)."""
    for _ in range(int(math.log2(patch))):
        parts = list((bands * _ROUND).chunk(8, dim=1))
        for dim in (4, 3, 2):
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [_merge(low, high, dim) for low, high in pairs]
        bands = parts[0]  # (B, C/8, 2t, 2h, 2w)
    return bands[:, :, patch - 1 :] if first else bands


def _split(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums and differences of neighbours along `dim`, half as long."""
    even, odd = x.unflatten(dim, (-1, 2)).unbind(dim + 1)
    return (even + odd) / math.sqrt(2), (even - odd) / math.sqrt(2)


def _merge(low: torch.Tensor, high: torch.Tensor, dim: int) -> torch.Tensor:
    pair = ((low + high) / math.sqrt(2), (low - high) / math.sqrt(2))
    return torch.stack(pair, dim=dim + 1).flatten(dim, dim + 1)
