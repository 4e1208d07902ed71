"""Ordered generators make the tokens of plain decoding in fewer passes, unless told otherwise."""

import pytest
import torch

import studio
from studio.decoding.modes import MODES
from studio.decoding.speculative import Speculative
from studio.pipelines.request import Request

# What the toys have not.
LACKING = {
    "prior": "needs a generator with a prior",
    "head": "needs a model folder with a trained drafter head",
}


@pytest.fixture(params=["grid", "prefix"])
def pipe(request, pipes):
    return pipes[request.param, "autoregressive"]


def test_the_default_makes_the_tokens_of_plain_decoding(pipe, seeded):
    options = {"num_images_per_prompt": 3, "output_type": "tokens"}
    plain = pipe("rocket", generator=seeded(1, 2, 3), decoding="plain", **options)
    fast = pipe("rocket", generator=seeded(1, 2, 3), **options)
    assert torch.equal(plain.tokens, fast.tokens)
    assert plain.stats.speculating is None and plain.stats.proposed == 3 * plain.stats.tokens
    assert isinstance(fast.stats.speculating, bool) and fast.stats.passes <= plain.stats.passes


def test_what_does_not_round_alike_is_left_alone(pipe):
    assert isinstance(pipe.make_strategy(), Speculative)
    assert pipe.make_strategy(temperature=0.5).config.temperature == 0.5
    given = studio.Autoregressive(guidance_scale=2.0)
    assert pipe.make_strategy(given) is given
    pipe.cache = "int8"
    try:
        assert isinstance(pipe.make_strategy(), studio.Autoregressive)
    finally:
        pipe.cache = "static"
    pipe.generator.precision = "int8"
    try:
        assert isinstance(pipe.make_strategy(), studio.Autoregressive)
    finally:
        del pipe.generator.precision


def test_every_mode_by_name(pipes, seeded):
    pipe = pipes["grid", "autoregressive"]
    plain = pipe("rocket", generator=seeded(5), decoding="plain", output_type="tokens")
    for name, options in MODES.items():
        lacking = LACKING.get(options.get("drafter"))
        if lacking:
            with pytest.raises(ValueError, match=lacking):
                pipe("rocket", decoding=name, output_type="tokens")
            continue
        out = pipe("rocket", generator=seeded(5), decoding=name, output_type="tokens")
        assert out.tokens.shape == plain.tokens.shape
        if options.get("acceptance", "seed") == "seed":
            assert torch.equal(out.tokens, plain.tokens)
        again = pipe("rocket", generator=seeded(5), decoding=name, output_type="tokens")
        assert torch.equal(out.tokens, again.tokens)


def test_relaxed_finds_the_neighbours_of_the_codebook(pipes):
    pipe = pipes["grid", "autoregressive"]
    strategy = pipe.make_strategy("relaxed")
    size = pipe.tokenizer.layout.vocab_size
    assert strategy.neighbours.nearest.shape == (size, min(1000, size - 1))
    assert pipe.make_strategy("grouped").neighbours is strategy.neighbours
    assert pipe.make_strategy("grouped-paper").neighbours is None


def test_a_table_of_neighbours_is_saved_with_the_model(pipes, tmp_path):
    pipe = pipes["grid", "autoregressive"]
    table = pipe.find_neighbours(3)
    pipe.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "tokenizer" / "neighbours.safetensors").is_file()
    again = type(pipe).from_pretrained(tmp_path / "model")
    assert torch.equal(again.find_neighbours(table.nearest.shape[1]).nearest, table.nearest)
    again.__dict__["_neighbours"] = None
    wrong = type(table)(table.codebook + 1, table.nearest.flip(0))  # of another codebook
    wrong.save(tmp_path / "model" / "tokenizer")
    assert torch.equal(again.find_neighbours(2).nearest, table.nearest[:, :2].contiguous())


def test_requests_name_modes(pipe):
    call = Request(prompt="rocket", decoding="exact", seed=3).arguments(pipe)
    assert call["decoding"].config.acceptance == "exact"
    assert call["decoding"].config.guidance_scale == 2.0
    call = Request(prompt="rocket", decoding="exact", decoding_options={"window": 4}).arguments(
        pipe
    )
    assert call["decoding"].config.window == 4
    call = Request(prompt="rocket", decoding_options={"min_p": 0.1}).arguments(pipe)
    assert call["decoding"].config.min_p == 0.1 and isinstance(call["decoding"], Speculative)
    assert "decoding" not in Request(prompt="rocket").arguments(pipe)
    with pytest.raises(ValueError, match="speed is no option"):
        Request(prompt="rocket", decoding="exact", decoding_options={"speed": 1}).arguments(pipe)


def test_previews_of_rows_of_different_lengths(pipe, seeded):
    *previews, out = pipe.stream(
        ["rocket", "red apple"], generator=seeded(1, 2), preview_interval=1
    )
    assert previews and all(len(p.images) == 2 for p in previews)
    for preview in previews:
        assert (preview.tokens == out.tokens)[preview.known].all()
        assert preview.step == int(preview.known.sum(dim=1).min())
