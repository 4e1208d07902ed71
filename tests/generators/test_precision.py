import copy
import logging

import pytest
import torch
from torch import nn

from studio.generators.autoregressive import AutoregressiveTransformer
from studio.generators.masked import MaskedTransformer
from studio.generators.precision import PRECISIONS, Int8Linear, has_bf16, quantize


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(1,), (2, 3), (40,)])
def test_int8_linear(bias, rows):
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias)
    small = Int8Linear(linear)
    x = torch.randn(*rows, 64)
    wanted, found = linear(x), small(x)
    assert found.shape == wanted.shape and found.dtype == torch.float32
    assert 0 < (found - wanted).abs().max() < 0.03 * wanted.abs().max()
    assert small.weight.dtype == torch.int8
    error = (small.weight * small.scale[:, None] - linear.weight).abs()
    assert (error <= small.scale[:, None] * 0.5001).all()


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
@pytest.mark.parametrize("cls", [AutoregressiveTransformer, MaskedTransformer])
def test_networks_stay_near(cls, precision, grid, sizes, shake, make_condition, tokens, caplog):
    model = shake(cls(layout=grid, dim=32, num_layers=2, num_heads=4, **sizes["text"]))
    condition = make_condition("text")
    with torch.no_grad():
        wanted = model(tokens, condition).softmax(-1)
    small = copy.deepcopy(model)
    with caplog.at_level(logging.WARNING):
        quantize(small, precision)
    assert bool(caplog.records) == (precision == "bf16" and not has_bf16("cpu"))
    run = small.start(condition)
    if small.kind == "ordered":
        found = run.extend(tokens)[:, :9]
    else:
        found = run.fill(tokens, torch.ones_like(tokens, dtype=torch.bool))
    assert found.dtype == torch.float32
    assert 0 < (found.softmax(-1) - wanted).abs().sum(-1).mean() < 0.15
    with pytest.raises(ValueError, match=f"was changed to {precision} before"):
        quantize(small, "int8")


def test_an_unknown_precision(grid, sizes):
    model = AutoregressiveTransformer(
        layout=grid, dim=32, num_layers=1, num_heads=4, **sizes["class"]
    )
    with pytest.raises(ValueError, match="precision 'int3' must be one of int8, int8-dynamic"):
        quantize(model, "int3")
    assert isinstance(has_bf16("cpu"), bool)
