"""TiTok and One-D-Piece: shapes, prefixes, the first stage, official sizes, saving."""

import pytest
import torch

from studio.tokenizers.titok import OFFICIAL_SIZES, TiTokTokenizer


def tiny(**options):
    torch.manual_seed(0)
    sizes = {"encoder_size": (32, 1, 2), "decoder_size": (48, 1, 3), "num_tokens": 6}
    pixels = {"pixel_channels": 32, "pixel_multipliers": (1, 2), "pixel_res_blocks": 1}
    rest = {"codebook_size": 40, "codebook_dim": 5, "proxy_codes": 12, "pixel_dim": 8}
    base = {"image_size": 16, "patch_size": 4, "decoder_patch_size": 2, "prefix": True}
    return TiTokTokenizer(**{**base, **sizes, **pixels, **rest, **options}).eval()


def images(batch=3, size=16):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_shapes_and_prefixes():
    tokenizer = tiny()
    encoded = tokenizer.encode(images())
    assert encoded.tokens.shape == (3, 6) and encoded.tokens.dtype == torch.int64
    assert encoded.latents.shape == encoded.quantized.shape == (3, 6, 5)
    assert tokenizer.layout.prefix and tokenizer.layout.num_tokens == 6
    for count in (1, 2, 6):
        whole = tokenizer.decode(encoded.tokens, num_tokens=count)
        assert whole.shape == (3, 3, 16, 16)
        assert torch.equal(whole, tokenizer.decode(encoded.tokens[:, :count]))
    changed = encoded.tokens.clone()
    changed[:, 2:] = (changed[:, 2:] + 1) % 40
    kept = tokenizer.decode(changed, num_tokens=2)
    assert torch.equal(kept, tokenizer.decode(encoded.tokens, num_tokens=2))
    assert not torch.equal(tokenizer.decode(changed), tokenizer.decode(encoded.tokens))


def test_pixels_are_the_expectation_over_proxy_codes():
    tokenizer = tiny()
    tokens = tokenizer.encode(images()).tokens
    logits = tokenizer.decode_logits(tokens)
    assert logits.shape == (3, 12, 8, 8)
    soft = (logits.softmax(1).movedim(1, -1) @ tokenizer.pixel_codebook).movedim(-1, 1)
    assert torch.allclose(
        tokenizer.pixel_decoder(soft) * 2 - 1, tokenizer.decode(tokens), atol=1e-5
    )


def test_first_stage_gives_logits_only():
    tokenizer = tiny(has_pixel_decoder=False)
    reconstruction, encoded = tokenizer(images(), num_tokens=3)
    assert reconstruction.shape == (3, 12, 8, 8)
    assert not [name for name in tokenizer.state_dict() if name.startswith("pixel_")]
    with pytest.raises(ValueError, match="has_pixel_decoder is off"):
        tokenizer.decode(encoded.tokens)


def test_every_parameter_learns():
    tokenizer = tiny().train()
    reconstruction, encoded = tokenizer(images())
    (reconstruction.square().mean() + encoded.loss).backward()
    lost = [name for name, p in tokenizer.named_parameters() if p.grad is None]
    assert lost == []


def test_alone_and_in_a_batch():
    tokenizer = tiny()
    together = tokenizer.encode(images())
    alone = tokenizer.encode(images()[1:2])
    assert torch.equal(alone.tokens, together.tokens[1:2])
    pixels = tokenizer.decode(together.tokens)[1:2]
    assert torch.allclose(tokenizer.decode(alone.tokens), pixels, atol=1e-5)


def test_save_and_load(tmp_path):
    tokenizer = tiny()
    tokenizer.save_pretrained(tmp_path)
    loaded = TiTokTokenizer.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.reconstruct(images()), tokenizer.reconstruct(images()))


def test_bad_input_is_refused():
    tokenizer = tiny(prefix=False)
    with pytest.raises(ValueError, match="32x32: this tokenizer takes 16x16 only"):
        tokenizer.encode(images(size=32))
    tokens = tokenizer.encode(images()).tokens
    with pytest.raises(ValueError, match="num_tokens 2: TiTokTokenizer decodes all 6"):
        tokenizer.decode(tokens, num_tokens=2)
    with pytest.raises(ValueError, match="num_tokens 4 is more than the 3 tokens given"):
        tiny().decode(tokens[:, :3], num_tokens=4)
    with pytest.raises(ValueError, match="patch_size 5 must divide image_size 16"):
        tiny(patch_size=5)


# Sizes of the published files in float32 values.
@pytest.mark.parametrize(
    "name, count",
    [("titok-l32", 641_054_735), ("titok-b64", 204_814_095), ("titok-s128", 83_674_639)],
)
def test_official_sizes(name, count):
    with torch.device("meta"):
        tokenizer = TiTokTokenizer(**OFFICIAL_SIZES[name])
    assert sum(p.numel() for p in tokenizer.state_dict().values()) == count
