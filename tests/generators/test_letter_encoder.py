import dataclasses

import pytest
import torch

from studio.decoding.autoregressive import Autoregressive
from studio.decoding.speculative import Speculative
from studio.generators.autoregressive import AutoregressiveTransformer
from studio.generators.conditioning import SpeechCondition
from studio.outputs import TokenLayout, TokenSegment

LEVELS = [4, 3]
LAYOUT = TokenLayout((TokenSegment("audio", (20,), 12),))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = AutoregressiveTransformer(
        layout=LAYOUT.to_dict(),
        dim=16,
        num_layers=2,
        num_heads=2,
        multiple_of=8,
        rope="1d",
        condition="speech",
        num_condition_tokens=12,
        text_vocab_size=6,
        text_layers=2,
        frame_layers=1,
        voices=["a", "b"],
        alphabet="vwxyz",
        token_levels=LEVELS,
        head="digits+full",
        head_rank=4,
        prior_dim=1,
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def condition(rows=2):
    ids = torch.tensor([[1, 2, 3, 4, 1, 0, 0], [1, 5, 1, 0, 0, 0, 0]])
    ends = torch.tensor([[1.2, 4.0, 4.0, 9.5, 11, 0, 0], [0.0, 5.5, 7, 0, 0, 0, 0]])
    made = SpeechCondition(
        ids, ids > 0, ends, torch.tensor([0, 1]), torch.tensor([0.1, 0]), torch.tensor([0, -0.3])
    )
    return made[:rows]


def tokens(count=11):
    return torch.randint(12, (2, count), generator=torch.Generator().manual_seed(1))


def test_padding_and_the_batch_change_nothing(model):
    both = model(tokens(), condition())
    alone = condition()[1:]
    alone = dataclasses.replace(
        alone, ids=alone.ids[:, :3], mask=alone.mask[:, :3], ends=alone.ends[:, :3]
    )
    assert torch.allclose(model(tokens()[1:], alone), both[1:], atol=1e-5)
    assert torch.allclose(model(tokens()[:, :5], condition()), both[:, :5], atol=1e-5)


def test_tokens_are_told_the_letter_that_is_spoken(model):
    told = model.told(condition(), 20)
    assert told.shape == (2, 20, 16)
    assert told[0, 10].abs().sum() > 0 and not told[0, 11:].any() and not told[1, 7:].any()
    # another last letter is heard in its neighbourhood: blocks reach 3 letters, then 3 tokens each
    other = condition()
    other = dataclasses.replace(other, ids=other.ids.clone())
    other.ids[1, 1] = 4
    assert not torch.allclose(model.told(other, 20)[1], told[1])
    assert torch.allclose(model.told(other, 20)[0], told[0])


def test_a_silent_letter_takes_no_token(model):
    silent = condition(1)
    assert silent.ends[0, 1] == silent.ends[0, 2]
    middle = torch.arange(11) + 0.5
    index = (middle[:, None] >= silent.ends[:1, :5]).sum(-1)
    assert 2 not in index.tolist() and model.told(silent, 11).isfinite().all()


def test_a_gradient_reaches_every_parameter(model):
    losses = model(tokens(), condition(), output="both_losses")
    lengths = model(tokens(), condition(), output="lengths")
    assert losses.shape == (2, 11, 2) and lengths.shape == (2, 7) and bool((lengths >= 0).all())
    (losses.mean() + lengths.mean()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    model.zero_grad(set_to_none=True)


def test_a_run_scores_as_the_network_does(model):
    plain = model(tokens(), condition())
    run = model.start(condition())
    first = run.extend(tokens()[:, :3])
    second = run.extend(tokens()[:, 3:4])
    third = run.extend(tokens()[:, 4:10])
    assert torch.allclose(torch.cat((first, second, third), 1), plain, atol=1e-4)
    run.rewind(torch.tensor([4, 7]))
    again = run.extend(torch.stack((tokens()[0, 4:6], tokens()[1, 7:9])))
    assert torch.allclose(again[0], plain[0, 5:7], atol=1e-4)
    assert torch.allclose(again[1], plain[1, 8:10], atol=1e-4)


def test_speculation_makes_the_tokens_of_plain_decoding(model):
    made = []
    for strategy in (
        Autoregressive(),
        Speculative(acceptance="seed", drafter="prior", window=4),
        Speculative(acceptance="seed", drafter="jacobi", window=4),
    ):
        run = model.start(condition(), guidance=strategy.guidance)
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        *_, last = strategy.stream(run, LAYOUT, generators, num_tokens=11)
        made.append((last.tokens[:, :11].clone(), run.passes))
    assert torch.equal(made[0][0], made[1][0]) and torch.equal(made[0][0], made[2][0])
    assert made[1][1] < made[0][1]


def test_what_does_not_fit_is_refused(model):
    wrong = dataclasses.replace(condition(), voices=torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="voice 2 must lie between 0 and 1"):
        model.start(wrong)
    with pytest.raises(ValueError, match="voices must name"):
        AutoregressiveTransformer(layout=LAYOUT.to_dict(), condition="speech", rope="1d")
