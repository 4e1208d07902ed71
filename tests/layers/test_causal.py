"""Causal convolutions: nothing looks ahead, and chunks with a carry are the whole."""

import pytest
import torch

from studio.layers.causal import (
    Carry,
    CausalConv3d,
    CausalDownsample,
    CausalUpsample,
    FactorizedConv3d,
    FrameNorm,
)
from studio.layers.causal_blocks import CausalMiddle, CausalResidualBlock

LAYERS = {
    "conv": lambda: CausalConv3d(4, 4, (3, 3, 3), space_pad=1),
    "factorized": lambda: FactorizedConv3d(4, 6),
    "residual": lambda: CausalResidualBlock(4, 6),
    "middle": lambda: CausalMiddle(4),
    "down": lambda: CausalDownsample(4, space=True, time=True),
    "up": lambda: CausalUpsample(4, space=True, time=True),
}


def clip(frames=9):
    return torch.randn(2, 4, frames, 4, 6, generator=torch.Generator().manual_seed(0))


def made(name):
    torch.manual_seed(1)
    return LAYERS[name]().eval()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("cuts", [(1, 2, 6), (3, 4, 2), (5, 4)])
@torch.no_grad()
def test_chunks_are_the_whole(name, cuts):
    layer, carry = made(name), Carry()
    parts = [layer(part, carry) for part in clip().split(cuts, dim=2)]
    torch.testing.assert_close(torch.cat(parts, 2), layer(clip(), Carry()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_later_frames_change_nothing_before_them(name):
    layer, other = made(name), clip()
    other[:, :, 5:] += 1
    before, after = layer(clip(), Carry()), layer(other, Carry())
    same = {"down": 3, "up": 9}.get(name, 5)
    assert torch.equal(before[:, :, :same], after[:, :, :same])
    assert not torch.equal(before[:, :, same:], after[:, :, same:])


def test_frames_in_and_out():
    assert made("down")(clip(9), Carry()).shape == (2, 4, 5, 2, 3)
    assert made("up")(clip(5), Carry()).shape == (2, 4, 9, 8, 12)
    assert made("up")(clip(1), Carry()).shape == (2, 4, 1, 8, 12)
    for cls in (CausalDownsample, CausalUpsample):
        assert torch.equal(cls(4, space=False, time=False)(clip(), Carry()), clip())


def test_the_norm_knows_no_other_frame():
    x = clip()
    x[:, :, 3] *= 100
    torch.testing.assert_close(FrameNorm(4)(x)[:, :, 3], FrameNorm(4)(clip())[:, :, 3])


@torch.no_grad()
def test_memory_bounds_what_attention_keeps():
    layer, carry, sizes = made("middle"), Carry(memory=3), []
    for part in clip(9).split(1, dim=2):
        layer(part, carry)
        sizes.append(carry.nbytes)
    assert sizes[0] < sizes[3] == sizes[-1]
    exact, short = layer(clip(3), Carry()), layer(clip(3), Carry(memory=3))
    assert torch.equal(exact, short)
    with pytest.raises(ValueError, match="memory -1 must be at least 0"):
        Carry(memory=-1)
