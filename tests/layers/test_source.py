import math

import pytest
import torch

from studio.layers.source import SourceFilter, cycles, noise, pitch, pulses

RATE, HOP = 16000, 100


def voice(hertz: float, length: int = 8000) -> torch.Tensor:
    """Twenty harmonics of falling strength."""
    time = torch.arange(length) / RATE
    parts = [torch.cos(2 * math.pi * k * hertz * time) / k for k in range(1, 20)]
    return 0.1 * torch.stack(parts).sum(0)[None]


@pytest.mark.parametrize("hertz", [75.0, 120.0, 220.0, 401.0])
def test_pitch_is_read_and_made(hertz):
    found, height = pitch(voice(hertz), RATE, HOP)
    assert found.shape == height.shape == (1, 80)
    assert (found[0, 8:-8] / hertz - 1).abs().max() < 0.01
    assert height[0, 8:-8].min() > 0.9
    made = pulses(cycles(found, RATE, HOP), found, RATE, HOP)
    again, _ = pitch(made, RATE, HOP)
    assert (again[0, 8:-8] / hertz - 1).abs().max() < 0.01


def test_noise_and_silence_are_not_voiced():
    assert pitch(0.1 * noise(8000, torch.device("cpu"))[None], RATE, HOP)[1].max() < 0.5
    assert pitch(torch.zeros(1, 800), RATE, HOP)[1].max() == 0


def test_pulses_have_the_same_power_at_every_pitch_and_only_harmonics():
    for hertz in (80.0, 200.0):
        track = torch.full((1, 160), hertz)
        wave = pulses(cycles(track, RATE, HOP), track, RATE, HOP)
        assert abs(wave.std() - 1) < 0.1
        power = torch.fft.rfft(wave[0]).abs().square()  # bins of 1 Hz
        near = torch.arange(len(power)) % int(hertz)
        harmonic = (near <= 2) | (near >= hertz - 2)
        assert power[harmonic].sum() / power.sum() > 0.99


def test_noise_depends_on_the_place_alone():
    device = torch.device("cpu")
    assert torch.equal(noise(100, device)[40:], noise(60, device, start=40))


def test_a_gradient_reaches_the_filter():
    head = SourceFilter(8, n_fft=64, hop=16, sample_rate=RATE)
    hertz = torch.full((2, 10), 200.0)
    hidden = torch.randn(2, 10, 8, requires_grad=True)
    levels = torch.zeros(2, 10, 33, requires_grad=True)
    wave = head(hidden, levels, hertz, cycles(hertz, RATE, 16))
    assert wave.shape == (2, 160)
    wave.square().sum().backward()
    grads = (hidden.grad, levels.grad, head.out.weight.grad)
    assert all(g is not None and g.abs().sum() > 0 for g in grads)
