"""Caches by name: what a run's option `cache` may say."""

from collections.abc import Callable
from functools import partial

from studio.layers.cache import Cache, StaticCache
from studio.layers.quantized_cache import QuantizedCache
from studio.layers.rolling_cache import RollingCache

# "int4" is ZipCache's released setting: 60 % of the tokens at 4 bits, the rest at 2.
CACHES: dict[str, Callable[..., Cache]] = {
    "static": StaticCache,
    "rolling": RollingCache,
    "int8": partial(QuantizedCache, salient_bits=8, bits=8),
    "int4": partial(QuantizedCache, salient_bits=4, bits=2, salient_share=0.6),
    "int2": partial(QuantizedCache, salient_bits=4, bits=2, salient_share=0.2),
}
CacheOption = str | Callable[..., Cache]


def find_cache(option: CacheOption) -> Callable[..., Cache]:
    """What makes a cache, called with the arguments of `StaticCache`.

    Args:
        option: a name in `CACHES`; or what is given back as it is, such as
            `functools.partial(RollingCache, window=64)`.

    Raises:
        ValueError: an unknown name.
    """
    if callable(option):
        return option
    if option not in CACHES:
        raise ValueError(f"cache {option!r} must be one of {', '.join(CACHES)}")
    return CACHES[option]


def is_rolling(make: Callable[..., Cache]) -> bool:
    """Whether what `find_cache` gave makes rolling caches, which are told how many sinks and, for
    positions that count slots, the rotary table."""
    return (make.func if isinstance(make, partial) else make) is RollingCache
