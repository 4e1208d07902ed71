import numpy as np
import pytest
import torch

from studio.env import probe
from studio.evaluation import sound_codecs
from studio.evaluation.sound_codecs import RATES, available_codecs, code, in_step, missing_codecs


def chirp(rate=16000):
    time = torch.arange(rate) / rate
    return (0.4 * torch.sin(2 * np.pi * (200 + 300 * time) * time))[None]


@pytest.mark.parametrize("codec", RATES)
@pytest.mark.parametrize("rate", [16000, 24000])
def test_codecs_keep_length_and_step(codec, rate):
    if codec not in available_codecs():
        pytest.skip(f"no coder of {codec} here")
    real = chirp(rate)
    coded = code(real, rate, codec, RATES[codec][-1])
    assert coded.wave.shape == real.shape
    fit = torch.nn.functional.cosine_similarity(
        coded.wave[0, 2000:-2000], real[0, 2000:-2000], dim=0
    )
    assert fit > 0.97
    assert coded.bits == pytest.approx(1000 * RATES[codec][-1], rel=0.5)
    assert code(real, rate, codec, RATES[codec][0]).bits < coded.bits


@pytest.mark.skipif(not probe("imageio_ffmpeg").ok, reason="needs imageio-ffmpeg")
@pytest.mark.parametrize("codec", RATES)
def test_ffmpeg_does_where_soundfile_does_not(codec):
    real = chirp()
    data, made = sound_codecs._by_ffmpeg(real[0].numpy(), 16000, codec, RATES[codec][-1])
    late = in_step(torch.from_numpy(made)[None], real)
    assert torch.nn.functional.cosine_similarity(late[0], real[0], dim=0) > 0.95
    assert 1000 < len(data) < 10_000


def test_what_is_not_here_is_said(monkeypatch):
    monkeypatch.setattr(sound_codecs, "_backend", lambda codec: None)
    assert available_codecs() == []
    assert [line.split(":")[0] for line in missing_codecs()] == ["No MP3", "No OPUS"]
    with pytest.raises(ValueError, match="codec 'mp3' must be one of none is here"):
        code(chirp(), 16000, "mp3", 8)


def test_late_and_early_sounds_are_put_in_step():
    real = chirp()
    for late in (-300, 0, 77):
        moved = torch.roll(torch.nn.functional.pad(real, (400, 400)), late, -1)[:, 400:]
        assert torch.nn.functional.cosine_similarity(in_step(moved, real)[0], real[0], dim=0) > 0.98
