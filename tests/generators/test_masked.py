import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from studio.generators.conditioning import ClassCondition, TextCondition
from studio.generators.guidance import Guidance
from studio.generators.masked import MaskedTransformer
from studio.outputs import TokenLayout

PARITY = Path(__file__).parents[3] / "shared" / "parity" / "maskgit_vit"
KNOWN = torch.rand(3, 9, generator=torch.Generator().manual_seed(2)) < 0.5


@pytest.fixture
def build(grid, sizes, shake):
    def build(kind="class", **options):
        base = dict(layout=grid, dim=32, num_layers=2, num_heads=4, **sizes[kind])
        return shake(MaskedTransformer(**{**base, **options}))

    return build


VARIANTS = [
    {},
    dict(norm="pre", rope="2d", token_levels=[2, 3, 4], head="digits"),
    dict(norm="pre", rope="1d", token_levels=[2, 3, 4], head="digits+full", head_rank=4),
    dict(norm="pre", token_levels=[2, 3, 4], head="digits", position_tables=True),
]


@pytest.mark.parametrize("options", VARIANTS)
def test_shapes_and_gradients(build, kind, options, make_condition, tokens):
    model = build(kind, **options).train()
    condition = make_condition(kind).drop(torch.tensor([True, False, False]))
    ids = torch.where(KNOWN, tokens, model.mask_id)
    logits = model(ids, condition)
    assert logits.shape == (3, 9, 24) and logits.dtype == torch.float32
    losses = model(ids, condition, output="losses", targets=tokens)
    expected = -logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(losses, expected)
    losses.mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("guidance", [None, Guidance(2.5)])
def test_alone_as_in_a_batch(build, kind, options, make_condition, tokens, guidance):
    model, condition = build(kind, **options), make_condition(kind)
    run = model.start(condition, guidance=guidance)
    together = run.fill(tokens, KNOWN)
    assert run.passes == 1 and run.num_tokens == 9
    for row in range(3):
        alone = condition[row : row + 1]
        if kind == "text":
            real = int(alone.mask.sum())
            alone = TextCondition(alone.ids[:, :real], alone.mask[:, :real])
        only = slice(row, row + 1)
        one = model.start(alone, guidance=guidance).fill(tokens[only], KNOWN[only])
        torch.testing.assert_close(one, together[only], atol=1e-5, rtol=1e-5)


def test_fill_hides_what_is_not_known(build, kind, make_condition, tokens):
    model, condition = build(kind), make_condition(kind)
    expected = model(torch.where(KNOWN, tokens, 24), condition)
    other = torch.where(KNOWN, tokens, (tokens + 3) % 24)
    for ids in (tokens, other):
        torch.testing.assert_close(model.start(condition).fill(ids, KNOWN), expected)


def test_guidance_by_step(build, kind, make_condition, tokens):
    model, condition = build(kind), make_condition(kind)
    ids = torch.where(KNOWN, tokens, 24)
    cond, null = model(ids, condition), model(ids, condition.null())
    run = model.start(condition, guidance=Guidance(4.0, "cond", "linear"))
    assert torch.equal(run.fill(tokens, KNOWN, step=0, num_steps=8), cond)
    guided = run.fill(tokens, KNOWN, step=4, num_steps=8)
    torch.testing.assert_close(guided, cond + 2 * (cond - null), atol=1e-4, rtol=1e-4)
    assert run.passes == 2
    assert (null != cond).any(-1).all()


@pytest.mark.parametrize("low_memory", [True, False])
@pytest.mark.parametrize("options", VARIANTS[:2])
def test_save_and_load(build, kind, options, make_condition, tokens, tmp_path, low_memory):
    model, condition = build(kind, **options), make_condition(kind)
    model.save_pretrained(tmp_path)
    again = MaskedTransformer.from_pretrained(tmp_path, low_cpu_mem_usage=low_memory)
    for c in (condition, condition.null()):
        assert torch.equal(again(tokens, c), model(tokens, c))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_gradient_checkpointing_changes_nothing(build, make_condition, tokens, norm):
    model, condition = build("text", norm=norm).train(), make_condition("text")
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(tokens, condition, output="losses", targets=tokens).mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        model.enable_gradient_checkpointing()
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_wrong_use(build, make_condition, tokens, grid):
    run = build("class").start(make_condition("class"))
    with pytest.raises(ValueError, match=r"tokens of shape \(3, 8\)"):
        run.fill(tokens[:, :8], KNOWN[:, :8])
    with pytest.raises(ValueError, match="norm 'none'"):
        MaskedTransformer(layout=grid, dim=32, num_heads=4, norm="none")
    with pytest.raises(ValueError, match="needs targets"):
        build("class")(tokens, make_condition("class"), output="losses")


