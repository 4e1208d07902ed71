"""Random numbers that depend on a sample and a place, and on nothing else.

Every sample has one key of 63 bits, drawn from its `torch.Generator`. The noise for a key, a
position, a step and a purpose is the output of SplitMix64 (Fast Splittable Pseudorandom Number
Generators, 2014, the 64-bit finalizer of David Stafford's mix 13) as a counter: value v is
`mix(state + (v + 1) * golden)`. So a result never depends on the rest of the batch, on the number
of tokens made at a time or on their order. Values are made in float64 and handed out as float32,
since a Gumbel value from a 24-bit uniform is cut off at 16.6, which favours likely tokens
(2409.02908).

Left out on purpose: a `torch.Generator` for every place. Its Mersenne Twister takes 32 bits of a
seed only, so that two places out of some ten thousand would share their noise.
"""

from collections.abc import Iterator

import numpy as np
import torch

# Purposes: which token, how sure, which given tokens are kept; and of speculation: whether a draft
# is accepted, what replaces one that is not, which token is drafted, what fills a new place,
# whether a drafter head keeps a draft, and what replaces that.
TOKEN, CONFIDENCE, KEEP, ACCEPT, REPLACE, DRAFT, FILL, HEAD_KEEP, HEAD_REPLACE = range(9)

_MASK = (1 << 64) - 1
_CHUNK = 1 << 15  # values at a time, so that they stay in the processor's cache
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def sample_keys(generators: list[torch.Generator]) -> list[int]:
    """One key of 63 bits a sample: the next draw of each generator."""
    keys = []
    for generator in generators:
        draw = torch.randint(
            2**63 - 1, (1,), generator=generator, device=generator.device, dtype=torch.int64
        )
        keys.append(int(draw))
    return keys


def mix(value: int) -> int:
    """SplitMix64's finalizer: 64 bits to 64 bits, one to one."""
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def stream_state(key: int, *place: int) -> int:
    """Where the stream of a key and a place (position, step, purpose) begins."""
    state = mix((key + _GOLDEN) & _MASK)
    for value in place:
        state = mix((state + (value + 1) * _GOLDEN) & _MASK)
    return state


def stream_states(keys: list[int] | np.ndarray, *place: int | np.ndarray) -> np.ndarray:
    """`stream_state` for many places at a time, uint64: keys and places broadcast together."""
    golden = np.uint64(_GOLDEN)
    with np.errstate(over="ignore"):  # wrapping around is what is wanted
        state = _mix(np.asarray(keys, dtype=np.uint64) + golden)
        for value in place:
            state = _mix(state + (np.asarray(value, dtype=np.uint64) + np.uint64(1)) * golden)
    return state


def _mix(bits: np.ndarray) -> np.ndarray:
    """`mix` on uint64."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_FIRST)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_SECOND)
    return bits ^ (bits >> np.uint64(31))


def uniform(states: list[int] | np.ndarray, count: int) -> np.ndarray:
    """The first `count` numbers of every stream, (R, count) float64, strictly between 0 and 1."""
    counter = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)  # (count,)
    bits = np.array(states, dtype=np.uint64)[:, None] + counter  # (R, count)
    high = np.empty_like(bits)
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        bits ^= np.right_shift(bits, np.uint64(shift), out=high)
        bits *= np.uint64(factor)
    bits ^= np.right_shift(bits, np.uint64(31), out=high)
    bits >>= np.uint64(11)
    values = bits.astype(np.float64)
    values += 0.5
    values *= 2.0**-53
    return values


def gumbel(
    states: list[int] | np.ndarray, count: int, *, device: torch.device | None = None
) -> torch.Tensor:
    """Standard Gumbel noise of every stream, (R, count) float32, made on the CPU and moved to
    `device`."""
    noise = np.empty((len(states), count), dtype=np.float32)
    rows = max(1, _CHUNK // count)
    for start in range(0, len(states), rows):
        values = uniform(states[start : start + rows], count)
        for _ in range(2):  # -log(-log(u))
            np.negative(np.log(values, out=values), out=values)
        noise[start : start + rows] = values
    return torch.from_numpy(noise).to(device)


def token_noise(
    keys: list[int], position: int, count: int, *, device: torch.device | None = None
) -> torch.Tensor:
    """Noise for the token at one position of every sample, (B, V): all of plain sampling's
    randomness."""
    return gumbel([stream_state(k, position, 0, TOKEN) for k in keys], count, device=device)


def token_noises(
    keys: list[int], positions: range, count: int, *, device: torch.device | None = None
) -> Iterator[torch.Tensor]:
    """`token_noise` (B, V) of one position after the other, made several at a time."""
    ahead = max(1, _CHUNK // (len(keys) * count))
    for start in range(0, len(positions), ahead):
        places = np.array(positions[start : start + ahead])[:, None]  # (P, 1)
        states = stream_states(keys, places, 0, TOKEN)  # (P, B)
        yield from gumbel(states.ravel(), count, device=device).view(*states.shape, count)


def place_noise(
    keys: list[int],
    count: int,
    *,
    step: int,
    purpose: int,
    device: torch.device | None = None,
) -> torch.Tensor:
    """One Gumbel value for each of the first `count` positions of every sample, (B, N)."""
    return gumbel([stream_state(k, 0, step, purpose) for k in keys], count, device=device)
