"""Sinks that blend what leaves, in front of every block's cache."""

import pytest
import torch

from studio.layers.cache import StaticCache
from studio.layers.rolling_cache import EMASinkCache
from studio.layers.rope import rope_table, rotate
from studio.layers.sink_memory import SinkMemory

SIZES = dict(num_layers=2, batch_size=2, num_heads=3, head_dim=4, dtype=torch.float32, device="cpu")
FRONT = 2  # rows of a condition


def blocks(count, length):
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(2, 2, 2, 3, length, 4, generator=rng) for _ in range(count)]  # k|v, layers


def turned(x, table):
    return rotate(x.transpose(1, 2), table).transpose(1, 2)


def test_blends_as_reward_forcing_does():
    """Its rolling cache keeps keys unturned and blends what leaves; the sinks are the same."""
    table, memory = rope_table((9,), 4), SinkMemory(torch.arange(3), alpha=0.7)
    rolling = EMASinkCache(**SIZES, sink=3, window=6, rope=table, alpha=0.7)
    for keys, values in blocks(4, 3):
        cache = StaticCache(**SIZES, max_length=3 + FRONT + 3)
        memory.fill(cache)
        rows = len(memory) + FRONT
        cache.reserve(rows - cache.lengths[0] + 3)
        rolling.reserve(3)
        for layer in range(2):
            k, v = keys[layer], values[layer]
            front = torch.zeros(2, 3, rows - len(memory), 4)
            cache.update(
                layer, torch.cat((front, turned(k, table[:3])), 2), torch.cat((front, v), 2)
            )
            rolling.update(layer, k, v)
        memory.blend(cache, rows)
    rolling.reserve(3)  # the last block leaves
    cache = StaticCache(**SIZES, max_length=8)
    memory.fill(cache)
    assert cache.lengths == [3, 3] and len(memory) == 3
    for layer in range(2):
        wanted = turned(rolling.keys[layer, :, :, :3], table[:3])
        torch.testing.assert_close(cache.keys[layer, :, :, :3], wanted)
        torch.testing.assert_close(cache.values[layer, :, :, :3], rolling.values[layer, :, :, :3])


def test_is_as_large_after_many_blocks():
    memory, sizes = SinkMemory(torch.tensor([0, 4])), []
    for block in blocks(5, 6):
        cache = StaticCache(**SIZES, max_length=2 + 6)
        memory.fill(cache)
        rows = len(memory)
        cache.reserve(6)
        for layer in range(2):
            cache.update(layer, *block[:, layer])
        memory.blend(cache, rows)
        sizes.append(memory.nbytes)
    assert set(sizes) == {2 * 2 * 2 * 3 * 2 * 4 * 4}


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="0 places"):
        SinkMemory(torch.tensor([], dtype=torch.int64))
    with pytest.raises(ValueError, match="alpha 2"):
        SinkMemory(torch.arange(2), alpha=2)
    memory = SinkMemory(torch.arange(3))
    cache = StaticCache(**SIZES, max_length=8)
    cache.reserve(2)
    with pytest.raises(ValueError, match="token 2 was not fed"):
        memory.blend(cache, 0)
    cache.reserve(2)
    memory.blend(cache, 0)
    with pytest.raises(ValueError, match="another batch"):
        memory.fill(StaticCache(**{**SIZES, "batch_size": 1}, max_length=8))
