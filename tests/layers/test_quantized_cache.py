import pytest
import torch

from studio.layers.attention import attention, causal_mask
from studio.layers.cache import StaticCache
from studio.layers.quantized_cache import QuantizedCache

SIZES = dict(num_layers=2, num_heads=2, max_length=64, head_dim=8)


def make(rows=2, **options):
    place = dict(dtype=torch.float32, device="cpu")
    return QuantizedCache(batch_size=rows, **SIZES, **place, **{"block": 8, **options})


def stream(count=64, rows=2):
    rng = torch.Generator().manual_seed(4)
    return torch.randn(3, rows, 2, count, 8, generator=rng).unbind()


def feed(cache, tensors, start, stop, layer=0):
    """Tokens `start` to `stop` of every row through one layer; all keys and values."""
    cache.reserve(stop - start)
    q, k, v = (x[:, :, start:stop] for x in tensors)
    for other in {0, 1} - {layer}:
        cache.update(other, k, v, q=q)
    return cache.update(layer, k, v, q=q)


def fill(cache, tensors, count, pieces=1):
    for start in range(0, count, pieces):
        both = feed(cache, tensors, start, min(start + pieces, count))
    return both


def distance(bits, salient_bits, share):
    tensors = stream()
    keys, values = fill(
        make(salient_bits=salient_bits, bits=bits, salient_share=share), tensors, 60
    )
    return ((keys - tensors[1][:, :, :60]).std() + (values - tensors[2][:, :, :60]).std()).item()


def test_fewer_bits_lie_farther_off():
    errors = [distance(8, 8, 0.5), distance(4, 8, 0.5), distance(4, 4, 0.5), distance(2, 4, 0.5)]
    assert 0 < errors[0] < 0.03 and errors == sorted(errors) and errors[-1] < 0.6


def test_new_tokens_are_read_as_they_are():
    tensors = stream()
    keys, values = fill(make(), tensors, 48, pieces=12)
    assert torch.equal(keys[:, :, 36:], tensors[1][:, :, 36:48])
    assert torch.equal(values[:, :, 36:], tensors[2][:, :, 36:48])
    near = tensors[1][:, :, 32:36]  # wait for their block to be full
    torch.testing.assert_close(keys[:, :, 32:36], near, atol=0.02, rtol=0)


def test_salient_tokens_keep_more_bits():
    q, k, v = stream()
    q[:, :, :] = torch.tensor([4.0, 0, 0, 0, 0, 0, 0, 0])
    loved = [2, 5, 11, 14]
    k[..., 0] = -1.0
    k[:, :, loved, 0] = 3.0
    cache = make(salient_bits=8, bits=2, salient_share=0.25)
    keys, _ = fill(cache, (q, k, v), 20)
    error = (keys - k[:, :, :20]).abs().mean((0, 1, 3))
    rest = [t for t in range(16) if t not in loved]
    assert error[loved].max() < 0.02 < 0.1 < error[rest].min()


def test_rows_of_different_lengths_are_as_alone():
    tensors = stream()
    cache = make()
    fill(cache, tensors, 20)
    feed(cache, tensors, 20, 27)
    cache.rewind([21, 26])
    for _ in range(12):
        starts = torch.tensor(cache.lengths)
        cache.reserve(1)
        q, k, v = (torch.stack([x[b, :, n : n + 1] for b, n in enumerate(starts)]) for x in tensors)
        mask = causal_mask(1, cache.total, starts=starts)
        for layer in (0, 1):
            keys, _ = cache.update(layer, k, v, q=q, mask=mask)
    assert cache.lengths == [33, 38]
    for row, (kept, last) in enumerate(((21, 33), (26, 38))):
        alone = make(rows=1)
        part = [x[row : row + 1] for x in tensors]
        fill(alone, part, 20)
        feed(alone, part, 20, 27)
        alone.rewind([kept])
        for t in range(kept, last):
            single, _ = feed(alone, part, t, t + 1)
        torch.testing.assert_close(keys[row : row + 1, :, :last], single)


def test_attention_is_near_that_of_a_static_cache():
    tensors = stream()
    static = StaticCache(batch_size=2, dtype=torch.float32, device="cpu", **SIZES)
    for cache, near in ((make(salient_bits=8, bits=8), 0.02), (make(), 0.6)):
        static.rewind([0, 0])
        one = attention(tensors[0][:, :, 59:60], *fill(cache, tensors, 60))
        other = attention(tensors[0][:, :, 59:60], *fill(static, tensors, 60))
        assert (one - other).abs().max() < near


def test_bytes():
    sizes = dict(num_layers=2, batch_size=1, num_heads=8, max_length=280, head_dim=64)
    cache = QuantizedCache(**sizes, dtype=torch.float32, device="cpu")
    static = StaticCache(**sizes, dtype=torch.bfloat16, device="cpu")
    assert static.nbytes / cache.nbytes >= 3.5
    before = cache.nbytes
    cache.reserve(250)  # a long first pass takes more until it is packed
    assert cache.nbytes > before
    cache.reserve(1)
    assert cache.nbytes == before


def test_wrong_use():
    cache = make()
    fill(cache, stream(), 18)
    with pytest.raises(ValueError, match="can't go back into the 16 tokens that it has packed"):
        cache.rewind([18, 15])
    with pytest.raises(ValueError, match="max_length 64"):
        cache.reserve(47)
    cache.rewind([16, 18])
    with pytest.raises(ValueError, match="bits 3 must be one of"):
        make(bits=3)
    with pytest.raises(ValueError, match="salient_share 2"):
        make(salient_share=2)
    with pytest.raises(ValueError, match="head_dim 6 must fill whole bytes"):
        QuantizedCache(**{**SIZES, "head_dim": 6}, batch_size=1, dtype=torch.float32, device="cpu")
