"""How steady a coded clip is beside its source: flicker, and what a flow-warped frame misses.

The warped error follows "Learning Blind Video Temporal Consistency" (2018, 1808.00449): each frame
is compared with the one before, moved as the source moves, where that can be told. Flow comes from
matching blocks of the source, in whole pixels: no network, nothing to download. Leaves out on
purpose: moves of more than `REACH` pixels a frame, and parts of pixels.
"""

import torch
import torch.nn.functional as F

REACH = 6  # pixels a frame
BLOCK = 7  # side of the blocks that are matched
SURE = 0.04  # mean error of a match in [0, 1] up to which it counts
_FAR = 1e-4  # added for each pixel of the move, so that plain ground stands still


def flicker(clips: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    """Mean difference, in levels of 255, between how frames change and how the source's do: clips
    (B, 3, T, H, W) in [-1, 1] twice, to (B,); 0 for clips of one frame."""
    if clips.shape[2] < 2:
        return clips.new_zeros(len(clips))
    change = clips.clamp(-1, 1).diff(dim=2) - originals.diff(dim=2)
    return change.abs().flatten(1).mean(1) * 127.5


def backward_flow(clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each pixel was one frame before.

    Args:
        clip: (3, T, H, W) in [-1, 1].

    Returns:
        for frames 1 .. T - 1: the index of that pixel in the frame before, int64 (T - 1, H * W),
        and whether the match is sure, bool (T - 1, H * W).
    """
    frames = (clip.float().transpose(0, 1) + 1) / 2  # (T, 3, H, W)
    before, after = frames[:-1], frames[1:]
    height, width = clip.shape[-2:]
    wide = F.pad(before, (REACH,) * 4, mode="replicate")
    best = torch.full_like(after[:, :1], torch.inf)
    moves = torch.zeros_like(best, dtype=torch.int64)
    steps = range(-REACH, REACH + 1)
    every = sorted(((y, x) for y in steps for x in steps), key=lambda move: sum(map(abs, move)))
    for number, (down, right) in enumerate(every):
        top, left = REACH - down, REACH - right
        shifted = wide[:, :, top : top + height, left : left + width]
        error = (shifted - after).abs().mean(1, keepdim=True)
        error = F.avg_pool2d(error, BLOCK, 1, BLOCK // 2, count_include_pad=False)
        error = error + _FAR * (abs(down) + abs(right))
        moves = torch.where(error < best, number, moves)
        best = torch.minimum(best, error)
    table = torch.tensor(every, device=clip.device)[moves[:, 0]]  # (T - 1, H, W, 2)
    rows = torch.arange(height, device=clip.device)[:, None] - table[..., 0]
    columns = torch.arange(width, device=clip.device) - table[..., 1]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    return index.flatten(1), (inside & (best[:, 0] < SURE)).flatten(1)


def warped_error(clip: torch.Tensor, flow: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Mean difference, in levels of 255, between frames (3, T, H, W) and the ones before them moved
    by `backward_flow` of the source; a scalar, 0 where no match is sure."""
    index, sure = flow
    if not bool(sure.any()):
        return clip.new_zeros(())
    frames = clip.clamp(-1, 1).transpose(0, 1).flatten(2)  # (T, 3, H * W)
    moved = frames[:-1].gather(2, index[:, None].expand(-1, 3, -1))
    error = (frames[1:] - moved).abs().mean(1)  # (T - 1, H * W)
    return error[sure].mean() * 127.5
