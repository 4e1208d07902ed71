"""Evaluating generators: prompts, colours by mean colour, scores of known pictures, sweeps."""

import json
from dataclasses import replace

import pytest
import torch

from studio.evaluation import generators as g
from studio.evaluation.colours import background_word, object_colour, tint_word
from studio.evaluation.features import ImageTextFeatures


@pytest.fixture
def named_features(emoji_font):
    """Features over all emoji names, untrained."""
    from studio.data.colors import COLORS
    from studio.data.emoji import load_sprites

    torch.manual_seed(0)
    names = load_sprites()[0]
    sizes = {"image_size": 16, "dim": 16, "channels": (8,), "width": 4}
    return ImageTextFeatures(names, list(COLORS), **sizes).eval()


@pytest.fixture
def pipe():
    """A text-to-image pipeline of real tiny parts."""
    import studio
    from tests import toys

    torch.manual_seed(0)
    words = studio.CaptionTokenizer.train(["red apple on blue", "rocket"] * 9, 300, max_length=8)
    tokenizer = toys.grid_tokenizer()
    generator = toys.text_generator("masked", tokenizer, words)
    return studio.TextToImagePipeline(tokenizer, generator, words, studio.Masked(num_steps=2))


def test_names_are_drawn_from_all_without_repetition(emoji_font):
    scenes = g.name_scenes(300)
    assert len({s.names for s in scenes}) == 300
    assert scenes == g.name_scenes(300) != g.name_scenes(300, seed=1)
    assert all(s.caption == s.names[0] and s.tint is None for s in scenes)


def test_combinations_are_the_held_out_ones(emoji_font):
    from studio.data.emoji import heldout

    scenes = g.combination_scenes()
    for scene, (tint, noun, ground) in zip(scenes, heldout()["combinations"], strict=True):
        rest = "" if ground == "white" else f" on {ground}"
        assert scene.caption == f"{tint} {noun}{rest}"


def test_sweep_prompts_are_nobody_elses(emoji_font):
    from studio.data.colors import without_color
    from studio.data.emoji import heldout

    plain, paired = g.sweep_scenes(20)
    assert len(plain) == len(paired) == 20
    assert not {s.names[0] for s in plain} & {s.names[0] for s in g.name_scenes(300)}
    kept = {(t, o) for t, o, _ in heldout()["combinations"]}
    assert not {(s.tint, without_color(s.names[0])) for s in paired} & kept


def test_sheet_prompts_are_fixed(emoji_font):
    assert g.sheet_prompts() == g.sheet_prompts() and len(g.sheet_prompts()) == 64


def test_colours_of_real_renders_are_read(emoji_font):
    scenes = g.combination_scenes()[::2]
    images = g.render(scenes, 64)
    grounds = [background_word(image) == s.background[0] for image, s in zip(images, scenes)]
    tints = [tint_word(image) == s.tint for image, s in zip(images, scenes)]
    assert sum(grounds) >= 49 and sum(tints) >= 47


def test_an_empty_picture_has_no_object():
    empty = torch.full((3, 16, 16), 0.5)
    assert object_colour(empty) is None and tint_word(empty) == ""
    assert background_word(torch.ones(3, 16, 16)) == "white"


def test_scores_of_real_renders(named_features):
    scenes = g.combination_scenes()[:6]
    images = g.render(scenes, 64)
    vectors = named_features.encode_images(images)
    for scene, vector in zip(scenes, vectors):  # each picture's own vector is its name's
        named_features.gallery[named_features.names.index(scene.names[0])] = vector.detach()
    scores = g.score_combinations(images, scenes, features=named_features)
    assert scores["object"] == scores["object_top5"] == scores["background"] == 1.0
    assert scores["right"] == scores["colour"] == scores["all_right"] >= 5 / 6
    swapped = [replace(s, tint="teal", background=("black",)) for s in scenes]
    scores = g.score_combinations(images, swapped, features=named_features)
    assert scores["object"] == 1.0 and scores["right"] <= 1 / 6
    named = g.score_names(images, scenes, features=named_features, reference=images)
    assert named["top1"] == 1.0 and named["fd"] < 1e-6 and named["precision"] == 1.0


def test_generating_in_batches_changes_nothing(pipe):
    prompts = ["rocket", "red apple", "rocket"]
    together = g.generate(pipe, prompts)
    assert together.shape == (3, 3, 16, 16) and together.min() >= -1 and together.max() <= 1
    assert torch.equal(g.generate(pipe, prompts, batch_size=2), together)
    assert torch.equal(g.generate(pipe, ["rocket"], seeds=[2]), together[2:])
    seen = []
    g.generate(pipe, prompts, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]


def test_whole_evaluation_of_a_tiny_generator(pipe, named_features):
    result = g.evaluate_generator(
        pipe, features=named_features, names=6, combinations=3, num_steps=3
    )
    assert json.loads(json.dumps(result)) == result
    assert "not Inception" in result["note"]
    assert result["decoding"]["class"] == "Masked" and result["decoding"]["num_steps"] == 3
    assert result["names"]["count"] == 6 and result["combinations"]["count"] == 3
    for part in ("names", "combinations"):
        assert {"generated", "real"} <= set(result[part])
    assert result["combinations"]["real"]["background"] == 1.0


def test_sweep_orders_by_score(pipe, named_features):
    settings = g.grid(temperature=[0.5, 1.0], num_steps=[2])
    assert settings[0] == {"temperature": 0.5, "num_steps": 2}
    trials = g.sweep(pipe, settings, features=named_features, count=4)
    assert len(trials) == 2
    keys = [(-t.score, t.names["fd"]) for t in trials]
    assert keys == sorted(keys)


def test_unknown_option_is_refused(pipe):
    with pytest.raises(ValueError, match="colour is no option of Masked"):
        g.generate(pipe, ["rocket"], colour=1)
