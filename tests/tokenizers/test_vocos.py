"""Vocos: mel bands to sound and codes to sound."""

import pytest
import torch

from studio.tokenizers.vocos import OFFICIAL_SIZES, Vocos

SMALL = {"dim": 32, "hidden_dim": 48, "num_layers": 2, "sample_rate": 8000}
MEL = {**SMALL, "in_channels": 20, "mel_n_fft": 128, "mel_hop": 32, "n_fft": 128, "hop": 32}
CODES = {
    **SMALL,
    "features": "codes",
    "in_channels": 8,
    "num_codebooks": 8,
    "codebook_size": 16,
    "num_conditions": 4,
    "n_fft": 128,
    "hop": 32,
    "padding": "same",
}


def make(options, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Vocos(**{**options, **changes}).eval()


def audio(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 0.3


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize("length", [1, 640, 651])
def test_mel_bands_make_sound_of_the_same_length(padding, length):
    model = make(MEL, mel_padding=padding, padding=padding)
    clip = audio(2, 1, length)
    encoded = model.encode(clip)
    assert encoded.tokens is None and encoded.latents.shape[1] == 20
    assert model.reconstruct(clip).shape == clip.shape
    assert model.reconstruct(clip, sample_rate=22050).shape == clip.shape


def test_codes_pick_their_condition_by_their_number():
    model = make(CODES)
    torch.nn.init.normal_(model.backbone.norm.scale.weight)
    codes = torch.randint(0, 16, (2, 8, 12), generator=torch.Generator().manual_seed(0))
    for books, condition in ((2, 0), (3, 0), (4, 1), (8, 2)):
        part = codes[:, :books]
        assert torch.equal(model.decode(part), model.decode(part, condition=condition))
    assert model.decode(codes).shape == (2, 1, 12 * 32)
    flat = model.decode(codes.flatten(1), layout=model.layout_of(12))
    assert torch.equal(flat, model.decode(codes))
    assert model.layout.segments[0].codebooks == 8


def test_what_a_form_can_not_do_is_said():
    with pytest.raises(ValueError, match="has no codes"):
        make(MEL).layout  # noqa: B018
    model = make(CODES)
    with pytest.raises(ValueError, match="EnCodec itself"):
        model.encode(audio(1, 1, 64))
    with pytest.raises(ValueError, match="codes have 9 rows; there are 8"):
        model.decode(torch.zeros(1, 9, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="token 16 must lie between 0 and 15"):
        model.decode(torch.full((1, 2, 4), 16))
    with pytest.raises(ValueError, match="audio has 2 channels"):
        make(MEL).encode(audio(1, 2, 64))
    with pytest.raises(ValueError, match="features 'wave'"):
        make(MEL, features="wave")


@pytest.mark.parametrize("options", [MEL, CODES])
def test_save_and_load(options, tmp_path):
    model = make(options)
    model.save_pretrained(tmp_path)
    again = Vocos.from_pretrained(tmp_path)
    features = audio(1, options["in_channels"], 9)
    assert torch.equal(again.synthesize(features), model.synthesize(features))
    model.train().synthesize(features).square().mean().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None]
    assert silent in ([], ["codes"])


def test_the_official_sizes():
    with torch.device("meta"):
        models = {name: Vocos(**size) for name, size in OFFICIAL_SIZES.items()}
    counts = {n: sum(p.numel() for p in m.backbone.parameters()) for n, m in models.items()}
    assert abs(counts["vocos-mel-24khz"] - 13.0e6) < 0.5e6
    assert abs(counts["vocos-encodec-24khz"] - 7.4e6) < 0.5e6
