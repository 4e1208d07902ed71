import math
import sys

import pytest
import torch

from studio.env import probe
from studio.evaluation.sound_judges import (
    SoundJudges,
    mel_distance,
    pitch_errors,
    stft_distance,
    summarize,
)

RATE = 16000


def voice(hertz, seconds=1.5):
    """Pulses with pauses between them."""
    time = torch.arange(round(seconds * RATE)) / RATE
    wave = sum(torch.cos(2 * math.pi * hertz * k * time) / k for k in range(1, 12))
    return (0.1 * wave * (torch.sin(9 * time) > -0.4))[None]


def test_equal_sounds_are_best_and_noise_makes_them_worse():
    real = voice(140)
    noise = 0.02 * torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    judges = SoundJudges()
    names = [column.key for column in judges.metrics()]
    same, worse = (judges.observe(fake, real, RATE) for fake in (real, real + noise))
    assert set(same) == set(worse) == set(names)
    for column in judges.metrics():
        if column.key not in ("f0", "voicing"):
            better = same[column.key] > worse[column.key]
            assert better == (column.better == "higher"), column.key
    assert same["mel"] == same["stft"] == same["f0"] == same["voicing"] == 0


def test_errors_of_pitch_and_voicing():
    cents, differs = pitch_errors(voice(150 * 2 ** (50 / 1200)), voice(150), RATE)
    assert cents == pytest.approx(50, abs=5) and differs < 0.1
    cents, differs = pitch_errors(torch.zeros(1, RATE), voice(150, 1.0), RATE)
    assert math.isnan(cents) and differs > 0.5


def test_distances_by_hand():
    real = 0.1 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    assert mel_distance(real * 2, real, RATE) == pytest.approx(math.log(2), abs=0.01)
    assert stft_distance(real * 2, real) == pytest.approx(1 + math.log(2), abs=0.01)


@pytest.mark.parametrize("length", [1, 700, 8000])
def test_short_and_silent_sounds_have_figures_or_none(length):
    for wave in (torch.zeros(1, length), 0.1 * torch.ones(1, length)):
        found = SoundJudges().observe(wave, wave, RATE)
        assert found["mel"] == 0 and found["voicing"] == 0
        assert all(isinstance(value, float) for value in found.values())
    means = summarize(
        {"a": torch.tensor([math.nan, 2.0, 4.0]), "b": torch.tensor([math.nan])}, "ab"
    )
    assert means["a"] == 3 and math.isnan(means["b"])


def test_missing_packages_are_left_out_and_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    probe.cache_clear()
    try:
        judges = SoundJudges()
        assert "pesq" not in [column.key for column in judges.metrics()]
        assert "pesq" not in judges.observe(voice(140), voice(140), RATE)
        (line,) = [line for line in judges.missing() if "PESQ" in line]
        assert "run: pip install" in line
    finally:
        probe.cache_clear()
