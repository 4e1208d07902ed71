import sys

import pytest
import torch

from studio.env import probe
from studio.media.sound_quality import pesq, quality_packages, si_sdr, stoi


def test_si_sdr_by_hand():
    real = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    noise = torch.tensor([[0.1, 0.1, -0.1, -0.1]])
    assert si_sdr(3 * (real + noise), real) == pytest.approx(20, abs=1e-4)


@pytest.mark.skipif(not quality_packages(), reason="needs pesq and pystoi")
def test_the_same_sound_is_best_and_silence_has_no_score():
    torch.manual_seed(0)
    time = torch.arange(32000) / 16000
    real = 0.2 * torch.sin(1000 * time) * (torch.sin(15 * time) > 0) + 0.01 * torch.randn(32000)
    worse = real + 0.05 * torch.randn(32000)
    assert pesq(real, real) > 4.5 > pesq(worse, real)
    assert stoi(real, real, 16000) > 0.99 > stoi(worse, real, 16000)
    assert pesq(torch.zeros(16000), torch.zeros(16000)) != pesq(real, real)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    probe.cache_clear()
    try:
        with pytest.raises(ImportError, match=r"^pesq (is not installed|does not work).*run: pip"):
            pesq(torch.zeros(16000), torch.zeros(16000))
    finally:
        probe.cache_clear()
