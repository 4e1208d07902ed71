"""MaskGIT-VQGAN: shapes, ranges, sizes that differ, saving."""

import pytest
import torch

from studio.layers.convolution import MaskGITResidualBlock
from studio.tokenizers.maskgit import MaskGITTokenizer


def tiny():
    torch.manual_seed(0)
    sizes = {"base_channels": 32, "channel_multipliers": (1, 2), "num_res_blocks": 1}
    codes = {"codebook_size": 20, "codebook_dim": 8}
    return MaskGITTokenizer(image_size=8, **sizes, **codes).eval()


def images(height=8, width=8):
    g = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, height, width, generator=g) * 2 - 1


def test_shapes_of_any_size():
    tokenizer = tiny()
    encoded = tokenizer.encode(images(6, 10))
    assert encoded.tokens.shape == (2, 15) and encoded.layout.segments[0].shape == (3, 5)
    assert encoded.latents.shape == encoded.quantized.shape == (2, 8, 3, 5)
    decoded = tokenizer.decode(encoded.tokens, layout=encoded.layout)
    assert decoded.shape == (2, 3, 6, 10)
    assert torch.allclose(decoded, tokenizer.pixels(encoded.quantized), atol=1e-6)
    assert tokenizer.layout.num_tokens == 16


def test_bad_input_is_refused():
    tokenizer = tiny()
    with pytest.raises(ValueError, match="image size 7x8 must be a multiple of 2"):
        tokenizer.encode(images(7, 8))
    with pytest.raises(ValueError, match="num_tokens 3: MaskGITTokenizer decodes all 16"):
        tokenizer.decode(tokenizer.encode(images()).tokens, num_tokens=3)


def test_the_shortcut_is_fed_by_the_branch():
    block = MaskGITResidualBlock(32, 64)
    torch.nn.init.zeros_(block.conv2.weight)  # a silent branch leaves nothing of the input
    assert torch.equal(block(torch.randn(1, 32, 4, 4)), torch.zeros(1, 64, 4, 4))


def test_every_parameter_learns():
    tokenizer = tiny().train()
    reconstruction, encoded = tokenizer(images())
    (reconstruction.square().mean() + encoded.loss).backward()
    assert [name for name, p in tokenizer.named_parameters() if p.grad is None] == []


def test_save_and_load(tmp_path):
    tokenizer = tiny()
    tokenizer.save_pretrained(tmp_path)
    loaded = MaskGITTokenizer.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.reconstruct(images()), tokenizer.reconstruct(images()))
