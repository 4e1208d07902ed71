"""Compiled steps against the plain ones. The tracer alone here; the compiler itself is slow."""

import pytest
import torch

from studio.generators.autoregressive import AutoregressiveTransformer
from studio.generators.compiled import can_compile, compile_options, compile_step
from studio.generators.guidance import Guidance
from studio.generators.masked import MaskedTransformer

EMPTY = torch.empty(3, 0, dtype=torch.int64)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def build(grid, sizes, shake):
    def build(cls=AutoregressiveTransformer, kind="text", **options):
        base = dict(layout=grid, dim=32, num_layers=1, num_heads=4, **sizes[kind])
        return shake(cls(**{**base, **options}))

    return build


def uneven(run, tokens):
    """Chunks, and rows that are taken back to different lengths: all logits in a row."""
    out = [run.extend(EMPTY), run.extend(tokens[:, :1]), run.extend(tokens[:, 1:4])]
    run.rewind(torch.tensor([2, 4, 3]))
    out.append(run.extend(tokens[:, 4:6]))
    out.append(run.extend(tokens[:, 6:7]))
    return torch.cat(out, dim=1), run


@pytest.mark.parametrize(
    ("options", "guidance"),
    [
        (dict(rope="1d", condition_rope="zeros", num_kv_heads=2), None),
        (
            dict(token_levels=[2, 3, 4], head="digits", position_tables=True, prior_dim=8),
            Guidance(2.0, schedule="linear"),
        ),
    ],
)
def test_a_traced_step_is_the_plain_one(build, options, make_condition, tokens, guidance):
    model, condition = build(**options), make_condition("text")
    wanted, plain = uneven(model.start(condition, guidance=guidance), tokens)
    compile_step(model, backend="eager", sizes=(1, 4))
    found, run = uneven(model.start(condition, guidance=guidance), tokens)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(run.features, plain.features)
    assert run.passes == plain.passes and torch.equal(run.lengths, plain.lengths)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    uneven(model.start(condition, guidance=guidance), tokens)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before <= 2


def test_runs_share_no_memory_while_both_live(build, make_condition, tokens):
    model, condition = build(), make_condition("text")
    compile_step(model, backend="eager", sizes=(1,))
    one, two = model.start(condition), model.start(condition)
    for run in (one, two):
        run.extend(EMPTY)
    assert one._cache.keys[0].data_ptr() != two._cache.keys[0].data_ptr()
    place = two._cache.keys[0].data_ptr()
    del two, run
    three = model.start(condition)
    three.extend(EMPTY)
    assert three._cache.keys[0].data_ptr() == place


@pytest.mark.parametrize("options", [dict(norm="pre", rope="2d"), dict(prior_dim=0)])
def test_masked(build, options, make_condition, tokens):
    model, condition = build(MaskedTransformer, **options), make_condition("text")
    known = torch.rand(3, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    wanted = model.start(condition, guidance=Guidance(2.0)).fill(tokens, known)
    compile_step(model, backend="eager")
    found = model.start(condition, guidance=Guidance(2.0)).fill(tokens, known)
    torch.testing.assert_close(found, wanted)


def test_options(monkeypatch, build):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert "mode" not in compile_options(cpu, None, "eager")
    assert compile_options(gpu, None, "inductor")["mode"] == "reduce-overhead"
    assert compile_options(gpu, "default", "inductor")["mode"] == "default"
    with pytest.raises(ValueError, match="sizes"):
        compile_step(build(), sizes=(0, 1))
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        compile_step(build())


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
def test_the_real_compiler(build, make_condition, tokens):
    model, condition = build(), make_condition("text")
    wanted, _ = uneven(model.start(condition, guidance=Guidance(2.0)), tokens)
    compile_step(model, sizes=(4,))
    found, _ = uneven(model.start(condition, guidance=Guidance(2.0)), tokens)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
def test_graphs_on_a_gpu(build, make_condition, tokens):
    model = build().cuda()
    condition, tokens = make_condition("text").to("cuda"), tokens.cuda()
    compile_step(model, sizes=(1,))
    for _ in range(3):  # warm-up, recording, replay
        run = model.start(condition, guidance=Guidance(2.0))
        first = [run.extend(EMPTY.cuda()), *(run.extend(tokens[:, i : i + 1]) for i in range(8))]
        del run
    model.compiled_step = None
    run = model.start(condition, guidance=Guidance(2.0))
    plain = [run.extend(EMPTY.cuda()), *(run.extend(tokens[:, i : i + 1]) for i in range(8))]
    torch.testing.assert_close(torch.cat(first, 1), torch.cat(plain, 1), atol=2e-3, rtol=2e-3)
