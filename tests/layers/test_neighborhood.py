"""Every back end against the dense reference, values and gradients; memory; the choice of one."""

import logging

import pytest
import torch

from studio.layers import neighborhood as module
from studio.layers.attention import warn_once
from studio.layers.neighborhood import (
    NEIGHBORHOOD_BACKENDS,
    Neighborhood,
    neighborhood_attention,
    neighborhood_mask,
    prefixed_neighborhood_attention,
)
from studio.layers.neighborhood_tiles import make_tiles, tiled_attention

WINDOWS = [
    Neighborhood((23,), 5),
    Neighborhood((19,), 4, 3, 2, True),
    Neighborhood((11, 9), (3, 4), (1, 2), (2, 1)),
    Neighborhood((9, 10), (4, 3), (3, 2), (2, 3), (True, False)),
    Neighborhood((4, 7, 5), (2, 3, 2), 1, (1, 2, 2), (True, False, False)),
    Neighborhood((4, 6, 6), (4, 3, 4), (2, 1, 3)),
]
NONE = {}
EXTRA = {"extra": 3}
MASKED = {"extra": 3, "masked": True}


def make(window, *, extra=0, masked=False, dtype=torch.float64, value_dim=6, kv_heads=2):
    rng = torch.Generator().manual_seed(0)
    n = window.num_tokens
    shapes = [(2, 4, n, 8), (2, kv_heads, n, 8), (2, kv_heads, n, value_dim)]
    q, k, v = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)
    more = {}
    if extra:
        sizes = {"extra_k": 8, "extra_v": value_dim}
        more = {
            name: torch.randn(2, kv_heads, extra, size, generator=rng, dtype=torch.float64)
            for name, size in sizes.items()
        }
    tensors = {name: t.to(dtype) for name, t in {"q": q, "k": k, "v": v, **more}.items()}
    if masked:
        tensors["extra_mask"] = torch.tensor([[True, False, True], [False, False, True]])
    return tensors


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("kind", [NONE, EXTRA, MASKED], ids=["", "extra", "masked"])
def test_back_ends_agree(window, kind):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        tensors = make(window, dtype=dtype, **kind)
        expected, sums = neighborhood_attention(
            **tensors, window=window, backend="dense", return_lse=True
        )
        assert expected.dtype == sums.dtype == dtype
        slow = ("flex",) if dtype == torch.float64 else ()  # on a CPU: made for tests
        for backend in [name for name in NEIGHBORHOOD_BACKENDS if name not in slow]:
            out, lse = neighborhood_attention(
                **tensors, window=window, backend=backend, return_lse=True
            )
            alone = neighborhood_attention(**tensors, window=window, backend=backend)
            for a, b in ((out, expected), (alone, expected), (lse, sums)):
                torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_gradients_of_tiles(window):
    results = []
    for backend in ("dense", "tiled"):
        tensors = make(window, **EXTRA)
        for t in tensors.values():
            t.requires_grad_()
        out = neighborhood_attention(**tensors, window=window, backend=backend)
        results.append(torch.autograd.grad(out.square().sum(), list(tensors.values())))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    window = WINDOWS[2]
    exact = neighborhood_attention(**make(window), window=window)
    out = neighborhood_attention(**make(window, dtype=dtype), window=window, backend="tiled")
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, atol=3e-2, rtol=3e-2)


def test_few_heads_at_a_time_change_nothing(monkeypatch):
    window = WINDOWS[2]
    whole = neighborhood_attention(**make(window, **MASKED), window=window, backend="tiled")
    monkeypatch.setattr("studio.layers.neighborhood_tiles._BUDGET", 1)
    again = neighborhood_attention(**make(window, **MASKED), window=window, backend="tiled")
    torch.testing.assert_close(again, whole, atol=1e-12, rtol=1e-12)


def test_dropout_drops():
    window = Neighborhood((8, 8), 3)
    tensors = make(window, **EXTRA)
    plain = neighborhood_attention(**tensors, window=window, backend="tiled")
    torch.manual_seed(0)
    outs = [
        neighborhood_attention(**tensors, window=window, backend="tiled", dropout=0.5)
        for _ in range(400)
    ]
    assert not torch.equal(outs[0], outs[1])
    torch.testing.assert_close(torch.stack(outs).mean(0), plain, atol=0.5, rtol=0.5)


def peak_bytes(run):
    """The most memory that `run` holds at once beyond what was there, by torch's own book."""
    run()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    held = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def test_memory_grows_with_the_grid_not_with_its_square():
    peaks = []
    for side in (16, 32, 64):
        window = Neighborhood((side, side), 5)
        q = torch.randn(1, 1, side * side, 16)
        with torch.inference_mode():
            peaks.append(
                peak_bytes(
                    lambda q=q, w=window: neighborhood_attention(q, q, q, w, backend="tiled")
                )
            )
        kept = make_tiles(window, q.dtype, q.device)
        peaks[-1] += sum(t.nbytes for t in vars(kept).values())
    assert peaks[1] < 5 * peaks[0] and peaks[2] < 5 * peaks[1]
    assert peaks[2] < 4096**2  # a quarter of one float32 matrix of scores


