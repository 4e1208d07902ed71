import pytest
import torch

from studio.tokenizers.grid import GridTokenizer

TINY = {
    "image_size": 32,
    "base_channels": 32,
    "channel_multipliers": (1, 2),
    "num_res_blocks": 1,
    "z_channels": 16,
}


def make(**changes) -> GridTokenizer:
    torch.manual_seed(0)
    return GridTokenizer(**{**TINY, **changes}).eval()


KINDS = [
    {"quantizer": "vq", "codebook_size": 64, "codebook_dim": 8},
    {"quantizer": "fsq", "levels": (5, 5, 4), "patch_size": 4},
]


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_layout(kind):
    model = make(**kind)
    side = 32 // model.reduction
    assert model.layout.num_tokens == side * side
    encoded = model.encode(torch.rand(2, 3, 32, 32) * 2 - 1)
    assert encoded.tokens.shape == (2, side * side)
    assert encoded.tokens.max() < model.layout.vocab_size
    assert model.decode(encoded.tokens).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_tokens_equals_decoding_what_the_quantizer_gave(kind):
    model = make(**kind)
    encoded = model.encode(torch.rand(2, 3, 32, 32) * 2 - 1)
    straight = model.pixels(encoded.quantized)
    assert torch.allclose(model.decode(encoded.tokens), straight, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_another_size_needs_its_own_layout(kind):
    model = make(**kind)
    images = torch.rand(1, 3, 48, 16) * 2 - 1
    encoded = model.encode(images)
    assert model.decode(encoded.tokens, layout=encoded.layout).shape == images.shape
    with pytest.raises(ValueError, match="multiple of"):
        model.encode(torch.zeros(1, 3, 33, 32))


@pytest.mark.parametrize("kind", KINDS)
def test_alone_equals_in_a_batch(kind):
    model = make(**kind)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    assert torch.equal(model.encode(images).tokens[1:2], model.encode(images[1:2]).tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_reaches_every_parameter(kind):
    model = make(**kind).train()
    decoded, encoded = model(torch.rand(4, 3, 32, 32) * 2 - 1)
    (decoded.square().mean() + encoded.loss).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None]
    assert not silent


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("low_memory", [True, False])
def test_save_and_load(kind, low_memory, tmp_path):
    model = make(**kind)
    model.save_pretrained(tmp_path)
    again = GridTokenizer.from_pretrained(tmp_path, low_cpu_mem_usage=low_memory)
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(model.reconstruct(images), again.reconstruct(images))


def test_a_grid_has_no_prefix():
    model = make(**KINDS[1])
    tokens = torch.zeros(1, model.layout.num_tokens, dtype=torch.int64)
    with pytest.raises(ValueError, match="num_tokens 3"):
        model.decode(tokens, num_tokens=3)


def test_an_unknown_quantizer_is_named():
    with pytest.raises(ValueError, match="quantizer 'rvq'"):
        make(quantizer="rvq")


def test_the_rate_of_a_picture():
    model = make(quantizer="fsq", levels=(8, 8), patch_size=4)
    rate = model.rate()
    assert rate.tokens == 16 and rate.bits == 16 * 6
    assert rate.bits_per_unit == pytest.approx(96 / 32**2)
