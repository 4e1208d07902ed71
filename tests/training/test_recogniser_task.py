import json

import pytest
import torch
import yaml

from studio.registry import find_class
from studio.training.loop import train
from studio.training.recipe import load_recipe

LETTERS = "abcdefghijklmnopqrstuvwxyz' "


@pytest.fixture
def recipe(tmp_path, speak_as):
    """`recipe(**changes)`: a tiny run over speech whose every letter is a tone of its own."""
    speak_as(_tones)

    def write(**changes):
        config = {"n_mels": 32, "dim": 24, "hidden_dim": 48, "num_layers": 1}
        values = {
            "name": "tiny-recogniser",
            "task": "recogniser",
            "model": {"class": "Recogniser", "config": config},
            "data": {"kind": "speech", "sample_rate": 16000},
            "loss": {"utterances": 4, "checked": 2},
            "steps": 12,
            "batch_size": 2,
            "learning_rate": 5e-3,
            "warmup": 2,
            "log_every": 1,
            "save_every": 4,
            "sample_every": 12,
            "threads": 1,
            **changes,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values))
        return load_recipe(path)

    return write


def _tones(utterance, sample_rate=16000):
    time = torch.arange(sample_rate * 8 // 100) / sample_rate
    parts = [
        0.3 * torch.sin(2 * torch.pi * (200 + 250 * LETTERS.index(c)) * time)
        for c in utterance.text
    ]
    return torch.cat(parts)[None]


def _stop(done, steps, metrics):
    if done == 6:
        raise KeyboardInterrupt


def losses(folder):
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def test_it_learns_and_a_stopped_run_goes_on_to_the_same_numbers(recipe, tmp_path):
    final = train(recipe(), out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe(), out=tmp_path / "broken", progress=_stop)
    train(recipe(), out=tmp_path / "broken")
    whole = losses(tmp_path / "whole")
    assert losses(tmp_path / "broken") == whole
    assert whole[12] < 0.8 * whole[1]
    last = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < last["eval/cer"] <= 2 and "eval/wer_voice" in last
    model = find_class("Recogniser").from_pretrained(final)
    assert isinstance(model.transcribe([torch.zeros(1, 4000)])[0], str)


def test_wrong_options_are_named(recipe, tmp_path):
    with pytest.raises(ValueError, match="loss option 'beam' is unknown; known: utterances"):
        train(recipe(loss={"beam": 3}), out=tmp_path / "run")
