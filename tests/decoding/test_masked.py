import math

import numpy as np
import pytest
import torch

from studio.decoding import masked
from studio.decoding.masked import MASKGIT, Masked, surest_masked
from studio.decoding.noise import CONFIDENCE, TOKEN, gumbel, place_noise, sample_keys, stream_state
from studio.outputs import TokenLayout, TokenSegment
from tests.decoding.toy_runs import UnorderedTable, last, random_table, seeded

N, V = 16, 8
LAYOUT = TokenLayout.single((4, 4), V)


def tables(batch=3):
    return random_table(1, N, V).expand(batch, -1, -1)


def decode(strategy=None, seeds=(4, 5, 6), **options):
    strategy = strategy or Masked(num_steps=5)
    run = UnorderedTable(tables(len(seeds)))
    return last(strategy.stream(run, LAYOUT, seeded(*seeds), **options)), run


def official(run, keys, *, steps, randomize, annealing):
    """MaskGIT's loop as published (TiTok, `sample`), written again and plainly, on our noise."""
    batch, ids = len(keys), torch.full((len(keys), N), -1)
    for step in range(steps):
        ratio = 1.0 * (step + 1) / steps
        temperature = randomize * (1.0 - ratio)
        is_mask = ids == -1
        logits = run.fill(ids.clamp(min=0), ~is_mask, step=step, num_steps=steps)
        if annealing:
            logits = logits / (0.5 + 0.8 * (1 - ratio))
        states = [stream_state(k, n, step, TOKEN) for k in keys for n in range(N)]
        noise = gumbel(states, V).reshape(batch, N, V)
        sampled = (logits + temperature * noise).argmax(dim=-1)
        picked = logits.gather(-1, sampled[..., None])[..., 0]
        sampled = torch.where(is_mask, sampled, ids)
        picked = torch.where(is_mask, picked, torch.inf)
        mask_ratio = np.arccos(ratio) / (math.pi * 0.5)
        wanted = torch.tensor([float(np.floor(N * mask_ratio))])
        mask_len = int(torch.maximum(torch.ones(1), torch.minimum(is_mask[0].sum() - 1, wanted))[0])
        confidence = picked + temperature * place_noise(keys, N, step=step, purpose=CONFIDENCE)
        bound = confidence.sort(dim=-1).values[:, mask_len - 1 : mask_len]
        if ratio == 1.0:
            ids = sampled
        else:
            ids = torch.where(confidence <= bound, -1, sampled)
    return ids


@pytest.mark.parametrize("annealing", [False, True])
@pytest.mark.parametrize("steps", [1, 3, 8, 20])
def test_the_published_loop(annealing, steps):
    strategy = Masked(**{**MASKGIT, "num_steps": steps, "softmax_annealing": annealing})
    state, _ = decode(strategy)
    keys = sample_keys(seeded(4, 5, 6))
    want = official(UnorderedTable(tables()), keys, steps=steps, randomize=9.5, annealing=annealing)
    assert torch.equal(state.tokens, want)
    assert state.known.all()


def test_states_tell_what_happened():
    run = UnorderedTable(tables(2))
    strategy = Masked(num_steps=5, schedule="linear")
    left = [N, N]
    for i, state in enumerate(strategy.stream(run, LAYOUT, seeded(1, 2))):
        assert (state.step, state.num_steps, state.passes) == (i + 1, 5, i + 1)
        assert state.proposed.tolist() == left
        now = (~state.known).sum(dim=1)
        assert (state.proposed - state.accepted).tolist() == now.tolist()
        assert now.tolist() == [math.floor(N * (1 - (i + 1) / 5))] * 2
        assert not state.tokens[~state.known].any()
        assert torch.equal(state.proposal[state.known], state.tokens[state.known])
        left = now.tolist()
    assert left == [0, 0] and [c[2] for c in run.calls] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("strategy", [Masked(num_steps=5), Masked(**MASKGIT)])
def test_alone_equals_in_a_batch_and_repeats(strategy):
    batch, _ = decode(strategy)
    assert torch.equal(decode(strategy)[0].tokens, batch.tokens)
    assert len({tuple(row) for row in batch.tokens.tolist()}) == 3
    for i, seed in enumerate((4, 5, 6)):
        assert torch.equal(decode(strategy, seeds=(seed,))[0].tokens[0], batch.tokens[i])


