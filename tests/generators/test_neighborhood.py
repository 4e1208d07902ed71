"""Generators whose tokens attend within windows: who sees whom, cached as at once, refusals."""

import pytest
import torch

from studio.generators.autoregressive import AutoregressiveTransformer
from studio.generators.compiled import compile_step
from studio.generators.guidance import Guidance
from studio.generators.masked import MaskedTransformer
from studio.layers.neighborhood import neighborhood_mask, raster_windows
from studio.outputs import TokenLayout, TokenSegment

SHAPE, VOCAB = (5, 6), 24
WINDOWS = [
    {"kernel": 3},
    {"kernel": [2, 3], "stride": [1, 2], "dilation": [2, 1], "causal": [True, False]},
]
TOKENS = torch.randint(VOCAB, (3, 30), generator=torch.Generator().manual_seed(5))
KINDS = {
    "masked": (MaskedTransformer, {"norm": "pre", "rope": "2d"}),
    "autoregressive": (AutoregressiveTransformer, {"multiple_of": 16}),
}


@pytest.fixture
def build(sizes, shake):
    def build(name, window, kind="class", **options):
        cls, own = KINDS[name]
        base = dict(layout=TokenLayout.single(SHAPE, VOCAB).to_dict(), dim=32, num_heads=4)
        base |= dict(num_layers=2, neighborhood=window, **sizes[kind], **own)
        return shake(cls(**{**base, **options}))

    return build


def changed_by_each_token(model, condition):
    """bool (N, N): entry (i, j) says whether token j moves the logits of row i."""
    base = model(TOKENS[:1], condition)
    moved = torch.empty(30, 30, dtype=torch.bool)
    for j in range(30):
        tokens = TOKENS[:1].clone()
        tokens[0, j] = (tokens[0, j] + 1) % VOCAB
        moved[:, j] = (model(tokens, condition) - base).abs().amax(-1)[0] > 1e-6
    return moved


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@torch.no_grad()
def test_who_sees_whom_in_one_layer(build, make_condition, window):
    condition = make_condition("class")[:1]
    masked = build("masked", window, num_layers=1)
    assert torch.equal(changed_by_each_token(masked, condition), neighborhood_mask(masked.window))
    ordered = build("autoregressive", window, num_layers=1)
    moved = changed_by_each_token(ordered, condition)
    # Row i + 1, about token i + 1, stands where token i does; row 0 sees the condition alone.
    assert torch.equal(moved[1:], raster_windows(ordered.window, 0)[:-1])
    assert not moved[0].any()


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_gradients_and_saving(build, make_condition, kind, name, window, tmp_path):
    model, condition = build(name, window, kind).train(), make_condition(kind)
    condition = condition.drop(torch.tensor([True, False, False]))
    losses = model(TOKENS, condition, output="losses", targets=TOKENS)
    losses.mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.eval().save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.window == model.window
    assert torch.equal(again(TOKENS, condition), model(TOKENS, condition))
    wide = build(name, None, kind)
    assert wide.window is None and not torch.allclose(
        wide(TOKENS, condition), again(TOKENS, condition)
    )


@pytest.mark.parametrize("guidance", [None, Guidance(2.5)])
def test_masked_alone_as_in_a_batch(build, make_condition, kind, guidance):
    model, condition = build("masked", WINDOWS[1], kind), make_condition(kind)
    known = torch.rand(3, 30, generator=torch.Generator().manual_seed(2)) < 0.5
    together = model.start(condition, guidance=guidance).fill(TOKENS, known)
    for row in range(3):
        only = slice(row, row + 1)
        alone = model.start(condition[only], guidance=guidance).fill(TOKENS[only], known[only])
        torch.testing.assert_close(alone, together[only], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("cache", ["static", "int8"])
def test_cached_as_at_once(build, make_condition, kind, window, cache):
    model, condition = build("autoregressive", window, kind), make_condition(kind)
    expected = model(TOKENS, condition)
    tolerance = 1e-4 if cache == "static" else 0.5
    run = model.start(condition, cache=cache)
    parts, at = [run.extend(TOKENS[:, :0])], 0
    for n in (1, 4, 1, 7, 16):
        parts.append(run.extend(TOKENS[:, at : at + n]))
        at += n
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("guidance", [None, Guidance(2.0)])
def test_rows_of_different_lengths(build, make_condition, kind, guidance):
    model, condition = build("autoregressive", WINDOWS[0], kind), make_condition(kind)
    whole = model.start(condition, guidance=guidance).extend(TOKENS)
    run = model.start(condition, guidance=guidance)
    run.extend(TOKENS[:, :20])
    lengths = torch.tensor([7, 20, 13])
    run.rewind(lengths)
    steps = torch.arange(5)
    chunk = TOKENS.gather(1, lengths.unsqueeze(1) + steps)
    logits = run.extend(chunk)
    for row, length in enumerate(lengths.tolist()):
        expected = whole[row, length + 1 : length + 6]
        torch.testing.assert_close(logits[row], expected, atol=1e-4, rtol=1e-4)


def test_three_axes(sizes, shake, make_condition):
    layout = TokenLayout.single((3, 4, 5), VOCAB).to_dict()
    window = {"kernel": [2, 3, 3], "causal": [True, False, False]}
    model = shake(
        MaskedTransformer(
            layout=layout, dim=32, num_layers=1, num_heads=4, neighborhood=window, **sizes["class"]
        )
    )
    tokens = TOKENS.repeat(1, 2)
    changed = tokens.clone()
    changed[:, 40:] = (changed[:, 40:] + 1) % VOCAB  # the last frame
    before, after = (model(t, make_condition("class")) for t in (tokens, changed))
    assert torch.equal(before[:, :40], after[:, :40]) and (before[:, 40:] != after[:, 40:]).any()


@pytest.mark.parametrize("name", KINDS)
def test_wrong_use(build, make_condition, name):
    two = TokenLayout(
        (TokenSegment("coarse", (4, 4), VOCAB), TokenSegment("fine", (4, 4), VOCAB))
    ).to_dict()
    with pytest.raises(ValueError, match="layout of one segment"):
        build(name, {"kernel": 3}, layout=two, rope="1d")
    with pytest.raises(ValueError, match="kernel 7 with dilation 1"):
        build(name, {"kernel": 7})
    with pytest.raises(ValueError, match="must have a kernel"):
        build(name, {"size": 7})
    model = build(name, {"kernel": 3})
    with pytest.raises(ValueError, match="can't be compiled"):
        compile_step(model)
    if name == "autoregressive":
        with pytest.raises(ValueError, match="cache 'rolling' drops tokens by age"):
            model.start(make_condition("class"), cache="rolling")
