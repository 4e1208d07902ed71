"""Resampling keeps what both rates can hold, and says what it does not take."""

import math

import pytest
import torch

from studio.media.resampling import resample


@pytest.mark.parametrize("source, target", [(16000, 24000), (44100, 16000), (8000, 48000)])
def test_a_tone_stays_a_tone(source, target):
    seconds = 0.2
    times = torch.arange(round(seconds * source)) / source
    tone = torch.sin(2 * math.pi * 440 * times)[None, None]
    made = resample(tone, source, target)
    assert made.shape[-1] == math.ceil(tone.shape[-1] * target / source)
    wanted = torch.sin(2 * math.pi * 440 * torch.arange(made.shape[-1]) / target)
    middle = slice(target // 20, -target // 20)
    assert (made[0, 0, middle] - wanted[middle]).abs().max() < 5e-3


def test_the_same_rate_changes_nothing_and_bad_ones_are_named():
    x = torch.randn(1, 1, 100)
    assert resample(x, 16000, 16000) is x
    with pytest.raises(ValueError, match="source rate 0"):
        resample(x, 0, 16000)
    with pytest.raises(ValueError, match=r"target rate 0\.5"):
        resample(x, 16000, 0.5)
