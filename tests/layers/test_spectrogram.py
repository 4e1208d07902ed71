import math

import pytest
import torch

from studio.env import probe
from studio.layers.spectrogram import LogMel, magnitudes, mel_filterbank


def test_a_tone_stands_in_its_bin_and_in_its_band():
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(8000) / 16000)[None]
    spectrum = magnitudes(tone, 512, 128, window=torch.hann_window(512))
    assert spectrum.shape == (1, 257, 8000 // 128 + 1)
    assert spectrum[0, :, 20].argmax() == 32
    bands = LogMel(16000, 512, 128, 40)(tone)
    middle = mel_filterbank(16000, 512, 40)[32].argmax()
    assert bands[0, :, 20].argmax() == middle


def test_silence_has_a_finite_value_and_gradient():
    wave = torch.zeros(1, 2000, requires_grad=True)
    LogMel(16000, 512, 128, 20)(wave).sum().backward()
    assert torch.isfinite(wave.grad).all()


@pytest.mark.skipif(not probe("torchaudio").ok, reason="needs torchaudio")
def test_the_same_as_torchaudio():
    import torchaudio

    wave = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    options = {"sample_rate": 24000, "n_fft": 1024, "hop_length": 256, "n_mels": 100, "power": 1}
    theirs = torchaudio.transforms.MelSpectrogram(**options)(wave).clamp(min=1e-7).log()
    assert torch.allclose(LogMel(24000, 1024, 256, 100)(wave), theirs, atol=1e-4)
