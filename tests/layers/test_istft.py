"""Inverse STFT: against torch's own for both of its forms, and perfect reconstruction."""

import pytest
import torch

from studio.layers.istft import InverseSTFTHead, inverse_stft


def spectrum(frames, n_fft, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n_fft // 2 + 1, frames, dtype=torch.complex64, generator=generator)


def test_center_is_what_torch_does():
    x = spectrum(12, 64)
    x[:, [0, -1]] = x[:, [0, -1]].real + 0j
    theirs = torch.istft(x, 64, 16, window=torch.hann_window(64), center=True)
    ours = inverse_stft(x, n_fft=64, hop=16, padding="center")
    assert ours.shape == (2, 11 * 16) and torch.allclose(ours, theirs, atol=1e-5)


def test_same_brings_back_the_wave_of_its_own_frames():
    wave = torch.randn(1, 320, generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(wave, (24, 24))
    window = torch.hann_window(64)
    x = torch.stft(padded, 64, 16, window=window, center=False, return_complex=True)
    back = inverse_stft(x, n_fft=64, hop=16, padding="same")
    assert back.shape == wave.shape and torch.allclose(back, wave, atol=1e-5)


def test_the_head_clips_loud_bins_and_keeps_finite_gradients():
    head = InverseSTFTHead(8, n_fft=32, hop=8)
    linear = torch.zeros(1, 5, 34)
    linear[0, 2, 3] = 1e4
    linear.requires_grad_()
    wave = head.wave(linear)
    assert wave.shape == (1, 40) and wave.abs().max() < 100 * 2
    wave.sum().backward()
    assert torch.isfinite(linear.grad).all()
    assert head.bfloat16()(torch.randn(1, 5, 8).bfloat16()).dtype == torch.float32


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match="padding 'valid' must be one of same, center"):
        InverseSTFTHead(8, n_fft=32, hop=8, padding="valid")
    with pytest.raises(ValueError, match="n_fft 15"):
        InverseSTFTHead(8, n_fft=15, hop=8)
