import pytest
import torch

from studio.layers.packing import PackedTokens, RecentTokens, pack, unpack


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_codes_come_back_from_few_bytes(bits):
    codes = torch.randint(2**bits, (3, 16), generator=torch.Generator().manual_seed(0))
    packed = pack(codes.to(torch.uint8), bits)
    assert packed.dtype == torch.uint8 and packed.shape == (3, 16 * bits // 8)
    assert torch.equal(unpack(packed, bits), codes.to(torch.uint8))


def test_the_first_code_lies_lowest():
    assert pack(torch.tensor([1, 2, 3, 0], dtype=torch.uint8), 2).tolist() == [0b00111001]


@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize("bits", [(8, 4), (4, 2)])
def test_errors_stay_within_half_a_step(keys, bits):
    x = draw(1, 2, 3, 10, 8)  # (L, R, H, G, D)
    x[..., 2] *= 30  # a channel that stands out, as those of keys do
    packed = PackedTokens((1, 2, 2, 3, 10, 8), 4, bits, "cpu", keys=keys)
    rows, blocks = torch.tensor([0, 1]), torch.tensor([1, 0])
    packed.write(rows, blocks, x)
    read = packed.read(0, 2)[rows, blocks]  # (R, H, G, D)
    if keys:
        span = x[0].amax(-2, keepdim=True) - x[0].amin(-2, keepdim=True)  # per channel
    else:
        scale = x[0].abs().amax(-2, keepdim=True).sqrt()
        even = x[0] / scale
        span = (even.amax((1, 3), keepdim=True) - even.amin((1, 3), keepdim=True)) * scale
    for part, b in ((slice(0, 4), bits[0]), (slice(4, None), bits[1])):
        error = (read - x[0])[:, :, part].abs()
        allowed = (span if keys else span[:, :, part]) * 0.58 / (2**b - 1) + 0.02
        assert (error <= allowed).all()
        assert (error > span[:, :, :1] * 0.1 / (2**b - 1)).any()  # really rounded


def test_recent_tokens():
    recent = RecentTokens((2, 2, 1, 4, 3), "cpu")
    rows, x = torch.arange(2).unsqueeze(1), draw(2, 1, 2, 3)
    recent.write(1, rows, torch.tensor([[0, 1], [2, 3]]), x)
    read = recent.read((1, slice(None), slice(None), slice(0, 4)))  # (B, H, 4, D)
    torch.testing.assert_close(read[0, :, :2], x[0], atol=0.02, rtol=0)
    torch.testing.assert_close(read[1, :, 2:], x[1], atol=0.02, rtol=0)
    recent.drop(torch.tensor([1]), 2)
    wide = recent.resized(6)
    read = wide.read((1, slice(None), slice(None), slice(0, 2)))
    torch.testing.assert_close(read, x, atol=0.02, rtol=0)
    assert wide.nbytes > recent.nbytes