RENAMED = [
    ("embeddings.word_embeddings", "embeddings.table"),
    ("embeddings.LayerNorm", "embedding_norm"),
    ("encoder.layer.", "layers."),
    ("attention.self.query", "attention.qkv"),
    ("attention.output.dense", "attention.out"),
    ("attention.output.LayerNorm", "attention_norm"),
    ("intermediate.dense", "feed_forward.up"),
    ("output.dense", "feed_forward.down"),
    ("output.LayerNorm", "feed_forward_norm"),
    ("lm_head", "token_head.full"),
]


@pytest.fixture
def official():
    """The fixture's network as ours, its config, and its tensors."""
    if not PARITY.is_dir():
        pytest.skip("the parity fixture maskgit_vit lies outside of the repository")
    c = json.loads((PARITY / "config.json").read_text())["model"]
    weights, io = (load_file(PARITY / f"{n}.safetensors") for n in ("weights", "io"))
    sizes, vocab = c["generator"], c["vq_model"]["codebook_size"]
    model = MaskedTransformer(
        layout=TokenLayout.single((sizes["image_seq_len"],), vocab).to_dict(),
        dim=sizes["hidden_size"],
        num_layers=sizes["num_hidden_layers"],
        num_heads=sizes["num_attention_heads"],
        hidden_dim=sizes["intermediate_size"],
        num_classes=sizes["condition_num_classes"],
    )
    weights = {key.removeprefix("model."): value for key, value in weights.items()}
    positions = weights.pop("embeddings.position_embeddings.weight")
    kinds = weights.pop("embeddings.token_type_embeddings.weight")
    state = {"positions.weight": positions + kinds[0]}
    for key, value in weights.items():
        if ".self.query." in key:
            parts = [weights[key.replace("query", n)] for n in ("query", "key", "value")]
            value = torch.cat(parts)
        for theirs, ours in RENAMED:
            key = key.replace(theirs, ours)
        if ".self." not in key:
            state[key] = value
    model.load_state_dict(state)
    return model.eval(), sizes, io


def test_official_maskgit_logits(official):
    model, _, io = official
    condition = ClassCondition(io["labels"])
    for name, c in (("logits", condition), ("logits_null", condition.null())):
        torch.testing.assert_close(model(io["tokens_masked"], c), io[name], atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["constant", "linear", "powercos"])
def test_official_maskgit_loop(official, name):
    model, sizes, io = official
    scale, steps, count = sizes["guidance_scale"], sizes["num_steps"], sizes["image_seq_len"]
    guidance = {
        "constant": Guidance(scale, "cond"),
        "linear": Guidance(scale, "cond", "linear"),
        "powercos": Guidance(scale, "uncond", "power-cosine", 3.0),
    }[name]
    run = model.start(ClassCondition(io["labels"]), guidance=guidance)
    ids = torch.full_like(io["tokens"], model.mask_id)
    for step in range(steps):
        assert torch.equal(ids, io[f"sample_{name}_inputs"][:, step])
        known, ratio = ids != model.mask_id, (step + 1) / steps
        logits = run.fill(ids, known, step=step, num_steps=steps)
        if name == "linear":  # this one was sampled with annealed softmax
            logits = logits / (0.5 + 0.8 * (1 - ratio))
        ids = torch.where(known, ids, logits.argmax(-1))
        if step < steps - 1:
            sure = logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1).masked_fill(known, math.inf)
            masked = math.floor(count * math.acos(ratio) / (math.pi / 2))
            masked = max(1, min(int((~known[0]).sum()) - 1, masked))
            limit = sure.sort(-1).values[:, masked - 1 : masked]
            ids = torch.where(sure <= limit, model.mask_id, ids)
    assert torch.equal(ids, io[f"sample_{name}_ids"])
