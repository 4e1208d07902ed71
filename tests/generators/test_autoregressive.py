import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from studio.generators.autoregressive import AutoregressiveTransformer
from studio.generators.conditioning import ClassCondition, FeatureCondition, TextCondition
from studio.generators.guidance import Guidance
from studio.outputs import TokenLayout, TokenSegment

PARITY = Path(__file__).parents[3] / "shared" / "parity"
NONE = torch.empty(3, 0, dtype=torch.int64)


@pytest.fixture
def build(grid, sizes, shake):
    def build(kind="class", **options):
        base = dict(layout=grid, dim=32, num_layers=2, num_heads=4, multiple_of=16, **sizes[kind])
        return shake(AutoregressiveTransformer(**{**base, **options}))

    return build


def all_at_once(run, tokens):
    return run.extend(tokens)[:, : tokens.shape[1]]


VARIANTS = [
    {},
    dict(rope="1d", condition_rope="zeros", num_kv_heads=2),
    dict(token_levels=[2, 3, 4], head="digits"),
    dict(token_levels=[2, 3, 4], head="digits+full", head_rank=4),
    dict(token_levels=[2, 3, 4], head="digits", position_tables=True),
]


@pytest.mark.parametrize("options", VARIANTS)
def test_shapes_and_gradients(build, kind, options, make_condition, tokens):
    model = build(kind, **options).train()
    condition = make_condition(kind).drop(torch.tensor([True, False, False]))
    logits = model(tokens, condition)
    assert logits.shape == (3, 9, 24) and logits.dtype == torch.float32
    losses = model(tokens, condition, output="losses")
    expected = -logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(losses, expected)
    losses.mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    if options.get("head") == "digits":
        assert model(tokens, condition, output="digits").shape == (3, 9, 9)


def test_each_row_sees_only_what_is_before_it(build, kind, make_condition, tokens):
    model, condition = build(kind), make_condition(kind)
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 24
    before, after = model(tokens, condition), model(changed, condition)
    assert torch.equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).any(-1).all()
    torch.testing.assert_close(model(tokens[:, :4], condition), before[:, :4])


def test_condition_matters_and_padding_does_not(build, make_condition, tokens):
    model, condition = build("text"), make_condition("text")
    logits = model(tokens, condition)
    ids = torch.where(condition.mask, condition.ids, 7)
    torch.testing.assert_close(model(tokens, TextCondition(ids, condition.mask)), logits)
    wider = TextCondition(*(torch.nn.functional.pad(t, (0, 1)) for t in (ids, condition.mask)))
    torch.testing.assert_close(model(tokens, wider), logits)
    other = TextCondition((condition.ids + 1) % 30, condition.mask)
    assert (model(tokens, other) != logits).any(-1).all()
    null = model(tokens, condition.null())
    torch.testing.assert_close(model(tokens, other.null()), null)
    assert (null != logits).any(-1).all()


