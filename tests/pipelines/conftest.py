"""Pipelines of real parts at toy size: two tokenizers, two kinds of generator."""

import shutil

import pytest
import torch

import studio
from tests import toys

PROMPTS = ["red apple", "blue apple on yellow", "rocket"]
KINDS = ["autoregressive", "masked"]
MODELS = ["grid", "prefix"]


def make_tokenizer(model):
    return toys.grid_tokenizer() if model == "grid" else toys.prefix_tokenizer()


def spread(network):
    """Weights far from uniform, so that what is drawn differs."""
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return network


def make_strategy(kind):
    if kind == "masked":
        return studio.Masked(num_steps=4, guidance_scale=2.0)
    return studio.Autoregressive(guidance_scale=2.0)


def make_pipe(model, kind, words):
    torch.manual_seed(0)
    tokenizer = make_tokenizer(model)
    generator = spread(toys.text_generator(kind, tokenizer, words))
    pipe = studio.TextToImagePipeline(tokenizer, generator, words, make_strategy(kind))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def words():
    return studio.CaptionTokenizer.train(PROMPTS * 9, 300, max_length=12)


@pytest.fixture(scope="session")
def pipes(words):
    """(model, kind) -> pipeline; not to be changed."""
    return {(m, k): make_pipe(m, k, words) for m in MODELS for k in KINDS}


@pytest.fixture(params=[(m, k) for m in MODELS for k in KINDS], ids="-".join)
def pipe(request, pipes):
    return pipes[request.param]


@pytest.fixture(scope="session")
def class_pipe():
    torch.manual_seed(1)
    tokenizer = make_tokenizer("grid")
    generator = spread(toys.generator("masked", tokenizer, condition="class", num_classes=5))
    pipe = studio.ClassToImagePipeline(tokenizer, generator, make_strategy("masked"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def saved(pipes, tmp_path_factory):
    """model -> a folder with both generators, the autoregressive one in its index."""
    root = tmp_path_factory.mktemp("models")
    for model in MODELS:
        pipes[model, "autoregressive"].save_pretrained(root / model)
        second = pipes[model, "masked"]
        second.generator.save_pretrained(root / model / "generator_masked")
        second.decoding.save_pretrained(root / model / "decoding_masked")
    return root


@pytest.fixture
def broken(saved, tmp_path):
    """A copy of the grid model that a test may break."""
    return shutil.copytree(saved / "grid", tmp_path / "broken")


@pytest.fixture(scope="session")
def seeded():
    return lambda *seeds: [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture(autouse=True)
def own_costs(monkeypatch, tmp_path):
    """What passes cost is not kept in the user's folder."""
    monkeypatch.setattr("studio.decoding.costs._cache_folder", lambda: tmp_path / "costs")
