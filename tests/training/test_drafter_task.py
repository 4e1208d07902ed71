"""Training a drafter head: its losses, the unrolling, resuming, the folder it ends in."""

import json

import pytest
import torch

from studio.generators.conditioning import TextCondition
from studio.pipelines.auto import Pipeline
from studio.training.bundle import bundle
from studio.training.drafter_task import (
    DrafterTask,
    SeenKeys,
    feature_loss,
    token_loss,
    unrolled,
    unrolled_mask,
)
from studio.training.loop import train
from studio.training.recipe import load_recipe

TARGET = {"dim": 16, "num_layers": 1, "num_heads": 1, "text_layers": 1, "token_levels": [8, 8]}
TARGET |= {"head": "digits", "prior_dim": 8, "rope": "1d", "multiple_of": 32}
HEAD = {"class": "DrafterHead", "config": {"dim": 8, "num_heads": 1}}


@pytest.fixture(scope="module")
def parts(write_recipe_in, tmp_path_factory):
    """Folders of a tokenizer, a generator and its captions; not to be changed."""
    place = tmp_path_factory.mktemp("parts")
    tokenizer = train(write_recipe_in(place, steps=2), out=place / "tokenizer")
    recipe = write_recipe_in(
        place,
        name="target",
        task="generator",
        model={"class": "AutoregressiveTransformer", "config": TARGET},
        loss={"cache": 16, "vocabulary": 300},
        requires={"tokenizer": str(tokenizer)},
        steps=2,
    )
    target = train(recipe, out=place / "target")
    captions = place / "target" / "text_tokenizer"
    return {"tokenizer": str(tokenizer), "captions": str(captions), "generator": str(target)}


@pytest.fixture
def recipe(parts, write_recipe):
    loss = {"cache": 16, "unroll": 3, "unroll_from": 0.25, "guidance": [1.0, 3.0]}
    path = write_recipe(name="head", task="drafter", model=HEAD, loss=loss, requires=parts, steps=8)
    return load_recipe(path, ["learning_rate=0.01"])


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {r["step"]: r["loss"] for r in map(json.loads, lines) if "loss" in r}


def test_it_learns_and_a_stopped_run_goes_on_to_the_same_numbers(recipe, parts, tmp_path):
    final = train(recipe, out=tmp_path / "whole")

    def stop(done, steps, metrics):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, out=tmp_path / "broken", progress=stop)
    train(recipe, out=tmp_path / "broken")
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    assert rows(tmp_path / "whole")[8] < rows(tmp_path / "whole")[1]
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    scores = json.loads(lines[-1])
    assert all(0 < scores[f"eval/acceptance_{i}"] <= 1 for i in (1, 2, 3))
    # the folder is a part of a bundle, which drafts with it
    pipe = Pipeline.from_pretrained(
        bundle(
            tmp_path / "bundle",
            tokenizer=parts["tokenizer"],
            captions=parts["captions"],
            generators=[(parts["generator"], {"guidance_scale": 2.0})],
            drafter=final,
        )
    )
    made = [
        pipe("red", decoding=name, generator=[torch.Generator().manual_seed(1)], **options).tokens
        for name in ("plain", "seed-head")
        for options in [{"output_type": "tokens"}]
    ]
    assert torch.equal(*made)


def test_the_first_step_sees_what_drafting_sees(recipe, tmp_path):
    """Predictions of the unrolled network are those of a run, step by step."""
    task = DrafterTask(recipe, tmp_path / "run")
    head = task.build().eval()
    batch = task.batch(0, torch.device("cpu"))
    features, tokens = batch["features"], batch["tokens"]
    embedded = task.target.embeddings(tokens)[:, :-1]
    guesses = unrolled(head, features[:, :-1], embedded, head.rotary("cpu"), 3)
    ids, mask = task.captions.encode(task.cache.batch(0, 4)[1])
    run = task.target.start(TextCondition(ids, mask))
    run.extend(tokens[:4])
    drafts = head.start(run)
    for place in (0, 3):  # true features up to here, then its own
        drafts.rewind([0] * 4)
        x = drafts.extend(features[:4, : place + 1], tokens[:4, : place + 1])[:, -1:]
        for step in range(3):
            wanted = guesses[step][:4, place + step : place + step + 1]
            torch.testing.assert_close(x, wanted, atol=1e-5, rtol=1e-4)
            x = drafts.extend(x, tokens[:4, place + step + 1 : place + step + 2])


def test_the_target_would_be_told_apart_from_itself_by_nothing(recipe, tmp_path):
    task = DrafterTask(recipe, tmp_path / "run")
    batch = task.batch(3, torch.device("cpu"))
    true = batch["features"][:, 1:]
    assert feature_loss(true, true) == 0
    parts = task._guided(batch, true)
    assert [p.shape for p in parts] == [(4, 7, 8)] * 2
    assert token_loss(parts, parts).abs() < 1e-6
    assert token_loss(task._guided(batch, true.flip(1)), parts) > 0
    # guided, and by the scale that the batch names
    cond, uncond = task.target.token_head.digit_logits(
        true, torch.arange(1, 8), batch["prior"][:, 1:]
    ).chunk(2)
    wanted = uncond + batch["scale"] * (cond - uncond)
    torch.testing.assert_close(torch.cat(parts, -1), wanted)
    assert batch["scale"].min() >= 1 and batch["scale"].max() <= 3


def test_what_an_unrolled_step_sees():
    assert torch.equal(unrolled_mask(4, 0, torch.device("cpu")), torch.ones(4, 4).tril().bool())
    seen = unrolled_mask(4, 2, torch.device("cpu"))[3].view(3, 4).nonzero().tolist()
    assert seen == [[0, 0], [0, 1], [1, 2], [2, 3]]
    keys = SeenKeys()
    keys.update(0, torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 4, 2))
    k, v = keys.update(0, torch.ones(1, 1, 4, 2), torch.ones(1, 1, 4, 2))
    assert k.shape == v.shape == (1, 1, 8, 2) and k[0, 0, 4:].all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["requires={tokenizer: x}"], "requires.generator must name a folder"),
        (["loss.guidance=[3, 1]"], r"loss.guidance \[3, 1\] must be two numbers"),
        (["loss.unroll=0"], "loss.unroll 0 must be at least 1"),
        (["model.config.feature_dim=8"], "features of 8 and 8 tokens can't draft for"),
    ],
)
def test_wrong_recipes_are_named(changes, message, parts, write_recipe, tmp_path):
    path = write_recipe(name="head", task="drafter", model=HEAD, loss={"cache": 16}, requires=parts)
    with pytest.raises(ValueError, match=message):
        DrafterTask(load_recipe(path, changes), tmp_path / "run").build()
