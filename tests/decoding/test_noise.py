import numpy as np
import pytest
import torch

from studio.decoding import noise
from tests.decoding.toy_runs import seeded


def test_mix_is_splitmix64():
    """The published test vector: seed 1234567 gives these first outputs."""
    golden = 0x9E3779B97F4A7C15
    out = [noise.mix((1234567 + (i + 1) * golden) & (2**64 - 1)) for i in range(3)]
    assert out == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_uniform_is_the_stream_of_mix():
    state, golden = 987654321, 0x9E3779B97F4A7C15
    want = [
        ((noise.mix((state + (i + 1) * golden) & (2**64 - 1)) >> 11) + 0.5) * 2.0**-53
        for i in range(5)
    ]
    assert noise.uniform([state], 5)[0].tolist() == want


def test_keys_are_63_bits_and_depend_on_their_generator_alone():
    keys = noise.sample_keys(seeded(1, 2, 3))
    assert len(set(keys)) == 3 and all(0 <= k < 2**63 for k in keys)
    assert noise.sample_keys(seeded(2)) == keys[1:2]
    one = seeded(7)[0]
    assert noise.sample_keys([one, one])[0] == noise.sample_keys(seeded(7))[0]


def test_places_differ_and_repeat():
    states = {
        noise.stream_state(k, n, s, p)
        for k in (1, 2)
        for n in range(4)
        for s in (0, 1)
        for p in (0, 1)
    }
    assert len(states) == 32
    assert noise.stream_state(5, 1, 2, 0) == noise.stream_state(5, 1, 2, 0)


def test_a_row_does_not_depend_on_the_others():
    keys = noise.sample_keys(seeded(1, 2, 3))
    together = noise.token_noise(keys, 9, 1000)
    assert together.shape == (3, 1000) and together.dtype == torch.float32
    for i, key in enumerate(keys):
        assert torch.equal(noise.token_noise([key], 9, 1000)[0], together[i])
    many = noise.gumbel(list(range(100)), 1000)  # more than one chunk
    assert torch.equal(many[71], noise.gumbel([71], 1000)[0])


def test_positions_made_ahead_have_the_same_noise():
    keys = noise.sample_keys(seeded(1, 2, 3))
    for count in (7, 5000):  # many at a time; one or two at a time
        ahead = list(noise.token_noises(keys, range(3, 12), count))
        assert len(ahead) == 9
        for position, made in zip(range(3, 12), ahead, strict=True):
            assert torch.equal(made, noise.token_noise(keys, position, count))


def test_noise_is_gumbel():
    values = noise.gumbel([noise.stream_state(3, n) for n in range(50)], 4000)
    assert values.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert values.var().item() == pytest.approx(np.pi**2 / 6, abs=0.03)
    assert values.isfinite().all()


def test_many_states_at_a_time_are_the_same_states():
    keys, places = [1, 2**63 - 1, 77], np.arange(4)
    many = noise.stream_states(np.array(keys, dtype=np.uint64)[:, None], places, 5, noise.DRAFT)
    assert many.tolist() == [
        [noise.stream_state(k, n, 5, noise.DRAFT) for n in range(4)] for k in keys
    ]
    assert np.array_equal(noise.uniform(many[0], 3), noise.uniform(many[0].tolist(), 3))
