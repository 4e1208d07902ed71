"""WavTokenizer: lengths, channels, windows against the whole, training, saving."""

import pytest
import torch

from studio.tokenizers.wavtokenizer import OFFICIAL_SIZES, WavTokenizer

TINY = {
    "sample_rate": 8000,
    "strides": (2, 4, 5),
    "encoder_width": 4,
    "dim": 16,
    "codebook_size": 32,
    "backbone_dim": 32,
    "backbone_hidden_dim": 48,
    "backbone_layers": 2,
    "kmeans_iterations": 5,
}
KINDS = [
    {},
    {"quantizer": "fsq", "levels": (5, 5, 3), "use_attention": False, "num_conditions": 0},
    {"codebook_dim": 4, "codebook_l2_norm": True, "lstm_layers": 0, "dead_codes": "encodec"},
]


def make(**changes) -> WavTokenizer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WavTokenizer(**{**TINY, **changes})
        if model.config.quantizer == "ema":
            model.codebook.embedding.data = torch.randn_like(model.codebook.embedding) * 0.02
        return model.eval()


def audio(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 39, 40, 401])
def test_the_output_is_as_long_as_the_input(kind, length):
    model = make(**kind)
    clip = audio(2, 1, length)
    encoded = model.encode(clip)
    assert encoded.tokens.shape == (2, -(-length // 40))
    assert encoded.layout.num_tokens == encoded.tokens.shape[1]
    assert model.decode(encoded.tokens).shape == (2, 1, encoded.tokens.shape[1] * 40)
    assert model.decode(encoded.tokens, length=length).shape == clip.shape
    assert model.reconstruct(clip).shape == clip.shape
    assert torch.equal(model.encode(clip[1:]).tokens, encoded.tokens[1:])


def test_channels_are_coded_one_by_one():
    model = make()
    clip = audio(2, 3, 400)
    encoded = model.encode(clip)
    assert encoded.tokens.shape == (2, 3, 10) and encoded.layout.segments[0].codebooks == 3
    assert torch.equal(encoded.tokens[:, 1], model.encode(clip[:, 1:2]).tokens)
    both = model.decode(encoded.tokens)
    flat = model.decode(encoded.tokens.flatten(1), layout=encoded.layout)
    assert both.shape == clip.shape and torch.equal(both, flat)
    assert torch.allclose(both[:, 1:2], model.decode(encoded.tokens[:, 1]), atol=1e-6)


def test_windows_without_attention_are_the_whole():
    model = make(use_attention=False, window_seconds=0.5)
    whole = make(use_attention=False, window_seconds=60.0)
    clip = audio(1, 1, 8000 * 4 + 13)
    tokens = model.encode(clip).tokens
    assert torch.equal(tokens, whole.encode(clip).tokens)
    assert (model.decode(tokens) - whole.decode(tokens)).abs().max() < 1e-5
    reach = model.reach
    piece = whole.decode(tokens[:, 200 - reach : 300 + reach])[..., reach * 40 : -reach * 40]
    assert (piece - whole.decode(tokens)[..., 200 * 40 : 300 * 40]).abs().max() < 1e-5


def test_windows_with_attention_have_no_seam():
    """Near the joints the difference to the whole is no larger, and no step stands out."""
    model = make(window_seconds=4.0)
    whole = make(window_seconds=60.0)
    clip = audio(1, 1, 8000 * 9)
    tokens = model.encode(clip).tokens
    assert torch.equal(tokens, whole.encode(clip).tokens)
    a, b = model.decode(tokens)[0, 0], whole.decode(tokens)[0, 0]
    assert a.shape == b.shape
    steps = (a.diff() - b.diff()).abs()
    assert (a - b).square().mean() < 0.01 * b.square().mean()
    assert steps.max() < 0.1 * b.diff().abs().max()


def test_other_sample_rates_and_lengths():
    model = make()
    clip = audio(1, 2, 441)
    assert model.reconstruct(clip, sample_rate=22050).shape == clip.shape
    assert model.encode(clip, sample_rate=22050).tokens.shape == (1, 2, 4)
    clips, lengths = audio(2, 1, 400), torch.tensor([400, 130])
    encoded = model.encode(clips, lengths=lengths)
    assert encoded.tokens.shape == (2, 10) and (encoded.tokens[1, 4:] == 0).all()
    assert torch.equal(encoded.tokens[1:, :4], model.encode(clips[1:, :, :130]).tokens)
    made = model.reconstruct(clips, lengths=lengths)
    assert torch.equal(made[1, :, :130], model.reconstruct(clips[1:, :, :130])[0])
    assert (made[1, :, 130:] == 0).all()
    with pytest.raises(ValueError, match="lengths"):
        model.encode(clips, lengths=torch.tensor([400, 401]))


@pytest.mark.parametrize("kind", KINDS)
def test_training(kind):
    model = make(**kind).train()
    clip = audio(2, 1, 1601)
    made, encoded = model(clip)
    assert made.shape == clip.shape
    (made.square().mean() + encoded.loss + encoded.latents.square().mean()).backward()
    learns = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert [n for n, p in learns if p.grad is None] == []
    frozen = {n for n, _ in model.encoder_parameters()}
    assert "encoder.layers.0.v" in frozen and not any(n.startswith("backbone") for n in frozen)


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(kind, tmp_path):
    model = make(**kind)
    model.save_pretrained(tmp_path)
    again = WavTokenizer.from_pretrained(tmp_path)
    clip = audio(1, 1, 300)
    assert torch.equal(model.reconstruct(clip), again.reconstruct(clip))


def test_rates_and_the_official_sizes():
    with torch.device("meta"):
        models = {name: WavTokenizer(**size) for name, size in OFFICIAL_SIZES.items()}
    for name, per_second in (("wavtokenizer-75", 75), ("wavtokenizer-40", 40)):
        rate = models[name].rate()
        assert rate.tokens == 3 * per_second and rate.unit == "second"
        assert rate.bits_per_unit == pytest.approx(12 * per_second)
        assert models[name].frame_rate == per_second
    count = sum(p.numel() for p in models["wavtokenizer-75"].parameters())
    assert abs(count - (8.80 + 61.96 + 0.99 + 4096 * 512 / 1e6) * 1e6) < 0.02e6


def test_half_precision_speaks():
    model = make().bfloat16()
    made = model.reconstruct(audio(1, 1, 400).bfloat16())
    assert torch.isfinite(made).all() and made.shape == (1, 1, 400)


@pytest.mark.parametrize(
    "shape, text",
    [((1, 400), r"audio of shape \(1, 400\)"), ((1, 1, 0), "at least one sample")],
)
def test_bad_audio_is_named(shape, text):
    with pytest.raises(ValueError, match=text):
        make().encode(torch.zeros(shape))
    with pytest.raises(ValueError, match="not finite"):
        make().encode(torch.full((1, 1, 9), torch.nan))


def test_bad_tokens_are_named():
    model = make()
    with pytest.raises(ValueError, match="token 32 must lie between 0 and 31"):
        model.decode(torch.full((1, 4), 32))
    with pytest.raises(ValueError, match=r"tokens of shape \(1, 1, 0\)"):
        model.decode(torch.zeros(1, 0, dtype=torch.int64))
    with pytest.raises(ValueError, match="num_tokens 3"):
        model.decode(torch.zeros(1, 4, dtype=torch.int64), num_tokens=3)
    with pytest.raises(ValueError, match="quantizer 'rvq'"):
        make(quantizer="rvq")
    with pytest.raises(ValueError, match="dead_codes 'bury'"):
        make(dead_codes="bury")


def test_silence_decodes_to_something_finite():
    model = make()
    assert torch.isfinite(model.reconstruct(torch.zeros(1, 1, 100))).all()
