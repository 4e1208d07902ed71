from typing import Any

import pytest
import torch

from studio.evaluation.recogniser import Recogniser

TINY: dict[str, Any] = {"n_mels": 16, "dim": 16, "hidden_dim": 32, "num_layers": 2}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Recogniser(**TINY).eval()


def wave(length: int) -> torch.Tensor:
    return 0.1 * torch.randn(1, length, generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("length", [1, 159, 160, 5000, 16001])
def test_steps_are_as_many_as_said(model, length):
    scores = model(wave(length)[None])
    assert scores.shape == (1, int(model.steps(torch.tensor(length))), 29)
    assert torch.allclose(scores.exp().sum(-1), torch.ones(1))


def test_the_best_path(model):
    letters = " " + model.config.alphabet
    path = [letters.index(c) for c in "  aa ppp  p l"]
    scores = torch.full((len(path), 29), -9.0)
    scores[range(len(path)), path] = 0.0
    blank = [i if letters[i] != " " else 0 for i in path]
    scores = torch.full((len(path), 29), -9.0)
    scores[range(len(path)), blank] = 0.0
    assert model.letters(scores) == "appl"


def test_every_wave_is_heard_alone(model):
    both = model.transcribe([wave(4000), wave(9000)])
    assert both == model.transcribe([wave(4000)]) + model.transcribe([wave(9000)])
    assert isinstance(model.transcribe([wave(6000)], sample_rate=24000)[0], str)
    with pytest.raises(ValueError, match=r"wave of shape \(2, 100\) must be"):
        model.transcribe([torch.zeros(2, 100)])


def test_a_gradient_reaches_every_parameter_and_it_comes_back_from_disk(model, tmp_path):
    model(wave(4000)[None]).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.save_pretrained(tmp_path)
    again = Recogniser.from_pretrained(tmp_path)
    assert torch.equal(again(wave(3000)[None]), model(wave(3000)[None]))