def test_rows_with_other_numbers_of_kept_tokens_do_not_touch_each_other():
    given = torch.full((3, N), 3)
    keep = torch.zeros(3, N, dtype=torch.bool)
    keep[0, :4], keep[1, 2:15], keep[2] = True, True, True
    state, _ = decode(given=given, keep=keep)
    assert (state.tokens[keep] == 3).all() and state.known.all()
    for i, seed in enumerate((4, 5, 6)):
        alone, _ = decode(seeds=(seed,), given=given[i : i + 1], keep=keep[i : i + 1])
        assert torch.equal(alone.tokens[0], state.tokens[i])


def test_everything_kept_is_one_step():
    given = torch.full((1, N), 2)
    state, _ = decode(seeds=(1,), given=given, keep=torch.ones(1, N).bool())
    assert torch.equal(state.tokens, given) and state.step == 1
    assert state.proposed.tolist() == [0]


def test_greedy():
    strategy = Masked(num_steps=1, temperature=0.0, confidence_noise=0.0)
    state, run = decode(strategy)
    assert torch.equal(state.tokens, run.tables.argmax(dim=-1))


def test_num_masked_is_per_row():
    strategy = Masked(num_steps=4, schedule="linear")
    count = strategy.num_masked(
        torch.tensor([16, 8, 4, 1, 0]), torch.tensor([16, 8, 2, 1, 0]), 0.25
    )
    assert count.tolist() == [12, 6, 1, 1, 0]
    assert strategy.num_masked(torch.tensor([16]), torch.tensor([3]), 1.0).tolist() == [0]


def test_ties_mask_more():
    confidence = torch.tensor([[1.0, 1.0, 2.0, 0.5], [1.0, 2.0, 3.0, 4.0]])
    known = torch.tensor([[False] * 4, [True, False, False, False]])
    hidden = surest_masked(confidence, known, torch.tensor([2, 2]))
    assert hidden.tolist() == [[True, True, False, True], [False, True, True, False]]
    assert not surest_masked(confidence, known, torch.tensor([0, 0])).any()


def test_the_draws_follow_the_distribution():
    """One step at temperature 1 draws from the softmax: chi-square, 7 degrees of freedom."""
    logits = random_table(1, 1, V, seed=3)
    run = UnorderedTable(logits.expand(4000, -1, -1))
    layout = TokenLayout.single((1,), V)
    state = last(Masked(num_steps=1).stream(run, layout, seeded(*range(4000))))
    counts = torch.bincount(state.tokens[:, 0], minlength=V)
    expected = logits[0, 0].softmax(-1) * 4000
    assert ((counts - expected) ** 2 / expected).sum() < 24.3


def test_layers_are_filled_in_turn():
    """Finer layers stay masked until coarser ones are whole."""
    sizes = (("coarse", (2, 1, 2)), ("fine", (2, 2, 3)))
    layout = TokenLayout(tuple(TokenSegment(name, shape, V) for name, shape in sizes))
    strategy = Masked(num_steps=7, layer_by_layer=True)

    def states(**options):
        run = UnorderedTable(tables(2))
        return list(strategy.stream(run, layout, seeded(4, 5), **options)), run

    made, run = states()
    assert [s.step for s in made] == [1, 2, 3, 4, 5, 6, 7] and made[-1].known.all()
    assert [call[3] for call in run.calls] == [4] * 4 + [3] * 3  # shares of the steps
    assert not any(s.known[:, 4:].any() for s in made[:4]) and made[3].known[:, :4].all()
    assert all(s.known[:, :4].all() for s in made[4:])
    assert torch.equal(made[-1].tokens[:, :4], made[3].tokens[:, :4])
    coarse, _ = states(num_tokens=4)
    assert len(coarse) == 4 and torch.equal(coarse[-1].tokens, made[3].tokens)
    given = {"given": made[-1].tokens, "keep": torch.arange(N) < 4}
    rest, run = states(given=given["given"], keep=given["keep"].expand(2, -1))
    assert len(rest) == len(run.calls) == 3 and rest[0].step == 5
    assert torch.equal(rest[-1].tokens, made[-1].tokens)
    with pytest.raises(ValueError, match="num_steps 1 must be at least 1 for each of 2"):
        run = UnorderedTable(tables(1))
        next(Masked(num_steps=1, layer_by_layer=True).stream(run, layout, seeded(4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps 0 must be a whole number from 1 to 10000"),
        ({"schedule": "sine"}, "schedule 'sine' must be one of arccos, cosine, linear"),
        ({"confidence": "x"}, "confidence 'x' must be one of log_prob, logit"),
        ({"confidence_noise": -1}, "confidence_noise -1"),
        ({"softmax_annealing": "yes"}, "softmax_annealing"),
        ({"layer_by_layer": 2}, "layer_by_layer 2 must be"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        Masked(**options)


def test_maskgit_options_are_known():
    assert Masked(**masked.MASKGIT).guidance.form == "cond"
