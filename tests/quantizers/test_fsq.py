import pytest
import torch

from studio.quantizers.fsq import FiniteScalarQuantizer

LEVELS = [[8, 8, 8, 8], [8, 8, 8, 5, 5, 5], [3, 4]]


@pytest.mark.parametrize("levels", LEVELS)
def test_every_code_survives_the_way_there_and_back(levels):
    quantizer = FiniteScalarQuantizer(levels)
    indices = torch.arange(quantizer.codebook_size)[:: max(1, quantizer.codebook_size // 4096)]
    digits = quantizer.digits(indices)
    basis = [1]
    for n in levels[:-1]:
        basis.append(basis[-1] * n)
    assert torch.equal((digits * torch.tensor(basis)).sum(-1), indices)
    half = torch.tensor(levels) // 2
    assert torch.equal(quantizer.lookup(indices), (digits - half).float() / half)


@pytest.mark.parametrize("levels", LEVELS)
def test_quantized_vectors_are_the_rows_of_their_ids(levels):
    quantizer = FiniteScalarQuantizer(levels)
    out = quantizer(torch.randn(50, 7, len(levels)) * 3)
    assert out.indices.shape == (50, 7)
    assert torch.allclose(out.quantized, quantizer.lookup(out.indices), atol=1e-6)
    assert out.loss == 0


def test_all_levels_are_reached():
    quantizer = FiniteScalarQuantizer([8, 5])
    out = quantizer(torch.linspace(-6, 6, 400)[:, None].expand(-1, 2).contiguous())
    digits = quantizer.digits(out.indices)
    assert set(digits[:, 0].tolist()) == set(range(8))
    assert set(digits[:, 1].tolist()) == set(range(5))


def test_the_gradient_passes_straight_through():
    quantizer = FiniteScalarQuantizer([8, 8])
    z = torch.zeros(3, 2, requires_grad=True)
    quantizer(z).quantized.sum().backward()
    expected = torch.autograd.functional.jacobian(lambda t: quantizer.bound(t) / 4, torch.zeros(2))
    assert torch.allclose(z.grad[0], expected.sum(0), atol=1e-6)


def test_levels_below_two_are_refused():
    with pytest.raises(ValueError, match="levels \\[8, 1\\] must hold numbers >= 2"):
        FiniteScalarQuantizer([8, 1])
