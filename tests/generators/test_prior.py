"""The prior: what the caption alone says about every token."""

import pytest
import torch

from studio.generators.autoregressive import AutoregressiveTransformer
from studio.generators.conditioning import TextCondition
from studio.generators.guidance import Guidance
from studio.generators.masked import MaskedTransformer
from studio.generators.prior import ConditionPrior
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
    assert torch.equal(model(codes, words, output="prior"), prior)
    model.prior.forward = lambda rows, real: torch.zeros_like(prior)
    assert torch.allclose(whole - model(codes, words, output="digits"), prior, atol=1e-5)


def test_its_loss_is_the_cross_entropy_over_all_codes(model):
    words, codes = condition(), tokens()
    prior = model.prior(*model.conditioner(words))
    first, second = prior.split(LEVELS, dim=-1)
    joint = (second.unsqueeze(-1) + first.unsqueeze(-2)).flatten(-2)  # first digit fastest
    expected = torch.nn.functional.cross_entropy(joint.transpose(1, 2), codes, reduction="none")
    losses = model(codes, words, output="prior_losses", targets=codes)
    assert torch.allclose(losses, expected, atol=1e-5)


def test_refining_tokens_share_a_number_with_the_token_before_them():
    torch.manual_seed(0)
    prior = ConditionPrior(8, 4, 6, LEVELS, refined=2)
    prior.reset()
    prior.bias.data.normal_()
    rows = torch.randn(3, 5, 8)
    logits = prior(rows, None)
    numbers, sharpness = prior.numbers(rows, None)
    assert logits.shape == (3, 6, 7) and numbers.shape == (3, 4, 2)
    # the second number, first digit: three levels of token 2, three of token 3 which refines it
    cells = prior.centres[2, :3, None] + prior.centres[3, None, :3]
    joint = -sharpness[0, 1] * (numbers[0, 1, 0] - cells) ** 2
    assert torch.allclose(logits[0, 2, :3], joint.logsumexp(1) + prior.bias[2, :3], atol=1e-5)
    assert torch.allclose(logits[0, 3, :3], joint.logsumexp(0) + prior.bias[3, :3], atol=1e-5)
    # the last token has a number of its own
    alone = -sharpness[0, 3] * (numbers[0, 3, 1] - prior.centres[5, 3:]) ** 2
    assert torch.allclose(logits[0, 5, 3:], alone + prior.bias[5, 3:], atol=1e-5)


def test_a_sharp_number_names_one_cell():
    prior = ConditionPrior(8, 4, 2, [8], refined=1)
    prior.reset()
    number, sharpness = torch.full((1, 1, 1), 0.33), torch.full((1, 1, 1), 2000.0)
    coarse, fine = prior.logits(number, sharpness)[0].argmax(-1)
    cell = prior.centres[0, coarse] + prior.centres[1, fine]
    assert abs(cell.item() - 0.33) <= 1.75 / 7 / 8 + 1e-3


def test_it_carries_a_colour_over_to_objects_that_it_never_saw_in_it():
    draw = torch.Generator().manual_seed(0)
    shapes = torch.randn(24, 6, 2, generator=draw)  # of 24 objects
    shades = 0.3 + torch.rand(8, 1, 2, generator=draw)  # of 8 colours
    objects, colours = torch.arange(192) // 8, torch.arange(192) % 8
    values = (shapes[objects] * shades[colours]).clamp(-1.75, 1.75)  # (192, 6, 2)
    digits = (values * 2 + 3.5).round().long()
    words = [torch.randn(24, 16, generator=draw)[objects]]
    words += [torch.randn(8, 16, generator=draw)[colours]]
    rows = torch.stack(words, 1)  # (192, 2, 16)
    held = (objects + 3 * colours) % 8 == 0
    torch.manual_seed(0)
    prior = ConditionPrior(16, 64, 6, [8, 8])
    prior.reset()
    optimizer = torch.optim.Adam(prior.parameters(), 3e-3)
    for _ in range(150):
        logits = prior(rows[~held], None).unflatten(-1, (2, 8))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 2), digits[~held].flatten()).backward()
        optimizer.step()
    best = prior(rows[held], None).unflatten(-1, (2, 8)).argmax(-1)
    error = (best - digits[held]).abs().float()
    by_chance = (digits[held].flip(0) - digits[held]).abs().float()
    assert error.mean() < 0.5 * by_chance.mean()


def test_a_gate_says_how_a_look_becomes_tokens():
    torch.manual_seed(0)
    prior = ConditionPrior(8, 4, 6, LEVELS, gates=2, look=3)
    prior.reset()
    rows = torch.randn(3, 5, 8)
    prior.gates.weight.data.zero_()
    maps = prior.out.weight.view(-1, 2, 4)  # (N (d + 1), G, R + 1)
    look = prior.look(prior.products(prior.pooled(rows, None)))  # (B, R)
    for gate in range(2):
        prior.gates.bias.data.copy_(torch.eye(2)[gate] * 50)
        whole = look @ maps[:, gate, :3].T + maps[:, gate, 3] + prior.out.bias
        numbers, sharpness = prior.numbers(rows, None)
        assert torch.allclose(whole.view(3, 6, 3)[..., :2], numbers, atol=1e-5)
        assert torch.allclose((1 + whole.view(3, 6, 3)[..., 2:] / 2).exp(), sharpness, atol=1e-5)
    with pytest.raises(ValueError, match="prior_gates 2 and prior_look 0"):
        ConditionPrior(8, 4, 6, LEVELS, gates=2)


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
