import pytest
import torch

from studio.tokenizers.semantic import FlowDraws, SemanticTokenizer

TINY = {"levels": [4, 3], "n_mels": 10, "dim": 8, "hidden_dim": 12, "front_layers": 1}
TINY |= {"back_layers": 1, "token_layers": 1, "flow_dim": 8, "flow_hidden_dim": 12}
TINY |= {"flow_layers": 1, "wave_dim": 8, "wave_hidden_dim": 12, "wave_layers": 1}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SemanticTokenizer(**TINY, speakers=["ada", "ben"], steps=3, window_seconds=1.0).eval()


def audio(*shape):
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_there_and_back_in_two_voices(model):
    wave = audio(2, 1, 5000)
    out = model.encode(wave)
    assert out.tokens.shape == (2, 16) and int(out.tokens.max()) < 12
    first, second = (model.decode(out.tokens, length=5000, condition=i) for i in range(2))
    assert first.shape == (2, 1, 5000) and not torch.allclose(first, second)
    assert torch.equal(first, model.decode(out.tokens, length=5000))
    alone = model.decode(out.tokens[:1], length=5000)
    assert torch.allclose(alone, first[:1], atol=1e-5)
    with pytest.raises(ValueError, match="condition 2: speakers are numbered 0 to 1"):
        model.decode(out.tokens, condition=2)


@torch.no_grad()
def test_long_clips_in_pieces_have_the_tokens_of_the_whole(model):
    wave = audio(1, 1, 40000)
    whole = model.quantize(model.features(wave)).indices[:, 0]
    assert torch.equal(model.encode(wave).tokens, whole)
    assert model.reconstruct(wave).shape == wave.shape


@torch.no_grad()
def test_a_prompt_is_kept_and_changes_the_rest(model):
    vectors = model.encode(audio(1, 1, 6400)).quantized
    nobody = torch.zeros(1, dtype=torch.int64)
    prompt = torch.randn(1, 10, 8)
    free, told = (model.flow_bands(vectors, nobody, prompt=p) for p in (None, prompt))
    assert free.shape == told.shape == (1, 10, 40)
    assert torch.equal(told[..., :8], prompt) and not torch.allclose(told[..., 8:], free[..., 8:])


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 100, 321])
def test_short_and_silent_clips(model, length):
    assert model.reconstruct(torch.zeros(1, 1, length)).shape == (1, 1, length)
    assert isinstance(model.transcribe([torch.zeros(1, length)])[0], str)


def test_gradients_of_both_stages(model):
    wave = audio(2, 1, 3200)
    scores = model(wave)
    assert scores.shape == (2, 10, 29) and int(model.steps(torch.tensor([3200]))) == 10
    assert torch.allclose(scores.exp().sum(-1), torch.ones(2, 10), atol=1e-5)
    scores.square().sum().backward()
    ours = dict(model.encoder_parameters())
    assert all(p.grad is not None and p.grad.any() for p in ours.values())
    model.zero_grad()
    draws = FlowDraws(
        speakers=torch.tensor([0, 1]),
        times=torch.tensor([0.3, 0.6]),
        noise=torch.randn(2, 10, 20),
        prompts=torch.tensor([5, 0]),
        dropped=torch.tensor([False, True]),
    )
    flow, waves = model(wave, draws)
    assert waves.shape == wave.shape and flow.ndim == 0
    (flow + waves.square().mean()).backward()
    for name, parameter in model.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.any())
        assert learns == (name not in ours), name


def test_what_is_dropped_or_given_does_not_count(model):
    wave = audio(1, 1, 3200)
    known = {"times": torch.tensor([0.5]), "noise": torch.randn(1, 10, 20)}
    none, dropped = torch.tensor([0]), torch.tensor([True])
    free = [model(wave, FlowDraws(torch.tensor([i]), prompts=none, dropped=dropped, **known))[0]
            for i in range(2)]  # fmt: skip
    assert free[0] == free[1]
    some = FlowDraws(none, prompts=torch.tensor([19]), dropped=~dropped, **known)
    assert model(wave, some)[0] > 0


def test_saved_and_loaded_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = SemanticTokenizer.from_pretrained(tmp_path).eval()
    wave = audio(1, 1, 3200)
    assert again.speakers == ["ada", "ben"]
    assert torch.equal(again.reconstruct(wave), model.reconstruct(wave))
    with pytest.raises(ValueError, match="frames 3 must divide the hop 320"):
        SemanticTokenizer(frames=3)
