"""Lean steps against the blocks, and where they are left to them."""

import pytest
import torch

from studio.generators import autoregressive_run
from studio.generators.autoregressive import AutoregressiveTransformer
from studio.generators.conditioning import ClassCondition, TextCondition
from studio.generators.guidance import Guidance
from studio.generators.precision import quantize
from studio.outputs import TokenLayout


def network(condition="text", **options):
    base = dict(dim=24, num_layers=2, num_heads=4, num_kv_heads=2, multiple_of=8)
    torch.manual_seed(0)
    model = AutoregressiveTransformer(
        layout=TokenLayout.single((3, 4), 24).to_dict(),
        condition=condition,
        text_vocab_size=30,
        num_condition_tokens=5,
        text_layers=1,
        num_classes=4,
        token_levels=[2, 3, 4],
        head="digits",
        prior_dim=8 if condition == "text" else 0,
        **{**base, **options},
    ).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn(value.shape))
    return model


def conditions(kind):
    if kind == "class":
        return ClassCondition(torch.tensor([1, 3]))
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    return TextCondition(torch.arange(10).view(2, 5) * mask, mask)


def walk(model, condition, guidance=None):
    """Logits and features of passes over one and several tokens, in even and in uneven rows."""
    run = model.start(condition, guidance=guidance)
    tokens = torch.arange(24).view(2, 12) % 24
    seen = []
    for step in (slice(0, 0), slice(0, 1), slice(1, 4), slice(4, 7)):
        seen += [run.extend(tokens[:, step]), run.features]
    run.rewind(torch.tensor([5, 3]))
    for step in (slice(7, 8), slice(8, 11)):
        seen += [run.extend(tokens[:, step]), run.features]
    run.rewind(torch.tensor([6, 6]))
    seen += [run.extend(tokens[:, 6:12]), run.features]
    return seen, run


@pytest.mark.parametrize("kind", ["text", "class"])
@pytest.mark.parametrize("guidance", [None, Guidance(scale=2.0)])
def test_lean_steps_equal_the_blocks(kind, guidance, monkeypatch):
    model = network(kind)
    lean, run = walk(model, conditions(kind), guidance)
    assert run._lean is not None
    monkeypatch.setattr(autoregressive_run, "fits", lambda *args: False)
    plain, run = walk(model, conditions(kind), guidance)
    assert run._lean is None
    for one, other in zip(lean, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_what_lean_steps_do_not_know_is_left_to_the_blocks():
    model = network()
    for change in ("training", "int8", "bf16"):
        if change == "training":
            model.train()
        else:
            model = network()
            quantize(model, change)
        run = model.start(conditions("text"))
        run.extend(torch.zeros(2, 1, dtype=torch.int64))
        assert run._lean is None
        model.eval()
    run = network().start(conditions("text"), cache="int8")
    run.extend(torch.zeros(2, 1, dtype=torch.int64))
    assert run._lean is None
