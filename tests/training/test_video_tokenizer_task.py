"""Training over a trunk: fitted once, tokens final from the start, decoding gets better."""

import json

import pytest
import torch
import yaml

from studio.env import emoji_font
from studio.registry import find_class
from studio.tokenizers.grid import GridTokenizer
from studio.training.loop import train
from studio.training.recipe import load_recipe

pytestmark = pytest.mark.skipif(not emoji_font(), reason="Noto Color Emoji is not installed")

LAYERS = [
    {"name": "coarse", "stride": [4, 2, 2], "levels": [5, 5]},
    {"name": "fine", "stride": [2, 1, 1], "levels": [5, 5]},
]


@pytest.fixture
def recipe(tmp_path):
    """`recipe(**changes)`: a tiny run over four-frame clips of 16 x 16."""
    torch.manual_seed(0)
    sizes = {"base_channels": 32, "channel_multipliers": (1,), "num_res_blocks": 1}
    trunk = GridTokenizer(
        image_size=16, patch_size=4, z_channels=32, quantizer="fsq", levels=(5, 5), **sizes
    )
    trunk.save_pretrained(tmp_path / "trunk")

    def write(**changes):
        config = {"num_frames": 4, "image_size": 16, "layers": LAYERS, "dim": 16, "final_depth": 1}
        values = {
            "name": "tiny-motion",
            "task": "video_tokenizer",
            "model": {"class": "HiTVideoTokenizer", "config": {**config, "refiner_channels": 0}},
            "data": {"kind": "motion", "size": 16, "num_frames": 4},
            "loss": {"fit": 8, "clips": 6, "frames": 2, "checked": 2},
            "requires": {"trunk": str(tmp_path / "trunk")},
            "steps": 12,
            "batch_size": 2,
            "learning_rate": 3e-3,
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


def load(folder):
    name = json.loads((folder / "config.json").read_text())["_class_name"]
    return find_class(name).from_pretrained(folder).float().eval()


def test_tokens_are_final_from_the_start(recipe, tmp_path):
    out = tmp_path / "run"
    final = train(recipe(), out=out)
    first, last = load(out / "tokens-final"), load(final)
    clip = torch.rand(1, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        tokens = first.encode(clip).tokens
        assert torch.equal(last.encode(clip).tokens, tokens)
        assert not torch.equal(last.decode(tokens), first.decode(tokens))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert sum(losses[-4:]) < sum(losses[:4])
    assert {"eval/psnr", "eval/psnr_1", "eval/ssim_1", "eval/codes_used"} <= set(rows[-1])
    assert list(out.glob("sheet-*.png"))


def test_wrong_recipes_are_refused(recipe, tmp_path):
    for changes, words in (
        ({"loss": {"lpips": 1}}, "loss option 'lpips' is unknown"),
        ({"requires": {}}, "requires.trunk must name the folder"),
        ({"model": {"class": "GridTokenizer"}}, "GridTokenizer must be a HiTVideoTokenizer"),
        ({"requires": {"trunk": str(tmp_path)}}, "holds no config.json"),
        ({"model": {"class": "HiTVideoTokenizer", "config": {"linear": False}}}, "linear False"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            train(recipe(**changes), out=tmp_path / "other")
