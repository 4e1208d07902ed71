"""OmniTokenizer: sizes, images as clips of one frame, continuous latents, windows, saving."""

import pytest
import torch

from studio.layers.omni import distance_index, square_table
from studio.tokenizers.omnitokenizer import OmniTokenizer

SIZES = {"dim": 16, "heads": 2, "head_dim": 8, "hidden_dim": 20, "encoder_layers": "tw"}


def tiny(**options):
    torch.manual_seed(0)
    sizes = {"decoder_layers": "t", "temporal_layers": 1, "window_size": 2, "codebook_size": 32}
    frames = {"num_frames": 5, "image_size": 16, "patch_size": 4, "temporal_patch_size": 2}
    return OmniTokenizer(**SIZES, **sizes, **frames, codebook_dim=4, **options).eval()


def clip(frames=5, side=16):
    g = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, frames, side, side, generator=g) * 2 - 1


@torch.no_grad()
def test_shapes():
    tokenizer = tiny()
    encoded = tokenizer.encode(clip())
    assert encoded.tokens.shape == (2, 48) and encoded.layout == tokenizer.layout
    assert encoded.latents.shape == encoded.quantized.shape == (2, 4, 3, 4, 4)
    torch.testing.assert_close(encoded.latents.norm(dim=1), torch.ones(2, 3, 4, 4))
    decoded = tokenizer.decode(encoded.tokens)
    torch.testing.assert_close(decoded, tokenizer.pixels(encoded.quantized))
    assert tokenizer.reconstruct(clip(1, 8)).shape == (2, 3, 1, 8, 8)
    assert tokenizer.rate().bits_per_unit == pytest.approx(48 * 5 / (5 * 16 * 16))


@torch.no_grad()
def test_continuous_latents_are_means_or_draws():
    tokenizer = tiny(continuous=True)
    encoded = tokenizer.encode(clip())
    assert encoded.tokens is None and encoded.latents.shape == (2, 48, 4)
    assert encoded.layout == tokenizer.layout and tokenizer.layout.segments[0].dim == 4
    assert tokenizer.decode(encoded.latents).shape == clip().shape

    def draw(row):
        generators = [torch.Generator().manual_seed(seed) for seed in row]
        return tokenizer.encode(clip(), generators=generators).latents

    assert torch.equal(draw([3, 4]), draw([3, 4])) and torch.equal(draw([3, 4])[1], draw([5, 4])[1])
    assert not torch.equal(draw([3, 4]), encoded.latents)


@torch.no_grad()
def test_long_videos_go_in_windows():
    tokenizer = tiny()
    parts = list(tokenizer.encode_stream(clip(8).split(3, dim=2)))
    assert [part.layout.segments[0].shape[0] for part in parts] == [3, 2]
    assert torch.equal(parts[0].tokens, tokenizer.encode(clip(8)[:, :, :5]).tokens)
    video = torch.cat(list(tokenizer.decode_stream(parts)), 2)
    assert video.shape == (2, 3, 8, 16, 16)
    with pytest.raises(ValueError, match="chunk_frames 9 must be 5 here"):
        next(tokenizer.encode_stream([clip()], chunk_frames=9))


def test_bad_input_is_refused():
    tokenizer = tiny()
    with pytest.raises(ValueError, match="video of 4 frames must have 1 . a multiple of 2"):
        tokenizer.encode(clip(4))
    with pytest.raises(ValueError, match="video size 16x8: this tokenizer takes square frames"):
        tokenizer.encode(clip()[..., :8])
    with pytest.raises(ValueError, match="frames of 3x3 patches must be a multiple of 2"):
        tokenizer.encode(clip(5, 12))
    with pytest.raises(ValueError, match="layers 'ta' must be made of the letters t and w"):
        OmniTokenizer(**SIZES | {"encoder_layers": "ta"})


def test_tables():
    assert square_table(16, 8).shape == (16, 4)
    angles = square_table(16, 8).angle()
    assert angles[6, :2].tolist() == pytest.approx([2.0, 1.0])  # column 2, row 1
    index = distance_index(2)
    assert index.diagonal().unique().tolist() == [4] and index[0, 3] == 0 and index[3, 0] == 8


@pytest.mark.parametrize("continuous", [False, True])
def test_every_parameter_learns(continuous):
    tokenizer = tiny(continuous=continuous).train()
    reconstruction, encoded = tokenizer(clip())
    loss = reconstruction.square().mean()
    (loss if continuous else loss + encoded.loss).backward()
    assert [name for name, p in tokenizer.named_parameters() if p.grad is None] == []


def test_save_and_load(tmp_path):
    tokenizer = tiny()
    tokenizer.save_pretrained(tmp_path)
    loaded = OmniTokenizer.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded.reconstruct(clip()), tokenizer.reconstruct(clip()))
