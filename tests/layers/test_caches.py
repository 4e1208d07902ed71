from functools import partial

import pytest
import torch

from studio.layers.caches import CACHES, find_cache, is_rolling
from studio.layers.rolling_cache import RollingCache


@pytest.mark.parametrize("name", sorted(CACHES))
def test_every_cache_has_the_one_interface(name):
    cache = find_cache(name)(
        num_layers=1,
        batch_size=2,
        num_heads=1,
        max_length=16,
        head_dim=8,
        dtype=torch.float32,
        device="cpu",
    )
    new = torch.randn(2, 1, 3, 8, generator=torch.Generator().manual_seed(0))
    assert cache.reserve(3) == 0 and cache.max_tokens >= 3
    keys, values = cache.update(0, new, new, q=new, mask=None)
    assert keys.shape == values.shape and keys.dtype == torch.float32
    assert torch.equal(keys[:, :, :3], new)
    cache.rewind([3, 1])
    assert cache.lengths == [3, 1] and cache.reserve(1).tolist() == [3, 1]
    assert cache.nbytes > 0 and isinstance(cache.in_order, bool) and not cache.turns_keys


def test_names_and_makers():
    assert is_rolling(find_cache("rolling")) and not is_rolling(find_cache("int4"))
    assert is_rolling(find_cache(partial(RollingCache, window=8)))
    with pytest.raises(ValueError, match="cache 'int3' must be one of static, rolling, int8"):
        find_cache("int3")
