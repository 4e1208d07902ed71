import pytest
import torch

from studio.decoding.autoregressive import Autoregressive
from studio.outputs import TokenLayout
from tests.decoding.toy_runs import OrderedTable, last, random_table, seeded

N, V = 6, 8
LAYOUT = TokenLayout.single((N,), V, prefix=True)


def tables(batch=3):
    return random_table(1, N, V + 1, V).expand(batch, -1, -1, -1)


def decode(strategy=None, seeds=(4, 5, 6), **options):
    strategy = strategy or Autoregressive()
    run = OrderedTable(tables(len(seeds)), N)
    return last(strategy.stream(run, LAYOUT, seeded(*seeds), **options)), run


def test_every_step_is_a_state():
    run = OrderedTable(tables(2), N)
    states = Autoregressive().stream(run, LAYOUT, seeded(1, 2))
    for i, state in enumerate(states):
        assert (state.step, state.num_steps, state.passes) == (i + 1, N, i + 1)
        assert state.known.sum(dim=1).tolist() == [i + 1] * 2
        assert torch.equal(state.known, state.final)
        assert state.proposed.tolist() == state.accepted.tolist() == [1, 1]
        assert not state.tokens[~state.known].any()
    assert i == N - 1 and run.fed == [0, 1, 1, 1, 1, 1]  # the last token is never fed


def test_alone_equals_in_a_batch_and_repeats():
    batch, _ = decode()
    again, _ = decode()
    assert torch.equal(batch.tokens, again.tokens)
    assert len({tuple(row) for row in batch.tokens.tolist()}) > 1
    for i, seed in enumerate((4, 5, 6)):
        assert torch.equal(decode(seeds=(seed,))[0].tokens[0], batch.tokens[i])


def test_temperature_zero_takes_the_best():
    state, run = decode(Autoregressive(temperature=0.0))
    token, table = V, run.tables[0]
    for n in range(N):
        token = int(table[n, token].argmax())
        assert state.tokens[:, n].tolist() == [token] * 3
    assert torch.equal(decode(Autoregressive(top_k=1))[0].tokens, state.tokens)


def test_num_tokens_makes_the_same_prefix():
    whole, _ = decode()
    part, run = decode(num_tokens=4)
    assert part.num_steps == 4 and run.passes == 4
    assert torch.equal(part.tokens[:, :4], whole.tokens[:, :4]) and not part.tokens[:, 4:].any()
    with pytest.raises(ValueError, match="num_tokens 7 must lie between 1 and 6"):
        decode(num_tokens=7)


def test_a_kept_prefix_is_fed_in_one_pass_and_goes_on_as_if_drawn():
    whole, _ = decode()
    keep = torch.zeros(3, N, dtype=torch.bool)
    keep[:, :3] = True
    state, run = decode(given=whole.tokens, keep=keep)
    assert torch.equal(state.tokens, whole.tokens)
    assert run.fed == [3, 1, 1] and state.passes == 3


def test_kept_tokens_stay_wherever_they_are():
    given = torch.full((3, N), 5)
    keep = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0]]).bool()
    state, _ = decode(given=given, keep=keep)
    assert (state.tokens[keep] == 5).all() and state.known.all()
    free, _ = decode()
    assert torch.equal(state.tokens[2], free.tokens[2])
    all_kept, _ = decode(given=given, keep=torch.ones(3, N).bool())
    assert torch.equal(all_kept.tokens, given)


def test_cancel_is_to_stop_reading():
    run = OrderedTable(tables(1), N)
    states = Autoregressive().stream(run, LAYOUT, seeded(1))
    next(states)
    next(states)
    states.close()
    assert run.passes == 2


def test_ids_outside_of_a_segment_are_never_drawn():
    run = OrderedTable(tables(2), N)
    small = TokenLayout.single((N,), 3)
    state = last(Autoregressive(temperature=5.0).stream(run, small, seeded(1, 2)))
    assert int(state.tokens.max()) < 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature -1 must be a number >= 0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_k": 1.5}, "top_k 1.5 must be a whole number >= 0"),
        ({"top_k": True}, "top_k True"),
        ({"top_p": 1.1}, "top_p 1.1 must be a number from 0 to 1"),
        ({"min_p": "x"}, "min_p 'x'"),
        ({"temperature_schedule": "up"}, "must be one of constant, linear, cosine"),
        ({"guidance_scale": -2}, "guidance_scale -2"),
        ({"guidance_form": "x"}, "guidance form 'x'"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        Autoregressive(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given": torch.zeros(3, N).long()}, "given and keep belong together"),
        ({"given": torch.zeros(3, 2), "keep": torch.zeros(3, 2)}, "given of shape"),
        ({"given": torch.full((3, N), V), "keep": torch.ones(3, N)}, "between 0 and 7"),
    ],
)
def test_bad_given_tokens_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        decode(**options)


def test_the_batch_must_fit():
    with pytest.raises(ValueError, match="2 given for a batch of 3"):
        next(Autoregressive().stream(OrderedTable(tables(3), N), LAYOUT, seeded(1, 2)))
