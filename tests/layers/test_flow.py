import itertools

import pytest
import torch

from studio.layers.flow import (
    FlowEstimator,
    cosine_times,
    fixed_noise,
    integrate,
    straight_path,
)


def test_a_path_leads_from_noise_to_the_target():
    target, noise = torch.ones(2, 3, 4), torch.randn(2, 3, 4)
    start, velocity = straight_path(target, noise, torch.zeros(2))
    end, _ = straight_path(target, noise, torch.ones(2))
    assert torch.equal(start, noise) and torch.allclose(end, target, atol=1e-5)
    made = integrate(lambda x, t: velocity, noise, steps=7)
    assert torch.allclose(made, target, atol=1e-5)


def test_steps_are_dense_at_first():
    times = cosine_times(10)
    gaps = [after - now for now, after in itertools.pairwise(times)]
    assert len(times) == 11 and times[0] == 0 and times[-1] == 1 and gaps == sorted(gaps)


def test_noise_is_the_same_for_every_length():
    short, long = fixed_noise(3, 5, torch.device("cpu")), fixed_noise(3, 50, torch.device("cpu"))
    assert torch.equal(short, long[..., :5]) and long.std() == pytest.approx(1, abs=0.2)


def test_the_network_is_told_time_and_context():
    torch.manual_seed(0)
    network = FlowEstimator(3, 2, 8, 16, 2)
    x, context = torch.randn(2, 3, 6), torch.randn(2, 2, 6)
    out = network(x, torch.tensor([0.1, 0.1]), context)
    assert out.shape == x.shape
    assert not torch.allclose(network(x, torch.tensor([0.9, 0.1]), context)[0], out[0])
    assert torch.allclose(network(x, torch.tensor([0.9, 0.1]), context)[1], out[1], atol=1e-6)
    assert not torch.allclose(network(x, torch.tensor([0.1, 0.1]), 0 * context), out)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
