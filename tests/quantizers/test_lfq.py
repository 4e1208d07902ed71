"""Lookup-free quantizer against brute force and against vectors recorded from Open-MAGVIT2."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from studio.quantizers.lfq import LookupFreeQuantizer, bit_entropy, code_entropy, from_bits, to_bits

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "parity" / "lfq" / "io.safetensors"


def test_bits_and_indices():
    indices = torch.arange(2**9)
    assert torch.equal(from_bits(to_bits(indices, 9)), indices)
    assert to_bits(torch.tensor(1), 3).tolist() == [1, 0, 0]  # the first dimension counts least
    quantizer = LookupFreeQuantizer(4)
    out = quantizer(torch.tensor([[0.3, -2.0, 0.0, 1e-9]]))
    assert out.indices.tolist() == [1 + 8] and out.quantized.tolist() == [[1, -1, -1, 1]]
    assert torch.equal(quantizer.lookup(out.indices), out.quantized)


def test_entropies_against_the_listed_codebook():
    z = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    codes = 2.0 * to_bits(torch.arange(64), 6) - 1
    share = (2 * z @ codes.T / 0.7).softmax(1)
    assert torch.allclose(bit_entropy(z, 0.7), -(share * share.log()).sum(1).mean(), atol=1e-5)
    mean = share.mean(0)
    assert torch.allclose(code_entropy(z, 0.7, 6), -(mean * (mean + 1e-5).log()).sum(), atol=1e-5)
    assert code_entropy(z, 0.7, 2) > code_entropy(z, 0.7, 6)


def test_gradient_goes_straight_through_and_losses_are_weighted():
    z = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    LookupFreeQuantizer(5)(z).quantized.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))
    out = LookupFreeQuantizer(5, commitment=2.0, entropy_weight=3.0, diversity=0.5)(z)
    s = out.stats
    expected = 2 * s["commitment"] + 3 * (s["sample_entropy"] - 0.5 * s["code_entropy"])
    assert torch.allclose(out.loss, expected)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="bits 0 must lie"):
        LookupFreeQuantizer(0)
    with pytest.raises(ValueError, match=r"sizes \(1, 2\) must sum to the 4 bits"):
        LookupFreeQuantizer(4).factorize(torch.zeros(3, dtype=torch.int64), (1, 2))


@pytest.mark.skipif(not RECORDED.is_file(), reason="../shared/parity is not there")
@pytest.mark.parametrize("name", ["image", "video"])
def test_recorded_vectors(name):
    recorded = load_file(RECORDED)
    z = recorded[f"input.{name}"].movedim(1, -1)
    quantizer = LookupFreeQuantizer(10, commitment=0.25, entropy_weight=1.0)
    out = quantizer(z)
    assert torch.equal(out.quantized.movedim(-1, 1), recorded[f"{name}.quantized"])
    assert torch.equal(out.indices.flatten(), recorded[f"{name}.indices"])
    assert torch.equal(quantizer.lookup(torch.arange(16)), recorded["codebook_first16"])
    if name == "video":
        scalars = [recorded[f"train.scalar{i}"].item() for i in range(4)]
        s = out.stats
        ours = [s["sample_entropy"] - s["code_entropy"], *s.values()]
        for mine, theirs in zip(ours, scalars, strict=False):
            assert abs(float(mine) - theirs) < 1e-5
    else:
        pre, post = quantizer.factorize(out.indices.flatten(), (4, 6))
        assert torch.equal(pre, recorded["factorized.pre"])
        assert torch.equal(post, recorded["factorized.post"])