@pytest.mark.parametrize("guidance", [None, Guidance(2.5), Guidance(3.0, schedule="cosine")])
def test_alone_as_in_a_batch(build, kind, make_condition, tokens, guidance):
    model, condition = build(kind), make_condition(kind)
    together = model.start(condition, guidance=guidance).extend(tokens)
    for row in range(3):
        alone = condition[row : row + 1]
        if kind == "text":  # as a caption tokenizer would pad it
            real = int(alone.mask.sum())
            alone = TextCondition(alone.ids[:, :real], alone.mask[:, :real])
        one = model.start(alone, guidance=guidance).extend(tokens[row : row + 1])
        torch.testing.assert_close(one, together[row : row + 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", VARIANTS)
def test_cache_is_teacher_forcing_in_any_chunks(build, kind, options, make_condition, tokens):
    model, condition = build(kind, **options), make_condition(kind)
    expected = model(tokens, condition)
    run = model.start(condition)
    rows = [run.extend(NONE)]
    for start, stop in ((0, 1), (1, 2), (2, 6), (6, 8)):
        rows.append(run.extend(tokens[:, start:stop]))
        assert run.lengths.tolist() == [stop] * 3
    torch.testing.assert_close(torch.cat(rows, 1), expected, atol=1e-5, rtol=1e-5)
    assert run.passes == 5 and run.num_tokens == 9 and run.batch_size == 3
    whole = model.start(condition).extend(tokens)
    assert whole.shape[1] == 10
    torch.testing.assert_close(whole[:, :9], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [VARIANTS[1], VARIANTS[-1]])
@pytest.mark.parametrize("guidance", [None, Guidance(2.0), Guidance(2.0, schedule="linear")])
def test_rows_rewind_to_their_own_lengths(build, kind, options, make_condition, tokens, guidance):
    model, condition = build(kind, **options), make_condition(kind)
    expected = model.start(condition, guidance=guidance).extend(tokens)
    run = model.start(condition, guidance=guidance)
    run.extend((tokens + 1) % 24)
    lengths = torch.tensor([5, 0, 2])
    run.rewind(torch.tensor([0, 0, 0]))
    run.extend(tokens)
    run.rewind(lengths)
    assert run.lengths.tolist() == [5, 0, 2]
    for count in (1, 3):
        index = run.lengths.unsqueeze(1) + torch.arange(count)
        logits = run.extend(tokens.gather(1, index))
        rows = expected.gather(1, (index + 1).unsqueeze(-1).expand(-1, -1, 24))
        torch.testing.assert_close(logits, rows, atol=1e-5, rtol=1e-5)


def test_guidance_combines_with_the_dropped_twin(build, kind, make_condition, tokens):
    model, condition = build(kind), make_condition(kind)
    cond, null = model(tokens, condition), model(tokens, condition.null())
    linear, cut = Guidance(2.0, "cond", "linear"), Guidance(3.0, interval=(2, 5))
    for guidance in (Guidance(3.0), linear, cut):
        scales = torch.tensor([guidance.scale_at(i, 9) for i in range(9)]).unsqueeze(-1)
        base = null if guidance.form == "uncond" else cond
        run = model.start(condition, guidance=guidance)
        steps = [run.extend(NONE), *(run.extend(tokens[:, i : i + 1]) for i in range(8))]
        torch.testing.assert_close(
            torch.cat(steps, 1), base + scales * (cond - null), atol=1e-4, rtol=1e-4
        )
        assert run.passes == 9
    neutral = model.start(condition, guidance=Guidance(1.0))
    torch.testing.assert_close(all_at_once(neutral, tokens), cond, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("low_memory", [True, False])
def test_save_and_load(build, kind, make_condition, tokens, tmp_path, low_memory):
    model, condition = build(kind), make_condition(kind)
    model.save_pretrained(tmp_path)
    again = AutoregressiveTransformer.from_pretrained(tmp_path, low_cpu_mem_usage=low_memory)
    assert dict(again.config.layout) == dict(model.config.layout)
    assert torch.equal(again(tokens, condition), model(tokens, condition))
    null = condition.null()
    assert torch.equal(again(tokens, null), model(tokens, null))


def test_gradient_checkpointing_changes_nothing(build, make_condition, tokens):
    model, condition = build("text").train(), make_condition("text")
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(tokens, condition, output="losses").mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        model.enable_gradient_checkpointing()
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_half_precision(build, kind, make_condition, tokens):
    model, condition = build(kind), make_condition(kind)
    expected = model(tokens, condition)
    model = model.to(torch.bfloat16)
    logits = model.start(condition, guidance=Guidance(1.5)).extend(tokens)
    assert logits.dtype == torch.float32
    assert (model(tokens, condition) - expected).abs().mean() < 0.2


def test_wrong_use(build, make_condition, grid):
    model = build("class")
    with pytest.raises(ValueError, match="must be a ClassCondition"):
        model.start(make_condition("text"))
    with pytest.raises(ValueError, match="label 5 must lie between 0 and 4"):
        model.start(ClassCondition(torch.tensor([5])))
    run = model.start(make_condition("class"))
    with pytest.raises(ValueError, match="2 rows; the run has 3"):
        run.extend(NONE[:2])
    with pytest.raises(ValueError, match="10 tokens after 0 exceed the 9"):
        run.extend(torch.zeros(3, 10, dtype=torch.int64))
    run.extend(torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="length"):
        run.rewind(torch.tensor([1, 3, 2]))
    with pytest.raises(ValueError, match="rope '4d'"):
        AutoregressiveTransformer(layout=grid, dim=32, num_heads=4, num_layers=1, rope="4d")
    with pytest.raises(ValueError, match="condition 'smell'"):
        AutoregressiveTransformer(layout=grid, dim=32, num_heads=4, condition="smell")
    with pytest.raises(ValueError, match="num_heads 5 must divide dim 32"):
        AutoregressiveTransformer(layout=grid, dim=32, num_heads=5)


RENAMED = [
    ("cls_embedding.embedding_table", "conditioner.table"),
    ("cls_embedding.cap_proj.", "conditioner."),
    ("cls_embedding.uncond_embedding", "conditioner.null"),
    ("tok_embeddings", "embeddings.table"),
    ("attention.wqkv", "attention.qkv"),
    ("attention.wo", "attention.out"),
    ("feed_forward.w2", "feed_forward.down"),
    ("ffn_norm", "feed_forward_norm"),
    ("output", "token_head.full"),
]


def official(name):
    """The fixture's network as ours, its condition, and its tensors."""
    folder = PARITY / name
    if not folder.is_dir():
        pytest.skip(f"the parity fixture {name} lies outside of the repository")
    c = json.loads((folder / "config.json").read_text())
    weights, io = (load_file(folder / f"{n}.safetensors") for n in ("weights", "io"))
    side = round(c["block_size"] ** 0.5)
    model = AutoregressiveTransformer(
        layout=TokenLayout.single((side, side), c["vocab_size"]).to_dict(),
        dim=c["dim"],
        num_layers=c["n_layer"],
        num_heads=c["n_head"],
        multiple_of=c["multiple_of"],
        condition_rope="zeros",
        condition={"c2i": "class", "t2i": "features"}[c["model_type"]],
        num_classes=c["num_classes"],
        num_condition_tokens=c["cls_token_num"],
        caption_dim=c["caption_dim"],
    )
    state = {}
    for key, value in weights.items():
        if key.endswith("w1.weight"):
            value = torch.cat((value, weights[key.replace("w1", "w3")]))
            key = key.replace("w1", "gate_up")
        if key == "norm.weight":
            key = "last_norm.weight"
        for theirs, ours in RENAMED:
            key = key.replace(theirs, ours)
        if not key.endswith("w3.weight"):
            state[key] = value
    model.load_state_dict(state)
    if c["model_type"] == "c2i":
        condition = ClassCondition(io["labels"])
    else:
        condition = FeatureCondition(io["caption_embs"], io["caption_mask"].bool())
    return model.eval(), c, condition, io


def greedy(model, condition, guidance):
    run = model.start(condition, guidance=guidance)
    ids, steps = torch.empty(condition.batch_size, 0, dtype=torch.int64), []
    while ids.shape[1] < model.num_tokens:
        steps.append(run.extend(ids[:, -1:])[:, -1])
        ids = torch.cat((ids, steps[-1].argmax(-1, keepdim=True)), dim=1)
    return ids, torch.stack(steps, dim=1)


@pytest.mark.parametrize("name", ["llamagen_c2i", "llamagen_t2i"])
def test_official_llamagen(name):
    model, c, condition, io = official(name)
    tokens = torch.nn.functional.pad(io["tokens"], (0, 1))
    logits = model(tokens, condition, condition_rows=True)
    torch.testing.assert_close(logits, io["logits"], atol=2e-4, rtol=0)
    ids, logits = greedy(model, condition, Guidance(c["cfg_scale"]))
    assert torch.equal(ids, io["greedy_cfg_ids"])
    torch.testing.assert_close(logits, io["greedy_cfg_logits"], atol=2e-4, rtol=0)
    assert torch.equal(greedy(model, condition, None)[0], io["greedy_nocfg_ids"])
    if c["cfg_interval"] >= 0:
        cut = Guidance(c["cfg_scale"], interval=(0, c["cfg_interval"] + 2))
        assert torch.equal(greedy(model, condition, cut)[0], io["greedy_cfg_interval_ids"])


LEVELS = [2, 3, 4]
LAYERS = TokenLayout(
    (TokenSegment("coarse", (1, 2, 1), 24), TokenSegment("fine", (2, 2, 2), 24))
).to_dict()


def test_layers_of_video_tokens(build, make_condition):
    """Coarse tokens first, in coordinates that all layers share: cached as taught."""
    options = dict(token_levels=LEVELS, head="digits", prior_dim=8)
    model = build("text", layout=LAYERS, rope="3d", place_embedding=True, **options)
    tokens = torch.randint(24, (3, 10), generator=torch.Generator().manual_seed(5))
    condition = make_condition("text")
    wanted = model(tokens, condition)
    run = model.start(condition)
    made = [run.extend(tokens[:, :2]), run.extend(tokens[:, 2:3]), run.extend(tokens[:, 3:9])]
    torch.testing.assert_close(torch.cat(made, 1), wanted, atol=1e-4, rtol=1e-4)
    run.rewind(torch.tensor([2, 5, 4]))
    again = run.extend(tokens[:, 5:6])
    torch.testing.assert_close(again[1], wanted[1, 6:7], atol=1e-4, rtol=1e-4)
    other = build("text", layout=LAYERS, rope="3d", place_embedding=False, **options)
    assert other.embeddings.places is None
    with pytest.raises(ValueError, match="rope '3d' needs grids of"):
        build("text", layout=TokenLayout.single((3, 3), 24).to_dict(), rope="3d")
