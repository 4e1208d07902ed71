"""LARP: one size only, drawn codes, the prior, windows, saving."""

import pytest
import torch

from studio.tokenizers.larp import LARPTokenizer


def tiny(**options):
    torch.manual_seed(0)
    sizes = {"encoder_size": (16, 1, 2), "decoder_size": (16, 1, 2), "prior_size": (8, 1, 2, 6)}
    codes = {"num_tokens": 6, "codebook_size": 20, "codebook_dim": 4}
    return LARPTokenizer(num_frames=4, image_size=16, **sizes, **codes, **options).eval()


def clip(frames=4, side=16):
    g = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, frames, side, side, generator=g) * 2 - 1


@torch.no_grad()
def test_shapes():
    tokenizer = tiny()
    encoded = tokenizer.encode(clip())
    assert encoded.tokens.shape == (2, 6) and encoded.layout == tokenizer.layout
    assert encoded.latents.shape == encoded.quantized.shape == (2, 6, 4)
    torch.testing.assert_close(encoded.quantized.norm(dim=-1), torch.ones(2, 6))
    decoded = tokenizer.decode(encoded.tokens)
    torch.testing.assert_close(decoded, tokenizer.pixels(encoded.quantized))
    assert tokenizer.reconstruct(clip(1)).shape == (2, 3, 1, 16, 16)
    assert tokenizer.reconstruct(clip(3, 10)).shape == (2, 3, 3, 10, 10)
    parts = list(tokenizer.encode_stream(clip(7).split(2, dim=2)))
    assert len(parts) == 2 and torch.cat(list(tokenizer.decode_stream(parts)), 2).shape[2] == 8


@torch.no_grad()
def test_codes_can_be_drawn():
    tokenizer = tiny(temperature=2.0)

    def draw(row):
        generators = [torch.Generator().manual_seed(seed) for seed in row]
        return tokenizer.encode(clip(), generators=generators)

    first, again, other = draw([3, 4]), draw([3, 4]), draw([5, 4])
    assert torch.equal(first.tokens, again.tokens) and torch.equal(first.tokens[1], other.tokens[1])
    assert not torch.equal(first.tokens, tokenizer.encode(clip()).tokens)
    cold = tiny(temperature=1e-4).encode(clip(), generators=[torch.Generator() for _ in range(2)])
    assert torch.equal(cold.tokens, tokenizer.encode(clip()).tokens)


@torch.no_grad()
def test_the_prior_looks_back_only():
    tokenizer = tiny()
    codes = tokenizer.encode(clip()).quantized
    other = codes.clone()
    other[:, 3:] = other[:, 3:].flip(-1)
    before, after = tokenizer.prior(codes), tokenizer.prior(other)
    assert before.shape == codes.shape and torch.equal(before[:, 0], codes[:, 0])
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.equal(before[:, 4:], after[:, 4:])


def test_bad_input_is_refused():
    tokenizer = tiny()
    with pytest.raises(ValueError, match="video of 3 frames must have a multiple of 4"):
        tokenizer.encode(clip(3))
    with pytest.raises(ValueError, match="video of 8x16x16: this tokenizer takes 4x16x16 only"):
        tokenizer.encode(clip(8))
    with pytest.raises(ValueError, match="video of 4x32x32: this tokenizer takes 4x16x16 only"):
        tokenizer.reconstruct(clip(4, 17))
    with pytest.raises(ValueError, match="must be a multiple of patches of"):
        tiny(patch_size=5)


def test_every_parameter_learns():
    tokenizer = tiny().train()
    reconstruction, encoded = tokenizer(clip())
    expected = tokenizer.prior(encoded.quantized)
    (reconstruction.square().mean() + encoded.loss + expected.sum()).backward()
    assert [name for name, p in tokenizer.named_parameters() if p.grad is None] == []


def test_save_and_load(tmp_path):
    tokenizer = tiny(decoder_patch_size=4, decoder_temporal_patch_size=2)
    tokenizer.save_pretrained(tmp_path)
    loaded = LARPTokenizer.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded.reconstruct(clip()), tokenizer.reconstruct(clip()))
