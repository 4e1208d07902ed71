import numpy as np
import pytest
import torch

from studio.data.colors import COLORS, TINTS, tint, without_color
from studio.data.emoji import EmojiImages, Scene, draw, emoji_names, heldout

pytestmark = pytest.mark.usefixtures("emoji_font")


def test_an_item_is_a_function_of_its_index():
    data = EmojiImages(32)
    image, caption = data[5]
    again, words = EmojiImages(32)[5]
    assert torch.equal(image, again) and caption == words == data.caption(5)
    assert image.shape == (3, 32, 32) and image.min() >= -1 and image.max() <= 1
    assert not torch.equal(image, EmojiImages(32, seed=1)[5][0])


def test_held_out_pictures_and_pairs_stay_out():
    kept = set(heldout()["pictures"])
    assert len(kept) == 100
    assert not kept & set(EmojiImages(split="train").names())
    assert kept == set(EmojiImages(split="heldout").names())
    pairs = {(c, noun) for c, noun, _ in heldout()["combinations"]}
    assert len(pairs) == 100 and ("blue", "apple") in pairs
    data = EmojiImages(tints=1.0)
    for index in range(3000):
        scene = data.scene(index)
        assert (scene.tint, without_color(scene.names[0])) not in pairs


def test_captions_say_what_is_drawn():
    assert Scene(("red apple",)).caption == "red apple"
    assert (
        Scene(("red apple",), tint="blue", background=("yellow",)).caption == "blue apple on yellow"
    )
    both = Scene(("pizza", "dog face"), background=("red", "blue"), small=True)
    assert both.caption == "small pizza and dog face on red to blue"


def test_the_background_is_the_word():
    image = draw(Scene(("red apple",), background=("teal",)), 64)
    corner = (image[:, 0, 0] + 1) * 127.5
    assert torch.allclose(corner, torch.tensor(COLORS["teal"]).float(), atol=1)


def test_a_tint_changes_colour_and_keeps_the_outline():
    sprite = np.random.default_rng(0).random((8, 8, 4)).astype(np.float32)
    for color in TINTS:
        painted = tint(sprite, color)
        assert np.array_equal(painted[..., 3], sprite[..., 3])
        assert painted.min() >= 0 and painted.max() <= 1
    red = draw(Scene(("green apple",), tint="red"), 64)[:, 24:40, 24:40].mean((1, 2))
    assert red[0] > red[1] + 0.3


def test_every_name_has_a_sprite_of_its_own():
    names = EmojiImages().names()
    assert len(names) == len(set(names)) > 1500
    assert set(names) <= set(emoji_names())
    assert "red apple" in names and "snail" in names


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="split 'test' must be one of train, heldout, all"):
        EmojiImages(split="test")


def test_a_missing_font_says_what_to_install(tmp_path):
    with pytest.raises(FileNotFoundError, match="install fonts-noto-color-emoji"):
        EmojiImages(font_path=str(tmp_path / "none.ttf"))[0]
