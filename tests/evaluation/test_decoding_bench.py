"""Races of decoding modes over toy pipelines."""

import json

import pytest
import torch

import studio
from studio.decoding.modes import MODES
from studio.evaluation import decoding_bench as bench
from studio.evaluation import plain_bench
from studio.generators.autoregressive import AutoregressiveTransformer
from studio.generators.conditioning import ClassCondition
from studio.outputs import TokenLayout
from tests import toys

MODES_RACED = ("seed-jacobi", "exact", "grouped")


@pytest.fixture
def pipe():
    torch.manual_seed(0)
    tokenizer = toys.grid_tokenizer()
    words = studio.CaptionTokenizer.train(["red apple", "rocket"] * 9, 300, max_length=12)
    network = toys.text_generator("autoregressive", tokenizer, words)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(std=0.3)
    strategy = studio.Autoregressive(guidance_scale=2.0)
    pipe = studio.TextToImagePipeline(tokenizer, network, words, strategy)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_race(pipe, features, tmp_path, monkeypatch):
    settings = bench.Settings(modes=MODES_RACED, prompts=3, seeds=2, timed=2, batch_size=4)
    names = {"names": [s.names[0] for s in bench.name_scenes(3)]}
    monkeypatch.setattr(type(features), "names", property(lambda self: names["names"] * 2))
    figures = bench.race(pipe, settings, features=features)
    rows = {row["mode"]: row for row in figures["rows"]}
    assert list(rows) == ["plain", *MODES_RACED]
    plain, seed = rows["plain"], rows["seed-jacobi"]
    assert plain["passes"] == 16 and plain["fewer"] == plain["faster"] == 1.0
    assert seed["equal"] == seed["pictures"] == 6 and seed["kind"] == "same tokens"
    assert seed["fd"] == plain["fd"] and seed["fd_change"] == 0
    assert seed["passes"] < 16 and seed["fewer"] == 16 / seed["passes"]
    assert rows["exact"]["kind"] == "same distribution" and rows["grouped"]["kind"] == "similar"
    for row in rows.values():
        assert row["seconds"] > 0 and row["tokens_per_second"] > 0
        assert 1 <= row["tokens_per_pass"] <= 16 and "tokens" not in row
    assert list(figures["costs"]) == [1, 4, 8] and figures["hardware"]["cores"]
    assert json.loads(json.dumps(figures))["rows"] == figures["rows"]
    shown = bench.table(figures)
    assert shown[1]["plain's tokens"] == "6/6" and shown[1]["FD change"] == "+0.0 %"
    plot = bench.plot_race(tmp_path / "race.png", figures)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_row_counts_its_own_passes(pipe):
    settings = bench.Settings(modes=("seed-jacobi",), prompts=3, seeds=1)
    batch, _ = bench.make_batch(pipe, settings)
    strategies = {name: pipe.make_strategy(name) for name in ("plain", "seed-jacobi")}
    whole = bench.count_passes(pipe, strategies, batch, 3)["seed-jacobi"]
    alone = bench.count_passes(pipe, strategies, batch, 1)["seed-jacobi"]
    for key in ("passes", "mean_passes", "accepted_per_pass", "equal"):
        assert whole[key] == alone[key]


def test_settings_are_checked(pipe):
    with pytest.raises(ValueError, match="modes 'fast' must be among plain, seed"):
        bench.Settings(modes=("fast",))
    with pytest.raises(ValueError, match="prompts 0 must be at least 1"):
        bench.Settings(prompts=0)
    assert set(bench.RACED) <= set(MODES)


def test_plain_decoding_against_others(pipe, monkeypatch):
    batch, _ = bench.make_batch(pipe, bench.Settings(prompts=2, seeds=1))
    monkeypatch.setattr(plain_bench.importlib.util, "find_spec", lambda name: None)
    figures = plain_bench.time_plain(pipe, pipe.make_strategy("plain"), batch, rounds=1)
    assert figures["uncached_equal"] and figures["x_uncached"] > 0
    assert figures["x_transformers"].startswith("not measured")


def test_weights_of_the_rival_are_ours():
    """The rival's arithmetic, done here: no rotation at position 0, where both are the same."""
    model = AutoregressiveTransformer(
        layout=TokenLayout.single((2, 3), 24).to_dict(),
        dim=16,
        num_layers=1,
        num_heads=2,
        multiple_of=8,
        num_classes=3,
        token_levels=[2, 3, 4],
        head="digits",
    ).eval()
    weights = plain_bench.llama_weights(model)
    codes = torch.tensor([[3, 17]])
    assert torch.equal(weights["model.embed_tokens.weight"][codes], model.embeddings(codes))
    x = torch.randn(1, 2, 16)
    torch.testing.assert_close(x @ weights["lm_head.weight"].T, model.token_head(x))
    q = model.layers[0].attention.qkv.weight[:16]
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    mine = weights["model.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(mine[:8], q[:8][order]) and torch.equal(mine[8:], q[8:][order])
    assert model(codes, ClassCondition(torch.tensor([1]))).shape == (1, 2, 24)


def test_the_rival_generates(pipe):
    pytest.importorskip("transformers")
    batch, _ = bench.make_batch(pipe, bench.Settings(prompts=2, seeds=1))
    run = plain_bench.llama_generate(pipe.generator, pipe.make_strategy("plain"), batch)
    assert run().shape == (4, 16)


def test_layers_of_a_clip_are_drafted(features):
    """Coarse to fine, with drafts from the network's prior: the tokens of plain decoding."""
    torch.manual_seed(0)
    words = studio.CaptionTokenizer.train(["red apple moving left"] * 9, 300, max_length=40)
    pipe = toys.video_pipeline(words)
    options = {"token_levels": [4, 3], "head": "digits", "prior_dim": 8, "multiple_of": 8}
    layers = {"rope": "3d", "place_embedding": True, **options}
    pipe.generator = toys.text_generator("autoregressive", pipe.tokenizer, words, **layers)
    for weight in pipe.generator.prior.parameters():  # nearly sure, so that drafts are right
        torch.nn.init.normal_(weight, std=1.0)
    modes = ("seed", "seed-prior", "exact-prior")
    settings = bench.Settings(modes=modes, prompts=2, seeds=1, timed=2, batch_size=1)
    figures = bench.race(pipe, settings, features=features)
    rows = {row["mode"]: row for row in figures["rows"]}
    assert rows["plain"]["passes"] == 28 and not any("fd" in row for row in rows.values())
    assert all(rows[name]["equal"] == 2 for name in ("seed", "seed-prior"))
    assert rows["seed-prior"]["passes"] <= 14 and rows["exact-prior"]["passes"] <= 14
