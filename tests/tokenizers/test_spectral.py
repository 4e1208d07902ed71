import os
import re
from pathlib import Path

import pytest
import torch

from studio.tokenizers.spectral import SpectralTokenizer

TINY = {
    "hop": 128,
    "n_mels": 20,
    "mel_window": 256,
    "levels": [4, 4],
    "dim": 16,
    "hidden_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "fine_dim": 16,
    "fine_hidden_dim": 32,
    "fine_layers": 1,
    "window_seconds": 0.4,
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SpectralTokenizer(**TINY).eval()


def sound(*shape, seed=0):
    wave = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return wave + 0.2 * torch.sin(torch.arange(shape[-1]) * 0.06)


@torch.no_grad()
def test_there_and_back(model):
    audio = sound(2, 1, 3000)
    encoded = model.encode(audio)
    assert encoded.tokens.shape == (2, 24) and encoded.tokens.max() < 16
    assert model.reconstruct(audio).shape == audio.shape
    assert model.decode(encoded.tokens).shape == (2, 1, 24 * 128)
    alone = model.encode(audio[1:]).tokens
    assert torch.equal(alone, encoded.tokens[1:])
    single = model.decode(alone)
    assert torch.allclose(single, model.decode(encoded.tokens)[1:], atol=1e-5)
    assert model.rate(seconds=1).tokens == model.layout.num_tokens


@torch.no_grad()
def test_long_clips_in_pieces_equal_the_whole(model):
    audio = sound(1, 1, 16000 * 2 + 77)
    codes = model.quantize(model.features(audio)).indices
    assert torch.equal(model.encode(audio).tokens, codes[:, 0])
    whole = model.synthesize(model.lookup(codes))
    assert codes.shape[-1] > 4 * model.window_frames
    assert (model.waves(codes) - whole).abs().max() < 1e-3
    assert (torch.cat(list(model.wave_pieces(codes, 9)), -1) - whole).abs().max() < 1e-3


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 100, 300])
def test_short_clips(model, length):
    assert torch.isfinite(model.reconstruct(sound(1, 1, length))).all()
    assert model.reconstruct(torch.zeros(1, 1, length)).abs().max() < 0.1


@torch.no_grad()
def test_before_any_training_the_outline_alone_resembles_the_sound(model):
    full = SpectralTokenizer(hop=216)
    audio = sound(1, 1, 216 * 60)
    outline = full.outline(audio)
    hidden = torch.zeros(1, outline.shape[1], full.config.dim)
    made = full.render(hidden, outline, *full.turns(outline))[:, None]
    error = (full.outline(made) - outline)[..., :80].abs().mean() * 2
    assert error < 0.8  # nepers; silence would be off by more than four
    assert (full.outline(torch.zeros_like(audio)) - outline)[..., :80].abs().mean() * 2 > 3


def test_a_gradient_reaches_every_parameter_and_tokens_alone_need_no_wave(model):
    audio = sound(2, 1, 128 * 20)
    waves, encoded = model(audio)
    assert waves.shape == audio.shape and encoded.loss > 0
    (waves.square().mean() + encoded.loss).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.zero_grad()
    model(audio, synthesize=False)[1].loss.backward()
    fine = ("fine", "norm_fine", "head", "widen")
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (name.split(".")[0] in fine), name


@torch.no_grad()
def test_saved_and_loaded_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = SpectralTokenizer.from_pretrained(tmp_path)
    audio = sound(1, 1, 2000)
    assert torch.equal(again.reconstruct(audio), model.reconstruct(audio))


def test_a_hop_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="frames 3 must divide the hop 128"):
        SpectralTokenizer(**{**TINY, "frames": 3})


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux")
@torch.no_grad()
def test_memory_does_not_grow_with_the_length():
    """Minutes of sound are coded and decoded in pieces: that takes their tokens and a window."""
    model = SpectralTokenizer(**{**TINY, "window_seconds": 4.0}).eval()

    def peak(seconds):
        wave = 0.1 * torch.ones(1, 1, seconds * model.sample_rate)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before = memory("VmRSS")
        tokens = model.encode(wave).tokens
        pieces = tokens[:, None].split(model.window_frames, -1)
        made = sum(piece.shape[-1] for piece in model.wave_stream(pieces))
        assert made >= wave.shape[-1]
        return memory("VmHWM") - before

    peak(20)  # what is kept for good is there now
    short, long = peak(20), peak(100)
    assert long < short + 10 * 2**20, (short, long)  # all at once it would be hundreds


def memory(name):
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[1]) * 1024
