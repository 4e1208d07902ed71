"""The prior: what the caption alone says about every token."""

import pytest
import torch

from studio.generators.autoregressive import AutoregressiveTransformer
from studio.generators.conditioning import TextCondition
from studio.generators.guidance import Guidance
from studio.generators.masked import MaskedTransformer
from studio.outputs import TokenLayout

LEVELS = [3, 4]
SIZES = {
    "layout": TokenLayout.single((6,), 12, prefix=True).to_dict(),
    "dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "condition": "text",
    "text_vocab_size": 30,
    "num_condition_tokens": 5,
    "text_layers": 1,
    "token_levels": LEVELS,
    "head": "digits",
    "prior_dim": 8,
}
KINDS = {
    "ordered": (AutoregressiveTransformer, {"rope": "1d", "multiple_of": 8}),
    "unordered": (MaskedTransformer, {"norm": "pre"}),
}


@pytest.fixture(params=KINDS)
def model(request):
    torch.manual_seed(0)
    cls, extra = KINDS[request.param]
    return cls(**SIZES, **extra).eval()


def condition(rows: int = 3) -> TextCondition:
    ids = torch.arange(1, 1 + rows * 5).view(rows, 5) % 30
    mask = torch.ones(rows, 5, dtype=torch.bool)
    mask[0, 2:] = False
    return TextCondition(ids=ids, mask=mask)


def tokens(rows: int = 3) -> torch.Tensor:
    return torch.randint(12, (rows, 6), generator=torch.Generator().manual_seed(1))


def test_it_is_added_to_the_digit_logits(model):
    words, codes = condition(), tokens()
    whole = model(codes, words, output="digits")
    prior = model.prior(*model.conditioner(words))
    assert prior.shape == (3, 6, sum(LEVELS))
    model.prior.out.weight.data.zero_()
    model.prior.out.bias.data.zero_()
    assert torch.allclose(whole - model(codes, words, output="digits"), prior, atol=1e-5)


def test_its_loss_is_the_cross_entropy_over_all_codes(model):
    words, codes = condition(), tokens()
    prior = model.prior(*model.conditioner(words))
    first, second = prior.split(LEVELS, dim=-1)
    joint = (second.unsqueeze(-1) + first.unsqueeze(-2)).flatten(-2)  # first digit fastest
    expected = torch.nn.functional.cross_entropy(joint.transpose(1, 2), codes, reduction="none")
    losses = model(codes, words, output="prior_losses", targets=codes)
    assert torch.allclose(losses, expected, atol=1e-5)


def test_padding_does_not_change_it(model):
    words = condition()
    short = TextCondition(ids=words.ids[:1, :2], mask=words.mask[:1, :2])
    whole = model.prior(*model.conditioner(words))[:1]
    assert torch.allclose(model.prior(*model.conditioner(short)), whole, atol=1e-5)


def test_a_guided_cached_run_sees_it_at_every_position():
    torch.manual_seed(0)
    cls, extra = KINDS["ordered"]
    model = cls(**SIZES, **extra).eval()
    words, codes = condition(), tokens()
    with torch.no_grad():
        cond, null = model(codes, words), model(codes, words.null())
    run = model.start(words, guidance=Guidance(scale=2.0))
    made = [run.extend(codes[:, :0]), run.extend(codes[:, :2]), run.extend(codes[:, 2:5])]
    assert torch.allclose(torch.cat(made, 1), null + 2 * (cond - null), atol=1e-4)


def test_rows_of_different_lengths_see_their_own_positions():
    torch.manual_seed(0)
    cls, extra = KINDS["ordered"]
    model = cls(**SIZES, **extra, position_tables=True).eval()
    words, codes = condition(), tokens()
    with torch.no_grad():
        whole = model(codes, words)
    run = model.start(words)
    run.extend(codes[:, :4])
    run.rewind(torch.tensor([3, 1, 2]))
    inputs = torch.stack([codes[0, 3], codes[1, 1], codes[2, 2]])[:, None]
    logits = run.extend(inputs)[:, 0]
    assert torch.allclose(logits, whole[torch.arange(3), torch.tensor([4, 2, 3])], atol=1e-4)


@pytest.mark.parametrize("changes", [{"head": "full"}, {"condition": "class"}])
def test_it_needs_captions_and_digits(changes):
    cls, extra = KINDS["ordered"]
    with pytest.raises(ValueError, match="prior_dim 8 needs captions and head"):
        cls(**{**SIZES, **extra, **changes})
