"""Language-Codec: rows of codes, fewer of them, windows, training."""

import pytest
import torch

from studio.tokenizers.languagecodec import LanguageCodec

TINY = {
    "sample_rate": 8000,
    "strides": (2, 4, 5),
    "encoder_width": 4,
    "dim": 16,
    "num_codebooks": 5,
    "codebook_size": 32,
    "backbone_dim": 32,
    "backbone_hidden_dim": 48,
    "backbone_layers": 2,
    "kmeans_iterations": 3,
}


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = LanguageCodec(**TINY)
        for level in made.codebooks.levels:
            level.embedding.data = torch.randn_like(level.embedding) * 0.02
        return made.eval()


def audio(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 0.3


def test_there_is_a_row_of_tokens_a_codebook(model):
    clip = audio(2, 2, 401)
    encoded = model.encode(clip)
    assert encoded.tokens.shape == (2, 10, 11) and encoded.layout.num_tokens == 110
    made = model.decode(encoded.tokens, length=401)
    assert made.shape == clip.shape
    flat = model.decode(encoded.tokens.flatten(1), layout=encoded.layout, length=401)
    assert torch.equal(flat, made)
    mono = model.encode(clip[:, :1]).tokens
    assert torch.equal(mono, encoded.tokens[:, :5])
    fewer = model.decode(mono[:, :3])
    assert fewer.shape == (2, 1, 440) and not torch.equal(fewer, model.decode(mono))
    with pytest.raises(ValueError, match="tokens have 7 rows; a channel has 5"):
        model.decode(encoded.tokens[:, :7])


def test_windows_are_the_whole(model):
    clip = audio(1, 1, 8000 * 14)
    tokens = model.encode(clip).tokens
    features = model.features(clip)
    assert torch.equal(model.quantize(features).indices, tokens)
    whole = model.synthesize(model.lookup(tokens))
    assert (model.decode(tokens)[:, 0] - whole).abs().max() < 1e-5
    assert model.rate().bits_per_unit == pytest.approx(5 * 5 * 200)


def test_training_with_fewer_codebooks_and_saving(model, tmp_path):
    model.train()
    made, encoded = model(audio(2, 1, 800))
    (made.square().mean() + encoded.loss).backward()
    learns = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert [n for n, p in learns if p.grad is None] == []
    assert model.quantize(encoded.latents, num_codebooks=3).indices.shape == (2, 3, 20)
    model.eval().save_pretrained(tmp_path)
    again = LanguageCodec.from_pretrained(tmp_path)
    clip = audio(1, 1, 100)
    assert torch.equal(again.reconstruct(clip), model.reconstruct(clip))
