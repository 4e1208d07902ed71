"""Studios over toy models, for tests of the server and of the app's pages."""

import shutil
from pathlib import Path

import torch

import studio
from studio.server.studio import Studio
from tests import toys

CAPTIONS = ["red apple", "blue apple on yellow", "rocket"] * 9


def make_tiny(folder: Path) -> Path:
    """A text-to-image model of eight tokens with two generators."""
    torch.manual_seed(0)
    tokenizer = toys.prefix_tokenizer()
    words = studio.CaptionTokenizer.train(CAPTIONS, 300)
    ordered = toys.text_generator("autoregressive", tokenizer, words, rope="1d")
    masked = toys.text_generator("masked", tokenizer, words)
    pipe = studio.TextToImagePipeline(tokenizer, ordered, words, studio.Autoregressive())
    pipe.save_pretrained(folder)
    masked.save_pretrained(folder / "generator_masked")
    studio.Masked(num_steps=4).save_pretrained(folder / "decoding_masked")
    return folder


def make_grid(folder: Path) -> Path:
    """A text-to-image model of 8 x 8 tokens."""
    torch.manual_seed(1)
    tokenizer = toys.grid_tokenizer()
    words = studio.CaptionTokenizer.train(CAPTIONS, 300)
    network = toys.text_generator("autoregressive", tokenizer, words)
    pipe = studio.TextToImagePipeline(tokenizer, network, words, studio.Autoregressive())
    pipe.save_pretrained(folder)
    return folder


def studio_over(workspace: Path, models: Path, **options) -> Studio:
    """A studio whose workspace holds copies of the models in a folder."""
    for model in models.iterdir():
        shutil.copytree(model, workspace / "models" / model.name, dirs_exist_ok=True)
    return Studio(workspace, device="cpu", **options)
