"""SEANet: lengths and borders, and long clips piece by piece."""

import pytest
import torch
from torch.nn import functional as F

from studio.layers.seanet import SEANetConv, SEANetEncoder, reflect_pad


def waves(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_a_clip_too_short_to_be_mirrored_gets_zeros_first():
    x = torch.tensor([[[1.0, 2.0]]])
    assert reflect_pad(x, 1, 1)[0, 0].tolist() == [2, 1, 2, 1]
    assert reflect_pad(x, 3, 2)[0, 0].tolist() == [0, 0, 2, 1, 2, 0, 0]
    assert reflect_pad(x[..., :1], 1, 0)[0, 0].tolist() == [0, 1]


@pytest.mark.parametrize("kernel, stride", [(7, 1), (4, 2), (10, 5), (6, 3)])
@pytest.mark.parametrize("length", [60, 61, 59])
def test_a_convolution_has_a_frame_for_every_started_stride(kernel, stride, length):
    conv = SEANetConv(2, 3, kernel, stride=stride)
    assert conv(waves(1, 2, length)).shape == (1, 3, -(-length // stride))


def test_an_odd_padding_has_its_larger_half_at_the_left():
    conv = SEANetConv(1, 1, 6, stride=3)
    x = waves(1, 1, 30)
    plain = F.conv1d(F.pad(x, (2, 1), mode="reflect"), conv.v, conv.bias, 3)
    assert torch.allclose(conv(x), plain, atol=1e-6)


@pytest.mark.parametrize("strides", [(2, 4, 5), (3, 2)])
@pytest.mark.parametrize("lstm_layers", [0, 2])
@pytest.mark.parametrize("extra", [0, 1, 17])
def test_pieces_are_the_whole(strides, lstm_layers, extra):
    encoder = SEANetEncoder(4, strides, 8, lstm_layers=lstm_layers).eval()
    x = waves(2, 1, 45 * encoder.hop + extra)
    whole = encoder(x)
    frames = -(-x.shape[-1] // encoder.hop)
    assert whole.shape == (2, 8, frames)
    pieces = list(encoder.stream(x, frames=10))
    assert len(pieces) == -(-frames // 10)
    assert torch.allclose(torch.cat(pieces, 2), whole, atol=1e-6)
    (one,) = encoder.stream(x[..., :2], frames=10)
    assert torch.allclose(one, encoder(x[..., :2]), atol=1e-6)
    assert torch.allclose(torch.cat(list(encoder.stream(x, frames=1)), 2), whole, atol=1e-6)
