import pytest
import torch

from studio.layers.rolling_cache import EMASinkCache
from studio.layers.rope import rope_table
from studio.layers.stream_attention import StreamSelfAttention


def cache_of(window, dim=12):
    return EMASinkCache(
        num_layers=1,
        batch_size=1,
        num_heads=2,
        head_dim=dim // 2,
        dtype=torch.float32,
        device="cpu",
        sink=4,
        window=window,
        rope=rope_table((window // 4, 2, 2), dim // 2),
    )


@torch.no_grad()
def test_a_block_sees_itself_both_ways_and_what_came_before():
    layer = StreamSelfAttention(12, 2)
    x = torch.randn(1, 8, 12, generator=torch.Generator().manual_seed(0))
    one, cache = cache_of(12), cache_of(12)
    one.reserve(8)
    whole = layer(x, cache=one)
    cache.reserve(4)
    first = layer(x[:, :4], cache=cache)
    cache.reserve(4)
    second = layer(x[:, 4:], cache=cache)
    torch.testing.assert_close(second, whole[:, 4:])
    assert (first - whole[:, :4]).abs().max() > 1e-4  # it could not see the second block
    with pytest.raises(ValueError, match="num_heads 5"):
        StreamSelfAttention(12, 5)