def test_tiles_hold_every_cell_once():
    window = WINDOWS[3]
    tiles = make_tiles(window, torch.float64, torch.device("cpu"))
    cells = tiles.queries.flatten()[tiles.order]
    assert torch.equal(cells, torch.arange(window.num_tokens))
    seen = torch.zeros(window.num_tokens, window.num_tokens, dtype=torch.bool)
    for queries, keys, bias in zip(tiles.queries, tiles.keys, tiles.bias, strict=True):
        rows, columns = (bias == 0).nonzero(as_tuple=True)
        seen[queries[rows], keys[columns]] = True
    assert torch.equal(seen, neighborhood_mask(window))


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_a_grid_behind_a_prefix(kv_heads):
    window, rows = Neighborhood((6, 7), 3), 3
    rng = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(2, h, rows + 42, 8, generator=rng, dtype=torch.float64)
        for h in (4, kv_heads, kv_heads)
    )
    real = torch.ones(2, rows + 42, dtype=torch.bool)
    real[0, 2] = False
    seen = torch.ones(rows + 42, rows + 42, dtype=torch.bool)
    seen[rows:, rows:] = neighborhood_mask(window)
    mask = real[:, None, None]
    expected = module.attention(q, k, v, mask=seen & mask, backend="plain")
    for backend in ("dense", "tiled", "auto"):
        out = prefixed_neighborhood_attention(q, k, v, window, mask=mask, backend=backend)
        torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-12)
    alone = prefixed_neighborhood_attention(q[:, :, 3:], k[:, :, 3:], v[:, :, 3:], window)
    expected = neighborhood_attention(q[:, :, 3:], k[:, :, 3:], v[:, :, 3:], window)
    torch.testing.assert_close(alone, expected)


def test_what_auto_takes_on_a_cpu(monkeypatch):
    taken = []
    for name in ("tiled", "sdpa"):
        monkeypatch.setitem(
            NEIGHBORHOOD_BACKENDS, name, lambda *a, name=name: taken.append(name) or a[0]
        )
    for side, kernel in ((32, 5), (6, 5)):
        q = torch.randn(1, 1, side * side, 8)
        neighborhood_attention(q, q, q, Neighborhood((side, side), kernel))
    assert taken == ["tiled", "sdpa"]


def test_fall_back_is_said_once(monkeypatch, caplog):
    def broken(*args):
        raise RuntimeError("built for another torch\nsecond line")

    monkeypatch.setitem(NEIGHBORHOOD_BACKENDS, "flex", broken)
    module._trouble.cache_clear()
    warn_once.cache_clear()
    window = WINDOWS[0]
    tensors = make(window, dtype=torch.float32)
    expected = neighborhood_attention(**tensors, window=window, backend="dense")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            out = neighborhood_attention(**tensors, window=window, backend="flex")
            torch.testing.assert_close(out, expected)
    module._trouble.cache_clear()
    (record,) = caplog.records
    assert record.message == (
        "neighborhood backend 'flex' is not used, 'tiled' is: RuntimeError: built for another torch"
    )


def test_a_wrong_back_end_is_noticed(monkeypatch):
    monkeypatch.setitem(
        NEIGHBORHOOD_BACKENDS, "flex", lambda *a: tiled_attention(*a[:4], 2 * a[4], *a[5:])
    )
    module._trouble.cache_clear()
    q = torch.zeros(1, 1, 1, 8)
    assert "wrong by" in module.refusal("flex", q, q, q)
    module._trouble.cache_clear()


def test_wrong_use():
    window = Neighborhood((4, 4), 3)
    q = torch.randn(1, 2, 16, 8)
    with pytest.raises(ValueError, match=r"15 tokens; the grid \(4, 4\) has 16"):
        neighborhood_attention(q, q, q[:, :, 1:], window)
    with pytest.raises(ValueError, match="come together"):
        neighborhood_attention(q, q, q, window, extra_k=q)
    with pytest.raises(ValueError, match="come together"):
        neighborhood_attention(q, q, q, window, extra_mask=torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="backend 'fast' must be auto or one of"):
        neighborhood_attention(q, q, q, window, backend="fast")
    with pytest.raises(ValueError, match="10 rows are fewer than the 16"):
        prefixed_neighborhood_attention(q[:, :, :10], q[:, :, :10], q[:, :, :10], window)
