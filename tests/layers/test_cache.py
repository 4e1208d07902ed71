import pytest
import torch

from studio.layers.cache import StaticCache


def make(rows=2):
    return StaticCache(
        num_layers=2,
        batch_size=rows,
        num_heads=1,
        max_length=6,
        head_dim=2,
        dtype=torch.float32,
        device="cpu",
    )


def write(cache, value, count):
    """Fills `count` slots of every row with value, value + 1, ... in both layers."""
    starts = cache.reserve(count)
    new = value + torch.arange(count).float()
    new = new.view(1, 1, count, 1).expand(len(cache.lengths), 1, count, 2)
    for layer in (0, 1):
        keys, values = cache.update(layer, new + 100 * layer, -new)
    return starts, keys, values


def test_equal_rows_write_slices():
    cache = make()
    starts, keys, values = write(cache, 1, 3)
    assert starts == 0 and keys.shape == (2, 1, 3, 2)
    starts, keys, values = write(cache, 4, 1)
    assert starts == 3 and cache.lengths == [4, 4]
    assert keys[1, 0, :, 0].tolist() == [101, 102, 103, 104]
    assert values[0, 0, :, 1].tolist() == [-1, -2, -3, -4]


def test_rows_of_different_lengths():
    cache = make()
    write(cache, 1, 4)
    cache.rewind([1, 3])
    starts, keys, values = write(cache, 7, 2)
    assert starts.tolist() == [1, 3] and cache.lengths == [3, 5] and cache.total == 5
    assert keys[0, 0, :3, 0].tolist() == [101, 107, 108]
    assert values[1, 0, :5, 0].tolist() == [-1, -2, -3, -7, -8]
    cache.rewind([3, 3])
    assert write(cache, 9, 1)[0] == 3


def test_wrong_use():
    cache = make()
    write(cache, 0, 5)
    with pytest.raises(ValueError, match="max_length 6"):
        cache.reserve(2)
    assert cache.lengths == [5, 5]
    with pytest.raises(ValueError, match="length 6 of row 1"):
        cache.rewind([5, 6])
