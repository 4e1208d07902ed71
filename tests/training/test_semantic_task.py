import json

import pytest
import torch
import yaml

from studio.data import speech
from studio.registry import find_class
from studio.training.loop import train
from studio.training.recipe import load_recipe
from tests.tokenizers.test_semantic import TINY

LETTERS = "abcdefghijklmnopqrstuvwxyz' "


def _tones(utterance, sample_rate=16000):
    """Every letter is a tone of its own."""
    time = torch.arange(sample_rate * 8 // 100) / sample_rate
    tones = (torch.sin(6.28 * (200 + 250 * LETTERS.index(c)) * time) for c in utterance.text)
    return 0.3 * torch.cat(list(tones))[None]


@pytest.fixture
def recipe(tmp_path, speak_as):
    speak_as(_tones)
    config = {**TINY, "n_mels": 24, "dim": 24, "hidden_dim": 48, "steps": 2}
    values = {
        "name": "tiny-semantic",
        "task": "semantic",
        "model": {"class": "SemanticTokenizer", "config": config},
        "data": {"kind": "speech", "sample_rate": 16000},
        "loss": {"utterances": 4, "checked": 2, "tokens_share": 0.4, "seconds": 0.4},
        "steps": 40,
        "batch_size": 2,
        "learning_rate": 5e-3,
        "warmup": 2,
        "log_every": 1,
        "save_every": 20,
        "sample_every": 40,
        "threads": 1,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return load_recipe(tmp_path / "recipe.yaml")


def test_both_stages_learn_and_the_tokens_stay(recipe, tmp_path):
    folder = tmp_path / "run"
    final = train(recipe, out=folder)
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert losses[16] < 0.9 * losses[1]  # letters
    late = [sum(losses[s] for s in span) for span in (range(17, 22), range(36, 41))]
    assert late[1] < 0.9 * late[0]  # flow and vocoder
    last = rows[-1]
    assert last["eval/bands"] > 0 and last["eval/cer"] > 0
    early, model = (
        find_class("SemanticTokenizer").from_pretrained(f).eval()
        for f in (folder / "tokens-final", final)
    )
    wave = _tones(speech.Utterance("red kite", "ada", 50, 160))[None]
    assert torch.equal(early.encode(wave).tokens, model.encode(wave).tokens)
    assert model.speakers == list(speech.TRAIN_VOICES)
