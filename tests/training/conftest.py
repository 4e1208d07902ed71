"""A folder of small captioned pictures, and tiny recipes over it."""

from functools import partial

import numpy as np
import pytest
import yaml
from PIL import Image

from studio.data import speech

TOKENIZER = {
    "name": "tiny-tokenizer",
    "task": "tokenizer",
    "model": {
        "class": "PrefixTokenizer",
        "config": {
            "image_size": 16,
            "num_tokens": 8,
            "levels": [8, 8],
            "dim": 16,
            "heads": 2,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "refined": 1,
            "refiner_channels": 8,
            "refiner_blocks": 1,
        },
    },
    "loss": {"fit": 64, "encoder_share": 0.5, "edges": 0.1},
    "steps": 24,
    "batch_size": 4,
    "warmup": 4,
    "log_every": 1,
    "save_every": 5,
    "sample_every": 12,
    "threads": 1,
}
WORDS = ("red", "green", "blue", "dark", "pale", "warm")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Sixty gradients of 20 x 24 pixels, each with its words in a text file beside it."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(60):
        corners = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(corners).resize((20, 24), Image.Resampling.BILINEAR).save(
            folder / f"{i}.png"
        )
        (folder / f"{i}.txt").write_text(" ".join(rng.choice(WORDS, 3)))
    return folder


@pytest.fixture(scope="session")
def write_recipe_in(pictures):
    """`write_recipe_in(folder, **changes)` is `write_recipe` for fixtures that many tests share."""

    def write(folder, base=TOKENIZER, **changes):
        recipe = {**base, "data": {"kind": "folder", "path": str(pictures), "size": 16}, **changes}
        path = folder / f"{recipe['name']}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return write


@pytest.fixture
def write_recipe(tmp_path, write_recipe_in):
    """`write_recipe(**changes)` is the path of a tiny tokenizer recipe over the pictures."""
    return partial(write_recipe_in, tmp_path)


@pytest.fixture
def speak_as(tmp_path, monkeypatch):
    """`speak_as(function)`: the speech data is what a function says in place of espeak-ng, kept in
    a cache of the test's own."""

    def use(speak):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(speech, "_SHARD", 4)
        monkeypatch.setattr(speech, "find_espeak", lambda: "espeak-ng")
        monkeypatch.setattr(speech, "espeak_version", lambda: "none")
        monkeypatch.setattr(speech, "speak", speak)
        speech._shard.cache_clear()

    yield use
    speech._shard.cache_clear()
