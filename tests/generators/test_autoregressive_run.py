"""The run with every cache: against the static one, in chunks, taken back."""

from functools import partial

import pytest
import torch

from studio.generators.autoregressive import AutoregressiveTransformer
from studio.generators.guidance import Guidance
from studio.layers.quantized_cache import QuantizedCache
from studio.layers.rolling_cache import RollingCache
from studio.layers.sink_memory import SinkMemory
from studio.outputs import TokenLayout

N = 36
GRID = TokenLayout.single((6, 6), 24).to_dict()
VARIANTS = [
    {},
    dict(rope="1d"),
    dict(rope="1d", condition_rope="zeros", num_kv_heads=2),
]


@pytest.fixture
def build(sizes, shake):
    def build(kind="text", **options):
        base = dict(layout=GRID, dim=32, num_layers=2, num_heads=4, multiple_of=16, **sizes[kind])
        return shake(AutoregressiveTransformer(**{**base, **options}))

    return build


@pytest.fixture
def picture():
    return torch.randint(24, (3, N), generator=torch.Generator().manual_seed(5))


def one_by_one(run, tokens):
    return torch.cat([run.extend(tokens[:, max(0, i - 1) : i]) for i in range(N)], dim=1)


def in_chunks(run, tokens):
    """Chunks of many sizes, two of them drafts that are taken back."""
    out, start = [run.extend(tokens[:, :4])], 4
    for count in (5, 1, 9, 2, 14):
        run.extend((tokens[:, start : start + 3] + 1) % 24)
        run.rewind(torch.full((3,), start))
        out.append(run.extend(tokens[:, start : start + count]))
        start += count
    return torch.cat(out, dim=1)[:, :N]


@pytest.mark.parametrize("guidance", [None, Guidance(2.0)])
@pytest.mark.parametrize("options", VARIANTS)
def test_a_wide_window_is_a_static_cache(build, options, make_condition, picture, guidance):
    model, condition = build(**options), make_condition("text")
    wanted = one_by_one(model.start(condition, guidance=guidance), picture)
    run = model.start(condition, guidance=guidance, cache=partial(RollingCache, window=N))
    torch.testing.assert_close(one_by_one(run, picture), wanted)


@pytest.mark.parametrize("options", VARIANTS)
def test_a_window_is_the_same_in_chunks(build, options, make_condition, picture):
    model, condition = build(**options), make_condition("text")
    cache = partial(RollingCache, window=6, slack=4)
    wanted = one_by_one(model.start(condition, cache=cache), picture)
    run = model.start(condition, cache=cache)
    torch.testing.assert_close(in_chunks(run, picture), wanted)
    assert run._cache.keys.shape[3] == run._rows + 4 + 6 + 4  # condition, sinks, window, slack
    static = one_by_one(model.start(condition), picture)
    torch.testing.assert_close(wanted[:, :7], static[:, :7])
    assert (wanted[:, 20:] - static[:, 20:]).abs().max() > 1e-2
    with pytest.raises(ValueError, match="rolling cache that saw"):
        run.rewind(torch.full((3,), 20))


@pytest.mark.parametrize(("bits", "near"), [((8, 8), 0.15), ((4, 2), 5.0)])
def test_quantized(build, make_condition, picture, bits, near):
    cache = partial(QuantizedCache, salient_bits=bits[0], bits=bits[1], block=8)
    model, condition = build(), make_condition("text")
    wanted = one_by_one(model.start(condition), picture)
    run = model.start(condition, cache=cache)
    found = one_by_one(run, picture)
    assert 0 < (found - wanted).abs().max() < near
    found = in_chunks(model.start(condition, cache=cache), picture)
    assert 0 < (found - wanted).abs().max() < near
    with pytest.raises(ValueError, match="has packed"):
        run.rewind(torch.zeros(3, dtype=torch.int64))


def test_each_row_of_a_quantized_run_is_as_alone(build, make_condition, picture):
    model, condition = build(), make_condition("text")
    cache = partial(QuantizedCache, block=8)
    both = one_by_one(model.start(condition, guidance=Guidance(2.0), cache=cache), picture)
    alone = one_by_one(
        model.start(condition[1:2], guidance=Guidance(2.0), cache=cache), picture[1:2]
    )
    torch.testing.assert_close(both[1:2], alone, atol=1e-4, rtol=1e-4)


def test_an_unknown_cache(build, make_condition):
    with pytest.raises(ValueError, match="cache 'paged' must be one of static"):
        build().start(make_condition("text"), cache="paged")


@pytest.mark.parametrize("guidance", [None, Guidance(2.0)])
def test_a_memory_of_blocks_before(build, make_condition, picture, guidance):
    """Empty, it changes nothing; then all tokens see it, however many are fed at a time."""
    model, condition = build(rope="1d"), make_condition("text")
    plain = one_by_one(model.start(condition, guidance=guidance), picture)
    memory = SinkMemory(torch.arange(12), alpha=0.5)
    first = model.start(condition, guidance=guidance, memory=memory)
    assert torch.equal(one_by_one(first, picture), plain)
    first.remember()
    later = model.start(condition, guidance=guidance, memory=memory)
    wanted = one_by_one(later, picture)
    assert not torch.allclose(wanted[:, 0], plain[:, 0])
    assert later.lengths.tolist() == [N - 1] * 3
    run = model.start(condition, guidance=guidance, memory=memory)
    torch.testing.assert_close(in_chunks(run, picture), wanted)
    tree = model.start(condition, guidance=guidance, memory=memory)
    chain = torch.arange(-1, 4).expand(3, -1)
    torch.testing.assert_close(tree.extend_tree(picture[:, :5], chain), wanted[:, :6])
    with pytest.raises(ValueError, match="takes no memory"):
        model.start(condition, cache="int8", memory=memory)
    with pytest.raises(ValueError, match="remembers nothing"):
        model.start(condition).remember()
