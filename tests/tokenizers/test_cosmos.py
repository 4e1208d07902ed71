"""Cosmos: sizes, streaming in chunks, continuous latents, saving."""

import pytest
import torch

from studio.tokenizers.cosmos import OFFICIAL_SIZES, CosmosTokenizer

SIZES = {"base_channels": 4, "channel_multipliers": (1, 2, 2), "num_res_blocks": 1}


def tiny(**options):
    torch.manual_seed(0)
    return CosmosTokenizer(num_frames=9, image_size=16, **SIZES, **options).eval()


def clip(frames=17, height=32, width=16):
    g = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, frames, height, width, generator=g) * 2 - 1


@torch.no_grad()
def test_shapes_of_any_size():
    tokenizer = tiny()
    encoded = tokenizer.encode(clip())
    assert encoded.tokens.shape == (2, 6) and encoded.layout.segments[0].shape == (3, 2, 1)
    assert encoded.latents.shape == encoded.quantized.shape == (2, 6, 3, 2, 1)
    decoded = tokenizer.decode(encoded.tokens, layout=encoded.layout)
    assert decoded.shape == (2, 3, 17, 32, 16)
    torch.testing.assert_close(decoded, tokenizer.pixels(encoded.quantized))
    assert tokenizer.layout.num_tokens == 2
    image = tokenizer.encode(clip(1))
    assert image.layout.segments[0].shape == (1, 2, 1)
    assert tokenizer.reconstruct(clip(6, 19, 30)).shape == (2, 3, 6, 19, 30)


def test_rates_of_the_releases():
    with torch.device("meta"):
        tokenizer = CosmosTokenizer(**OFFICIAL_SIZES["cosmos-dv8x16x16"])
    rate = tokenizer.rate(size=(49, 704, 1280))
    assert rate.tokens == 7 * 44 * 80 and rate.bits == pytest.approx(15.966 * rate.tokens, rel=1e-4)
    assert rate.bits_per_unit == pytest.approx(15.966 / 2048 * 56 / 49, rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"levels": None, "latent_channels": 5}])
@torch.no_grad()
def test_chunks_are_the_whole(options):
    """Encoded and decoded piece by piece, however the pieces come, as the whole clip."""
    tokenizer = tiny(**options)
    whole = tokenizer.encode(clip(33))
    pieces = clip(33).split([2, 20, 1, 10], dim=2)
    parts = list(tokenizer.encode_stream(iter(pieces), chunk_frames=8))
    assert [part.layout.segments[0].shape[0] for part in parts] == [1, 1, 1, 1, 1]
    if whole.tokens is None:
        latents = torch.cat([part.latents for part in parts], 1)
    else:
        assert torch.equal(torch.cat([part.tokens for part in parts], 1), whole.tokens)
        latents = torch.cat([part.latents for part in parts], 2)
    torch.testing.assert_close(latents, whole.latents, atol=1e-4, rtol=0)
    values = whole.latents if whole.tokens is None else whole.tokens
    video = tokenizer.decode(values, layout=whole.layout)
    joined = torch.cat(list(tokenizer.decode_stream(parts)), 2)
    torch.testing.assert_close(joined, video, atol=1e-4, rtol=0)


@torch.no_grad()
def test_an_odd_end_is_filled_up():
    tokenizer = tiny()
    parts = list(tokenizer.encode_stream([clip(12)], chunk_frames=16))
    assert [part.layout.segments[0].shape[0] for part in parts] == [2, 1]
    whole = tokenizer.encode(tokenizer.fitted(clip(12)))
    assert torch.equal(torch.cat([part.tokens for part in parts], 1), whole.tokens)
    with pytest.raises(ValueError, match="the video has no frames"):
        list(tokenizer.encode_stream([]))


def test_bad_input_is_refused():
    tokenizer = tiny()
    with pytest.raises(ValueError, match="video of 8 frames must have 1 . a multiple of 8"):
        tokenizer.encode(clip(8))
    with pytest.raises(ValueError, match="video size 31x16 must be a multiple of 16"):
        tokenizer.encode(clip(9, 31))
    with pytest.raises(ValueError, match=r"must be \(B, 3, T, H, W\)"):
        tokenizer.encode(clip()[:, :, 0])
    with pytest.raises(ValueError, match="3 tokens given; the layout has 2"):
        tokenizer.decode(torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="num_tokens 1: CosmosTokenizer decodes all 2"):
        tokenizer.decode(torch.zeros(1, 2, dtype=torch.long), num_tokens=1)
    with pytest.raises(ValueError, match="space_compression 12 .*powers of 2, at least patch_size"):
        tiny(space_compression=12)


@pytest.mark.parametrize("levels", [(4, 4, 4), None])
def test_every_parameter_that_runs_learns(levels):
    tokenizer = tiny(levels=levels, space_compression=16, time_compression=16).train()
    reconstruction, encoded = tokenizer(clip(17))
    assert encoded.layout.bits() != encoded.layout.bits() or levels
    reconstruction.square().mean().backward()
    unused = [name for name, p in tokenizer.named_parameters() if p.grad is None]
    assert [name for name in unused if "upsample.conv" not in name] == []


def test_save_and_load(tmp_path):
    tokenizer = tiny(attention_levels=(0,), decoder_attention_levels=(1,))
    tokenizer.save_pretrained(tmp_path)
    loaded = CosmosTokenizer.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded.reconstruct(clip(9)), tokenizer.reconstruct(clip(9)))
