import torch

from studio.layers.norms import RMSNorm


def test_matches_the_formula():
    norm = RMSNorm(8, eps=1e-3)
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


def test_half_precision_takes_float32_statistics_and_casts_before_the_weight():
    norm = RMSNorm(8).bfloat16()
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    x = (300 * torch.randn(2, 8, generator=torch.Generator().manual_seed(1))).bfloat16()
    wide = x.float() / (x.float().square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert torch.equal(norm(x), wide.bfloat16() * norm.weight)
