import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from studio.registry import find_class
from studio.training.loop import learning_rate, train
from studio.training.recipe import load_recipe

GENERATORS = {
    "autoregressive": ("AutoregressiveTransformer", {"rope": "1d", "multiple_of": 32}),
    "masked": ("MaskedTransformer", {"norm": "pre"}),
}


def curve(folder: Path) -> dict[int, float]:
    """The loss of every step, as the log has it."""
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    assert len(losses) == len(dict(losses)), "a step stands twice in the log"
    return dict(losses)


def kill_in_the_middle(recipe: Path, out: Path, forks) -> int:
    """Kills `studio train`, a process of its own, at a random moment; returns its last step."""
    process = forks.start("train", recipe, "--out", out)
    goal, log = random.randint(6, 18), out / "metrics.jsonl"
    while process.poll() is None and (not log.exists() or log.read_text().count("\n") < goal):
        time.sleep(0.01)
    assert process.poll() is None, process.err.read_text()
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return max(curve(out))


@pytest.fixture(scope="module")
def whole(write_recipe_in, tmp_path_factory) -> Path:
    """The folder of a run that nothing stopped; not to be changed."""
    place = tmp_path_factory.mktemp("whole")
    train(write_recipe_in(place), out=place / "run")
    return place / "run"


def assert_same_curve(broken: Path, whole: Path) -> None:
    a, b = curve(broken), curve(whole)
    assert a.keys() == b.keys()
    assert max(abs(a[step] - b[step]) for step in b) <= 1e-6


def test_a_killed_run_goes_on_to_the_same_numbers(write_recipe, tmp_path, whole, forks):
    recipe = write_recipe()
    stopped = kill_in_the_middle(recipe, tmp_path / "broken", forks)
    assert stopped < 24
    final = train(recipe, out=tmp_path / "broken")
    assert_same_curve(tmp_path / "broken", whole)
    one, other = (
        find_class("PrefixTokenizer").from_pretrained(folder / "final").state_dict()
        for folder in (tmp_path / "broken", whole)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not [p.name for p in final.parent.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_resumes_over_cached_tokens(kind, write_recipe, tmp_path, whole):
    name, config = GENERATORS[kind]
    config = {"dim": 32, "num_layers": 1, "num_heads": 2, "text_layers": 1, **config}
    config |= {"token_levels": [8, 8], "head": "digits", "position_tables": True}
    recipe = write_recipe(
        name="tiny-generator",
        task="generator",
        model={"class": name, "config": config},
        loss={"cache": 32, "vocabulary": 300, "short": 0.5},
        requires={"tokenizer": str(whole / "final")},
        steps=12,
    )
    changed = load_recipe(recipe)
    train(changed, out=tmp_path / "runs" / "whole")
    # the same run in two goes: the first is stopped by an error in its progress report
    with pytest.raises(KeyboardInterrupt):
        train(changed, out=tmp_path / "runs" / "broken", progress=_stop_at(8))
    train(changed, out=tmp_path / "runs" / "broken")
    assert_same_curve(tmp_path / "runs" / "broken", tmp_path / "runs" / "whole")
    losses = curve(tmp_path / "runs" / "whole")
    assert losses[12] < losses[1]
    cached = list((tmp_path / "runs" / "tokens").glob("*/tokens-32.i32"))
    assert len(cached) == 1


def _stop_at(step: int):
    def progress(done, steps, metrics):
        if done == step:
            raise KeyboardInterrupt

    return progress


def test_training_lowers_the_loss_and_writes_what_the_readme_says(whole):
    losses = curve(whole)
    assert sum(losses[s] for s in (22, 23, 24)) < sum(losses[s] for s in (1, 2, 3))
    assert (whole / "sheet-0000024.png").stat().st_size > 100
    assert (whole / "tokens-final" / "config.json").exists()
    weights = whole / "final" / "diffusion_pytorch_model.safetensors"
    assert weights.exists() and (whole / "final" / "config.json").exists()


def test_the_tokens_are_final_when_the_encoder_stops(whole):
    cls = find_class("PrefixTokenizer")
    early = cls.from_pretrained(whole / "tokens-final").float()
    late = cls.from_pretrained(whole / "final").float()
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    assert torch.equal(early.encode(images).tokens, late.encode(images).tokens)
    assert not torch.equal(early.reconstruct(images), late.reconstruct(images))


def test_a_run_is_not_overwritten_unasked(write_recipe, tmp_path):
    train(write_recipe(steps=2), out=tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run already"):
        train(write_recipe(steps=2), out=tmp_path / "run", resume=False)


def test_the_learning_rate_warms_up_and_ends_at_a_tenth(write_recipe):
    recipe = load_recipe(write_recipe(steps=100, warmup=10, learning_rate=1.0))
    rates = [learning_rate(step, recipe) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
