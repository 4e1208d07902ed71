import pytest
import torch

from studio.tokenizers.prefix import PrefixTokenizer

TINY = {
    "image_size": 16,
    "num_tokens": 8,
    "levels": (8, 8),
    "dim": 16,
    "heads": 2,
    "refined": 1,
    "refiner_channels": 8,
    "refiner_blocks": 1,
}
KINDS = [
    {"encoder_layers": 0, "decoder_layers": 0},
    {"encoder_layers": 1, "decoder_layers": 1},
]


def pictures(count: int) -> torch.Tensor:
    """Smooth pictures of few degrees of freedom, which principal components can hold."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, 2, 2, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (16, 16), mode="bilinear")


def make(**changes) -> PrefixTokenizer:
    torch.manual_seed(0)
    model = PrefixTokenizer(**{**TINY, **changes}).eval()
    model.fit(pictures(200))
    return model


def test_it_does_not_start_from_too_few_pictures():
    model = PrefixTokenizer(**TINY)
    with pytest.raises(ValueError, match="^5 pictures are too few to start a tokenizer of"):
        model.fit(pictures(5))


@pytest.mark.parametrize("kind", KINDS)
def test_every_prefix_is_a_picture_and_longer_ones_are_closer(kind):
    model, images = make(**kind), pictures(40)
    tokens = model.encode(images).tokens
    assert tokens.shape == (40, 8)
    errors = [
        (model.decode(tokens, num_tokens=k) - images).square().mean().item() for k in (1, 2, 4, 8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_row_decodes_like_the_prefix_of_a_long_one(kind):
    model = make(**kind)
    tokens = model.encode(pictures(2)).tokens
    assert torch.equal(model.decode(tokens[:, :3]), model.decode(tokens, num_tokens=3))


def test_the_untrained_network_is_the_linear_picture():
    model, images = make(**KINDS[0]), pictures(3)
    encoded = model.encode(images)
    assert torch.allclose(
        model.decode(encoded.tokens), model.synthesis(encoded.quantized), atol=1e-5
    )


def test_a_refining_token_halves_the_error_of_its_components():
    images = pictures(60)
    errors = []
    for refined in (0, 1):
        model = make(**KINDS[0], refined=refined, num_tokens=4)
        quantized = model.encode(images).quantized
        count = 1 + refined  # tokens that code the first two components
        rows = model.components[:2]
        target = model.mean + (images.flatten(1) - model.mean) @ rows.T @ rows
        target = target.view_as(images)
        errors.append((model.synthesis(quantized[:, :count]) - target).square().mean().item())
    assert errors[1] < errors[0] / 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_reaches_every_parameter(kind):
    model = make(**kind).train()
    for name, parameter in model.named_parameters():
        if name.split(".")[-1] == "weight" and parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.02)  # zero at the start, on purpose
    decoded, _ = model(pictures(4))
    decoded.square().mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("low_memory", [True, False])
def test_save_and_load(kind, low_memory, tmp_path):
    model, images = make(**kind), pictures(2)
    model.save_pretrained(tmp_path)
    again = PrefixTokenizer.from_pretrained(tmp_path, low_cpu_mem_usage=low_memory)
    assert torch.equal(model.encode(images).tokens, again.encode(images).tokens)
    assert torch.equal(model.reconstruct(images), again.reconstruct(images))


def test_alone_equals_in_a_batch():
    model, images = make(**KINDS[1]), pictures(3)
    assert torch.equal(model.encode(images).tokens[1:2], model.encode(images[1:2]).tokens)


@pytest.mark.parametrize("count", [0, 9])
def test_a_length_that_can_not_be_decoded_is_refused(count):
    model = make(**KINDS[0])
    with pytest.raises(ValueError, match=f"num_tokens {count} must lie between 1 and 8"):
        model.decode(torch.zeros(1, 8, dtype=torch.int64), num_tokens=count)


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="must be 16x16"):
        make(**KINDS[0]).encode(torch.zeros(1, 3, 32, 32))
