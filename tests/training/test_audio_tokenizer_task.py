import json

import pytest
import torch
import yaml

from studio.data import speech
from studio.registry import find_class
from studio.training.audio_tokenizer_task import AudioTokenizerTask
from studio.training.loop import train
from studio.training.recipe import load_recipe

TINY = {
    "hop": 128,
    "n_mels": 20,
    "mel_window": 256,
    "levels": [4, 4],
    "dim": 16,
    "hidden_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "fine_dim": 16,
    "fine_hidden_dim": 32,
    "fine_layers": 1,
}
JUDGES = {
    "period_widths": [2, 4],
    "periods": [2],
    "resolution_width": 2,
    "resolutions": [[256, 64]],
    "band_width": 0,
    "band_period_widths": [],
}


@pytest.fixture
def recipe(tmp_path, speak_as):
    """`recipe(**changes)`: a tiny run over tones that stand for speech."""
    speak_as(_hum)

    def write(**changes):
        loss = {"seconds": 0.1, "utterances": 4, "outline_share": 0.5, "checked": 2}
        values = {
            "name": "tiny-codec",
            "task": "audio_tokenizer",
            "model": {"class": "SpectralTokenizer", "config": TINY},
            "data": {"kind": "speech", "sample_rate": 16000},
            "steps": 12,
            "batch_size": 2,
            "warmup": 2,
            "log_every": 1,
            "save_every": 4,
            "sample_every": 12,
            "threads": 1,
            **changes,
            "loss": loss | changes.get("loss", {}),
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values))
        return load_recipe(path)

    return write


def _hum(utterance, sample_rate=16000):
    time = torch.arange(sample_rate // 2) / sample_rate
    tone = torch.sin(2 * torch.pi * (100 + utterance.pitch) * time)
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(utterance.speed))
    return (0.3 * tone + 0.05 * noise)[None]


def _stop_at(step):
    def progress(done, steps, metrics):
        if done == step:
            raise KeyboardInterrupt

    return progress


def curve(folder):
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def test_a_stopped_run_goes_on_to_the_same_numbers_discriminators_too(recipe, tmp_path):
    plan = recipe(
        loss={
            "adversarial": 0.1,
            "matching": 0.1,
            "adversarial_from": 0.6,
            "discriminators": JUDGES,
        }
    )
    final = train(plan, out=tmp_path / "whole")
    for stop in (5, 9):
        with pytest.raises(KeyboardInterrupt):
            train(plan, out=tmp_path / "broken", progress=_stop_at(stop))
    train(plan, out=tmp_path / "broken")
    whole, broken = curve(tmp_path / "whole"), curve(tmp_path / "broken")
    assert whole == broken and len(whole) == 12
    cls = find_class("SpectralTokenizer")
    one = cls.from_pretrained(final).state_dict()
    other = cls.from_pretrained(tmp_path / "broken" / "final").state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_tokens_come_first_and_stay(recipe, tmp_path):
    final = train(recipe(), out=tmp_path / "run")
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert "spectral" not in rows[0] and "spectral" in rows[-2]
    assert 0 < rows[-1]["eval/codes_used"] <= 1 and "eval/spectral_voice" in rows[-1]
    cls = find_class("SpectralTokenizer")
    early = cls.from_pretrained(tmp_path / "run" / "tokens-final").float()
    late = cls.from_pretrained(final).float()
    audio = _hum(speech.SpokenSentences().utterance(0))[None]
    tokens = late.encode(audio).tokens
    assert torch.equal(early.encode(audio).tokens, tokens)
    assert not torch.equal(early.decode(tokens), late.decode(tokens))
    assert (tmp_path / "run" / "sheet-0000012.png").stat().st_size > 100


def test_once_tokens_are_final_the_voices_of_the_studio_are_heard(recipe, tmp_path):
    data = {"kind": "speech", "sample_rate": 16000, "variety": 1.0}
    plan = recipe(data=data, loss={"settled": 1.0, "gain": 0.0})
    task = AudioTokenizerTask(plan, tmp_path)
    task.build()
    whole = {
        name: {tuple(data[i][0][0].tolist()) for i in range(4)} for name, data in task.sets.items()
    }

    def comes_from(step):
        clip = tuple(task.batch(step, torch.device("cpu"))["audio"][0, 0].tolist())
        text = repr(clip)[1:-1]
        return {name for name in ("train", "settled") if any(text in repr(x) for x in whole[name])}

    assert [comes_from(step) for step in (0, 5)] == [{"train"}] * 2
    assert [comes_from(step) for step in (6, 11)] == [{"settled"}] * 2


def test_another_codec_under_the_same_task(recipe, tmp_path):
    config = {"strides": [4, 8], "encoder_width": 4, "lstm_layers": 0, "dim": 8}
    config |= {"quantizer": "fsq", "levels": [4, 4], "backbone_dim": 16, "backbone_layers": 1}
    config |= {"backbone_hidden_dim": 16, "num_conditions": 0, "use_attention": False}
    model = {"class": "WavTokenizer", "config": config}
    plan = recipe(model=model, steps=4, loss={"outline_share": 0.0, "mel": 1.0})
    train(plan, out=tmp_path / "run")
    losses = curve(tmp_path / "run")
    assert len(losses) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"gan": 1}}, "loss option 'gan' is unknown; known: seconds"),
        (
            {"model": {"class": "SpectralTokenizer", "config": {**TINY, "sample_rate": 8000}}},
            "sample_rate 8000 of the model must be the data's, 16000",
        ),
        ({"model": {"class": "WavTokenizer", "config": {}}}, "WavTokenizer has no outline"),
    ],
)
def test_wrong_recipes_are_named(changes, message, recipe, tmp_path):
    if changes.get("model", {}).get("class") == "WavTokenizer":
        small = {"strides": [2, 4], "encoder_width": 2, "dim": 8, "codebook_size": 8}
        small |= {"backbone_dim": 32, "backbone_layers": 1, "backbone_hidden_dim": 8}
        changes["model"]["config"] = small
    with pytest.raises(ValueError, match=message):
        train(recipe(**changes), out=tmp_path / "run")
