"""Flicker and flow-warped error: nothing of a steady clip, much of one that jitters."""

import torch

from studio.evaluation.steadiness import backward_flow, flicker, warped_error


def moving(frames=4, size=32, step=2):
    """A textured square that moves right over plain ground, (3, T, H, W)."""
    patch = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    clip = torch.full((3, frames, size, size), 0.5)
    for t in range(frames):
        clip[:, t, 10:22, 4 + step * t : 16 + step * t] = patch
    return clip


def test_flicker_is_change_that_the_source_lacks():
    clip = moving()[None]
    assert flicker(clip, clip).item() == 0
    darker = clip.clone()
    darker[:, :, 1::2] -= 0.1
    assert 12.5 < flicker(darker, clip).item() < 12.9  # 0.1 of 2 is 12.75 of 255
    assert flicker(clip / 2 - 0.3, clip / 2).item() < 1e-4  # a wrong colour does not flicker
    assert flicker(clip[:, :, :1], clip[:, :, :1]).tolist() == [0]


def test_flow_follows_what_moves():
    clip = moving()
    index, sure = backward_flow(clip)
    place = 16 * 32 + 12  # inside the square in frame 1
    assert index[0, place].item() == place - 2 and bool(sure[0, place])
    assert index[0, 0].item() == 0
    assert warped_error(clip, (index, sure)).item() < 1.0
    still = clip[:, :1].expand(-1, 4, -1, -1)
    assert warped_error(still, (index, sure)).item() > 5  # what should move stands
    noise = 0.2 * torch.randn(clip.shape, generator=torch.Generator().manual_seed(1))
    assert warped_error(clip + noise, (index, sure)).item() > 10
    nothing = torch.zeros_like(sure)
    assert warped_error(clip, (index, nothing)).item() == 0
