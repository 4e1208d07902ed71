"""Residual quantizer: every level makes the error smaller, whatever the levels are."""

from itertools import pairwise

import pytest
import torch

from studio.quantizers.fsq import FiniteScalarQuantizer
from studio.quantizers.lfq import LookupFreeQuantizer
from studio.quantizers.residual import ResidualQuantizer
from studio.quantizers.vq import VectorQuantizer


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trained():
    options = {"l2_norm": False, "kmeans_start": True, "ema_decay": 0.9}
    quantizer = ResidualQuantizer([VectorQuantizer(16, 4, **options) for _ in range(4)])
    for step in range(3):
        quantizer(noise(400, 4, seed=step))
    return quantizer.eval()


@pytest.mark.parametrize("kind", ["vq", "lfq", "fsq"])
def test_error_falls_with_each_level(kind):
    scales = [0.5**k for k in range(4)]
    if kind == "vq":
        quantizer = trained()
    elif kind == "lfq":
        quantizer = ResidualQuantizer([LookupFreeQuantizer(4) for _ in range(4)], scales=scales)
    else:
        levels = [FiniteScalarQuantizer([5, 5, 5, 5]) for _ in range(4)]
        quantizer = ResidualQuantizer(levels, scales=scales)
    z = noise(300, 4, seed=7)
    if kind != "vq":
        z = z.clamp(-0.9, 0.9)
    out = quantizer(z)
    errors = [(quantizer.lookup(out.indices[..., :k]) - z).norm(dim=1).mean() for k in range(1, 5)]
    assert all(a > b for a, b in pairwise(errors))
    assert torch.allclose(torch.stack(errors), out.stats["residual_norm"], atol=1e-5)


def test_levels_indices_and_gradient():
    quantizer = trained()
    z = noise(2, 5, 4, seed=3).requires_grad_()
    out = quantizer(z)
    assert out.indices.shape == (2, 5, 4) and quantizer.codebook_size == 16
    assert torch.allclose(quantizer.lookup(out.indices), out.quantized, atol=1e-6)
    short = quantizer(z, num_levels=2)
    assert torch.equal(short.indices, out.indices[..., :2])
    out.quantized.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))
    rest = z - quantizer.levels[0].lookup(out.indices[..., 0])
    assert torch.equal(quantizer.levels[1](rest).indices, out.indices[..., 1])


def test_bad_levels_are_refused():
    with pytest.raises(ValueError, match=r"widths \[2, 3\]"):
        ResidualQuantizer([VectorQuantizer(4, 2), VectorQuantizer(4, 3)])
    with pytest.raises(ValueError, match="scales has 1 entries; levels has 2"):
        ResidualQuantizer([VectorQuantizer(4, 2), VectorQuantizer(4, 2)], scales=[1.0])
    with pytest.raises(ValueError, match="num_levels 5 must lie between 1 and 4"):
        trained()(noise(3, 4), num_levels=5)


def test_parallel_levels_see_their_share_of_the_channels():
    books = [VectorQuantizer(6, 7, l2_norm=False).eval() for _ in range(4)]
    for number, book in enumerate(books):
        generator = torch.Generator().manual_seed(number)
        book.embedding.data = torch.randn(6, 7, generator=generator)
    z = torch.randn(20, 7, generator=torch.Generator().manual_seed(9))
    out = ResidualQuantizer(books, parallel=3)(z)
    total = torch.zeros_like(z)
    for number, (start, stop) in enumerate([(0, 2), (2, 4), (4, 7)]):
        share = torch.zeros_like(z)
        share[:, start:stop] = z[:, start:stop]
        answer = books[number](share)
        assert torch.equal(out.indices[:, number], answer.indices)
        total += answer.quantized
    last = books[3](z - total)
    assert torch.equal(out.indices[:, 3], last.indices)
    assert torch.allclose(out.quantized, total + last.quantized, atol=1e-6)
    with pytest.raises(ValueError, match="parallel 5 must lie between 0 and 4"):
        ResidualQuantizer(books, parallel=5)
