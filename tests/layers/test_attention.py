import pytest
import torch

from studio.layers.attention import (
    BACKENDS,
    attention,
    causal_mask,
    mask_bias,
    set_default_backend,
    trouble,
    warn_once,
)


def make(n, s, *, heads=4, kv_heads=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    shapes = ((2, heads, n, 16), (2, kv_heads, s, 16), (2, kv_heads, s, 16))
    return [torch.randn(shape, generator=rng) for shape in shapes]


def by_hand(q, k, v, seen):
    out = torch.zeros_like(q)
    for b, h, i in torch.cartesian_prod(*(torch.arange(n) for n in q.shape[:3])).tolist():
        keep = seen[b, i]
        weights = (k[b, h, keep] @ q[b, h, i] / 4).softmax(0)
        out[b, h, i] = weights @ v[b, h, keep]
    return out


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("n", [1, 3, 7])
def test_causal_is_aligned_to_the_end(backend, n):
    q, k, v = make(n, 7)
    seen = torch.ones(n, 7, dtype=torch.bool).tril(7 - n).expand(2, n, 7)
    out = attention(q, k, v, causal=True, backend=backend)
    torch.testing.assert_close(out, by_hand(q, k, v, seen), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("as_bias", [False, True])
def test_masks(backend, as_bias):
    q, k, v = make(5, 6)
    seen = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    seen[..., 0] = True
    mask = seen.unsqueeze(1)
    out = attention(q, k, v, mask=mask_bias(mask, q.dtype) if as_bias else mask, backend=backend)
    torch.testing.assert_close(out, by_hand(q, k, v, seen), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_key_heads(backend):
    q, k, v = make(5, 5, kv_heads=2)
    whole = attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), backend=backend)
    torch.testing.assert_close(attention(q, k, v, backend=backend), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_backends_agree_with_their_gradients(dtype):
    results = []
    for backend in BACKENDS:
        inputs = [t.to(dtype).requires_grad_() for t in make(9, 9)]
        out = attention(*inputs, causal=True, backend=backend)
        out.float().square().sum().backward()
        results.append([out.detach(), *(t.grad for t in inputs)])
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def test_causal_mask_of_rows_with_padding():
    columns = torch.tensor([[True, False, True, True], [True, True, True, True]])
    mask = causal_mask(2, 4, starts=torch.tensor([1, 2]), columns=columns)
    assert mask[0, 0].tolist() == [[True, True, False, False], [True, False, True, False]]
    assert mask[1, 0].tolist() == [[True, True, True, False], [True] * 4]


def test_what_auto_means_can_be_set(monkeypatch):
    used = []
    monkeypatch.setitem(BACKENDS, "plain", lambda *a: used.append("plain") or a[0])
    before = set_default_backend("plain")
    try:
        attention(*make(4, 4))
    finally:
        set_default_backend(before)
    attention(*make(4, 4))
    assert used == ["plain"] and before == "auto"
    with pytest.raises(ValueError, match="backend 'fast'"):
        set_default_backend("fast")


def test_fall_back_is_said_once(monkeypatch, caplog):
    def broken(*args):
        raise OSError("built for another torch")

    monkeypatch.setitem(BACKENDS, "xformers", broken)
    trouble.cache_clear()
    warn_once.cache_clear()
    q, k, v = make(3, 7)
    for _ in range(3):
        out = attention(q, k, v, causal=True, backend="xformers")
        torch.testing.assert_close(out, attention(q, k, v, causal=True, backend="plain"))
    trouble.cache_clear()
    (record,) = caplog.records
    assert "'xformers' is not used, 'sdpa' is: OSError: built for another" in record.message


def test_flex_says_what_it_lacks(caplog):
    warn_once.cache_clear()
    attention(*make(3, 3), backend="flex", dropout=0.5)
    assert "no dropout" in caplog.text


def test_double_precision_is_kept():
    q, k, v = (t.double() for t in make(5, 5))
    plain, fused = (attention(q, k, v, backend=name) for name in ("plain", "sdpa"))
    torch.testing.assert_close(plain, fused, atol=1e-14, rtol=1e-14)


def test_wrong_use():
    q, k, v = make(2, 2)
    with pytest.raises(ValueError, match="backend 'flash9'"):
        attention(q, k, v, backend="flash9")
    with pytest.raises(ValueError, match="causal"):
        attention(q, k, v, causal=True, mask=torch.ones(2, 2, dtype=torch.bool))
