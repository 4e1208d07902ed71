import math

import pytest
import torch

from studio.env import probe
from studio.evaluation.recogniser import Recogniser
from studio.evaluation.sound_networks import open_all, open_opinion, open_speaker, open_words


class Loudness(torch.nn.Module):
    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return wave.abs().mean(-1)


class Halves(torch.nn.Module):
    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return torch.stack([wave[:, ::2].abs().mean(-1), wave[:, 1::2].mean(-1)], -1)


class Wrong(torch.nn.Module):
    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return wave.reshape(7, -1)


@pytest.fixture
def files(tmp_path):
    for module in (Loudness(), Halves(), Wrong()):
        torch.jit.script(module).save(tmp_path / f"{type(module).__name__}.pt")
    Recogniser(dim=8, hidden_dim=8, num_layers=1, n_mels=8).save_pretrained(tmp_path / "hears")
    return tmp_path


def test_scores_of_given_files(files):
    opinion, speaker, words = open_all(
        [files / "Loudness.pt"], files / "Halves.pt", files / "hears"
    )
    wave = 0.5 * torch.ones(1, 8000)
    assert opinion.score(wave, 0 * wave, 16000) == pytest.approx(0.5)
    assert opinion.column.label == "Loudness" and "Loudness.pt" in opinion.column.about
    assert speaker.score(wave, wave, 16000) == pytest.approx(1)
    assert speaker.score(wave, wave, 8000) == pytest.approx(1, abs=0.01)
    noise = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    heard = words.score(noise, noise, 16000)
    assert heard == 0 or math.isnan(heard)
    assert len({opinion.identity, speaker.identity, words.identity}) == 3


def test_files_that_are_refused(files):
    (files / "no.pt").write_bytes(b"PK")
    (files / "net.onnx").write_bytes(b"")
    for opened, name, kind, message in (
        (open_opinion, "none.pt", FileNotFoundError, "does not exist"),
        (open_opinion, "hears/config.json", ValueError, "suffix '.json' must be one of .pt"),
        (open_speaker, "no.pt", ValueError, "is no TorchScript file"),
        (open_opinion, "Wrong.pt", ValueError, "must take waves"),
        (open_words, "none", ValueError, "--recogniser"),
    ):
        with pytest.raises(kind, match=message) as error:
            opened(files / name)
        assert "\n" not in str(error.value)
    onnx = probe("onnxruntime").ok
    kind, message = (ValueError, "no ONNX") if onnx else (ImportError, "pip install onnxruntime")
    with pytest.raises(kind, match=message):
        open_opinion(files / "net.onnx")
