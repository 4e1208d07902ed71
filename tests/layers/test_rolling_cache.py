import pytest
import torch

from studio.layers.attention import attention
from studio.layers.rolling_cache import EMASinkCache, RollingCache
from studio.layers.rope import rope_table, rotate

SIZES = dict(num_layers=1, batch_size=2, num_heads=2, head_dim=4, dtype=torch.float32, device="cpu")


def stream(count, rows=2):
    """Queries, keys and values (B, H, N, D) of a stream."""
    rng = torch.Generator().manual_seed(2)
    return torch.randn(3, rows, 2, count, 4, generator=rng).unbind()


def turned(x, table):
    return rotate(x.transpose(1, 2), table).transpose(1, 2)


def expected(q, k, v, *, sink, window, table=None):
    """Token by token: the sinks and the last `window`, at positions that count what is seen."""
    out = []
    for t in range(q.shape[2]):
        seen = [s for s in range(t + 1) if s < sink or t - s < window]
        keys, query = k[:, :, seen], q[:, :, t : t + 1]
        if table is not None:
            keys = turned(keys, table[: len(seen)])
            query = turned(query, table[len(seen) - 1 : len(seen)])
        out.append(attention(query, keys, v[:, :, seen]))
    return torch.cat(out, dim=2)


def attend(cache, q, k, v):
    """The new tokens of a reserved pass through the cache."""
    if cache.turns_keys:
        q = turned(q, cache.query_rope)
    keys, values = cache.update(0, k, v)
    return attention(q, keys, values, mask=cache.mask())


def feed(cache, tensors, start, stop):
    cache.reserve(stop - start)
    return attend(cache, *(x[:, :, start:stop] for x in tensors))


@pytest.mark.parametrize("slots", [False, True])
@pytest.mark.parametrize("pieces", [[1] * 24, [5, 1, 4, 5, 5, 1, 3]])
def test_sinks_and_a_window(slots, pieces):
    tensors = stream(24)
    table = rope_table((11,), 4) if slots else None
    cache = RollingCache(**SIZES, sink=2, window=5, slack=4, rope=table)
    parts, start = [], 0
    for count in pieces:
        parts.append(feed(cache, tensors, start, start + count))
        start += count
    wanted = expected(*tensors, sink=2, window=5, table=table)
    torch.testing.assert_close(torch.cat(parts, dim=2), wanted)
    assert cache.lengths == [24, 24] and cache.keys.shape[3] == 11


@pytest.mark.parametrize("slots", [False, True])
def test_taking_back(slots):
    tensors = stream(20)
    cache = RollingCache(
        **SIZES, sink=2, window=5, slack=4, rope=rope_table((11,), 4) if slots else None
    )
    wanted = expected(*tensors, sink=2, window=5, table=rope_table((11,), 4) if slots else None)
    for t in range(15):
        feed(cache, tensors, t, t + 1)
    noise = [x + 9 for x in tensors]
    feed(cache, noise, 15, 19)
    cache.rewind([15, 15])
    torch.testing.assert_close(feed(cache, tensors, 15, 17), wanted[:, :, 15:17])
    feed(cache, noise, 17, 20)
    cache.rewind([17, 18])  # rows differ: row 1 keeps a token of noise and starts at 18
    starts = cache.reserve(1)
    assert starts.tolist() == [17, 18]
    out = attend(cache, *(x[:, :, 17:18] for x in tensors))
    torch.testing.assert_close(out[:1], wanted[:1, :, 17:18])
    with pytest.raises(ValueError, match="row 0: a rolling cache that saw 20 tokens goes back 5"):
        cache.rewind([14, 18])
    with pytest.raises(ValueError, match="length 20 of row 0"):
        cache.rewind([20, 19])


def test_padding_is_seen_by_itself_alone():
    cache = RollingCache(**SIZES, sink=3, window=2, slack=2)
    columns = torch.tensor([[True, True, True, True], [True, False, True, True]])
    cache.reserve(3)
    mask = cache.mask(columns)[:, 0, :, :3]
    assert mask[0].tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert mask[1].tolist() == [[True, False, False], [True, True, False], [True, False, True]]


def test_condition_rows_keep_their_rotation():
    """A prefix is turned as the table says, whatever the distance; tokens by their slots."""
    q, k, v = stream(16)
    table = rope_table((12,), 4, num_condition=2)  # two rows that are left as they are
    cache = RollingCache(**SIZES, sink=3, window=4, slack=3, rope=table, prefix=2)
    out = [feed(cache, (q, k, v), t, t + 1) for t in range(16)]
    wanted = expected(q, k, v, sink=3, window=4, table=table)
    torch.testing.assert_close(torch.cat(out, dim=2), wanted)


def test_wrong_use():
    with pytest.raises(ValueError, match="rope has 6 rows"):
        RollingCache(**SIZES, sink=2, window=5, slack=4, rope=rope_table((6,), 4))
    with pytest.raises(ValueError, match="window 0"):
        RollingCache(**SIZES, window=0)
    with pytest.raises(ValueError, match="6 tokens at once exceed the 5"):
        RollingCache(**SIZES, window=8, slack=4).reserve(6)


def ema(**options):
    return EMASinkCache(**SIZES, rope=rope_table((6,), 4), **{"sink": 2, "window": 6, **options})


def test_what_leaves_is_blended_into_the_sinks():
    _, k, v = stream(10)
    cache = ema(alpha=0.75)
    for start in range(0, 10, 2):
        cache.reserve(2)
        for _ in range(2):  # a block is made twice, and evicts once
            out, values = cache.update(0, *(x[:, :, start : start + 2] for x in (k, v)))
            cache.rewind([start, start])
            cache.reserve(2)
    sink = k[:, :, :2]
    for start in (2, 4):
        sink = 0.75 * sink + 0.25 * k[:, :, start : start + 2]
    keys = torch.cat((sink, k[:, :, 6:]), dim=2)
    torch.testing.assert_close(cache.keys[0], keys)
    torch.testing.assert_close(out, turned(keys, rope_table((6,), 4)))
    assert values.shape == (2, 2, 6, 4) and cache.starts == 4 and cache.lengths == [10, 10]
    assert torch.equal(cache.query_rope, rope_table((6,), 4)[4:6])


def test_blocks_of_another_length_overwrite():
    _, k, v = stream(9)
    cache = ema(alpha=0.75)
    for start, stop in ((0, 2), (2, 6), (6, 9)):
        cache.reserve(stop - start)
        cache.update(0, k[:, :, start:stop], v[:, :, start:stop])
    wanted = k[:, :, [2, 3, 5, 6, 7, 8]]
    assert torch.equal(cache.keys[0], wanted)


def test_wrong_use_of_ema_sinks():
    cache = ema()
    for _ in range(2):
        cache.reserve(4) if not cache.lengths[0] else cache.reserve(3)
    assert cache.lengths == [7, 7]
    with pytest.raises(ValueError, match="can't go back before 4"):
        cache.rewind([3, 3])
    with pytest.raises(ValueError, match="must be equal"):
        cache.rewind([5, 6])
    with pytest.raises(ValueError, match="exceed the window's 4"):
        cache.reserve(5)
    with pytest.raises(ValueError, match="sink 6 must be below window 6"):
        ema(sink=6)
