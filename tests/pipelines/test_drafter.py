"""A model folder with a drafter head, and one without."""

import pytest
import torch

import studio
from studio.hub import fingerprint
from tests.decoding.tiny_models import tiny_head


@pytest.fixture
def folder(pipes, tmp_path):
    """The grid model with a head beside it."""
    old = pipes["grid", "autoregressive"]
    head = tiny_head(old.generator, rope="2d")
    parts = {**{k: v for k, v in old.components.items() if k != "drafter"}, "drafter": head}
    studio.TextToImagePipeline(**parts).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def decode(pipe, seeds, **options):
    seeds = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe("red apple", generator=seeds, output_type="tokens", **options)


def test_a_folder_carries_a_drafter(folder, pipes):
    pipe = studio.Pipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe.drafter) is studio.DrafterHead
    plain = decode(pipe, [3], decoding="plain")
    drafted = decode(pipe, [3], decoding="seed-head")
    assert torch.equal(drafted.tokens, plain.tokens)
    assert drafted.stats.draft_passes and drafted.stats.passes < plain.stats.passes
    assert decode(pipe, [3], decoding="exact-head").tokens.shape == plain.tokens.shape
    before = fingerprint(folder)
    weights = folder / "drafter" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert fingerprint(folder) != before


def test_it_is_loaded_strictly(folder):
    (folder / "drafter" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="drafter: diffusion_pytorch_model.safetensors is missing"):
        studio.Pipeline.from_pretrained(folder)


def test_without_one_the_mode_is_one_line(saved):
    pipe = studio.Pipeline.from_pretrained(saved / "grid")
    assert "drafter" not in (saved / "grid" / "model_index.json").read_text()
    with pytest.raises(ValueError, match="drafter 'head' needs a model folder with a trained"):
        decode(pipe, [3], decoding="seed-head")


def test_a_drafter_of_another_generator_is_one_line(folder, pipes):
    other = pipes["prefix", "autoregressive"]
    drafter = studio.Pipeline.from_pretrained(folder).drafter
    parts = {**other.components, "drafter": drafter}
    with pytest.raises(ValueError, match="can't draft for a AutoregressiveTransformer"):
        decode(studio.TextToImagePipeline(**parts), [3], decoding="seed-head")
