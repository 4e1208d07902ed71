"""The loop on tiny transformers: plain decoding's tokens, batches, kept tokens, what states say.

Whole distributions are in test_speculative_joint.py.
"""

import json

import pytest
import torch

from studio.decoding.autoregressive import Autoregressive
from studio.decoding.neighbours import NEIGHBOURS, Neighbours
from studio.decoding.speculative import Speculative
from tests.decoding.tiny_models import GRID, LAYOUTS, captions, one, tiny, tiny_head
from tests.decoding.toy_runs import last, seeded

N = GRID.num_tokens
COSTS = {1: 1.0, 4: 1.1, 8: 1.2}
DRAFTERS = ["jacobi", "coupled", "prior", "model", "recycling", "head"]
TABLE = Neighbours.build(torch.randn(24, 3, generator=torch.Generator().manual_seed(1)), 10)
RULES = {
    "exact": {},
    "grouped": dict(group_size=6, group_delta=0.5),
    "relaxed": dict(relax_neighbours=4, relax_delta=3.0),
    "annealed": dict(anneal_delta=2.0),
}
MODEL, DRAFT = tiny(), tiny(seed=3)
HEAD = tiny_head(MODEL)


def make(**options):
    strategy = Speculative(**options)
    strategy.neighbours, strategy.costs, strategy.head = TABLE, COSTS, HEAD
    return strategy


def decode(strategy, model=MODEL, condition=None, seeds=(4, 5, 6), seen=None, **options):
    """The last state; the list `seen` gets the drafts that every row of every pass accepted."""
    condition = captions() if condition is None else condition
    run = model.start(condition, guidance=strategy.guidance)
    if getattr(strategy.config, "drafter", "") == "model":
        options["draft_run"] = DRAFT.start(condition, guidance=strategy.guidance)
    for state in strategy.stream(run, model.layout, seeded(*seeds), **options):
        if seen is not None:
            seen.append(state.accepted.tolist())
    return state


SAMPLING = [
    {},
    dict(temperature=0.6, top_k=5),
    dict(top_p=0.8, guidance_scale=2.5),
    dict(min_p=0.1, temperature_schedule="linear", guidance_scale=3.0, guidance_schedule="cosine"),
    dict(temperature=0.0, guidance_scale=1.5, guidance_form="cond", guidance_interval=[0, 7]),
]


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("sampling", SAMPLING)
def test_seed_faithful_tokens_are_those_of_plain_decoding(drafter, sampling):
    plain = decode(Autoregressive(**sampling))
    assert plain.passes == N
    for window in (6, "auto"):
        state = decode(make(drafter=drafter, window=window, **sampling))
        assert torch.equal(state.tokens, plain.tokens)
        assert state.passes <= N


@pytest.mark.parametrize("initialiser", ["random", "left", "above", "prior"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_and_initialiser(layout, initialiser):
    model = tiny(LAYOUTS[layout])
    options = dict(window=5, initialiser=initialiser, guidance_scale=2.0)
    plain = decode(Autoregressive(guidance_scale=2.0), model)
    state = decode(make(**options), model)
    assert torch.equal(state.tokens, plain.tokens)
    other = decode(make(acceptance="exact", drafter="coupled", **options), model)
    sizes = [s.vocab_size for s in model.layout.segments for _ in range(s.num_tokens)]
    assert (other.tokens < torch.tensor(sizes)).all()


@pytest.mark.parametrize("drafter", ["prior", "model", "recycling"])
def test_drafters_know_the_vocabulary_of_a_segment(drafter):
    model = tiny(LAYOUTS["segments"])
    condition = captions()
    strategy = make(acceptance="exact", drafter=drafter, window=6)
    draft = tiny(LAYOUTS["segments"], seed=3).start(condition)
    run = model.start(condition)
    state = last(strategy.stream(run, model.layout, seeded(4, 5, 6), draft_run=draft))
    sizes = [s.vocab_size for s in model.layout.segments for _ in range(s.num_tokens)]
    assert (state.tokens < torch.tensor(sizes)).all() and state.known.all()


@pytest.mark.parametrize("drafter", [*DRAFTERS, "head-chain"])
@pytest.mark.parametrize("rule", ["seed", *RULES])
def test_a_row_alone_is_the_row_in_a_batch(rule, drafter):
    """Token by token, though rows accept differently many in the same pass."""
    window = "auto" if drafter in ("coupled", "head") else 6
    drafter, _, use = drafter.partition("-")
    options = dict(acceptance=rule, drafter=drafter, window=window, guidance_scale=2.0)
    options |= {"head_use": use or "changes"}
    strategy = make(**options, **RULES.get(rule, {}))
    condition, counts = captions(), []
    together = decode(strategy, condition=condition, seen=counts)
    assert any(len(set(accepted)) > 1 for accepted in counts)
    for row in range(3):
        alone = decode(strategy, condition=one(condition, row), seeds=(4 + row,))
        assert torch.equal(alone.tokens[0], together.tokens[row])
        if window != "auto":
            assert alone.passes <= together.passes


def test_rows_with_different_kept_tokens_are_as_if_alone():
    keep = torch.zeros(3, N, dtype=torch.bool)
    keep[0, :5], keep[1, 3:6], keep[1, N - 1], keep[2] = True, True, True, True
    given = torch.randint(24, (3, N), generator=torch.Generator().manual_seed(0))
    for rule in ("seed", *RULES):
        all_of_them = ("coupled", "model", "head")
        for drafter in all_of_them if rule in ("seed", "exact") else ("coupled",):
            strategy = make(acceptance=rule, drafter=drafter, window=5, **RULES.get(rule, {}))
            state = decode(strategy, given=given, keep=keep)
            assert torch.equal(state.tokens[keep], given[keep]) and state.known.all()
            alone = decode(
                strategy,
                condition=one(captions(), 1),
                seeds=(5,),
                given=given[1:2],
                keep=keep[1:2],
            )
            assert torch.equal(alone.tokens[0], state.tokens[1])
            if rule == "seed":
                plain = decode(Autoregressive(), given=given, keep=keep)
                assert torch.equal(state.tokens, plain.tokens)


def test_all_tokens_kept_is_one_state_without_a_pass():
    given = torch.ones(3, N, dtype=torch.int64)
    state = decode(make(), given=given, keep=given.bool())
    assert torch.equal(state.tokens, given) and state.passes == 0


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_num_tokens_makes_the_same_prefix(drafter):
    whole = decode(Autoregressive())
    part = decode(make(drafter=drafter, window=6), num_tokens=7)
    assert part.num_steps == part.step == 7 and not part.tokens[:, 7:].any()
    assert torch.equal(part.tokens[:, :7], whole.tokens[:, :7])
    with pytest.raises(ValueError, match="num_tokens 13 must lie between 1 and 12"):
        decode(make(), num_tokens=13)


NO_SLACK = [
    dict(acceptance="grouped", group_size=0),
    dict(acceptance="grouped", group_delta=0.0),
    dict(acceptance="relaxed", relax_neighbours=0),
    dict(acceptance="relaxed", relax_delta=0.0),
    dict(acceptance="annealed", anneal_delta=1.0),
]


@pytest.mark.parametrize("drafter", ["jacobi", "coupled", "model"])
def test_lossy_modes_without_slack_are_the_exact_stream(drafter):
    wanted = decode(make(acceptance="exact", drafter=drafter))
    for options in NO_SLACK:
        state = decode(make(drafter=drafter, **options))
        assert torch.equal(state.tokens, wanted.tokens) and state.passes == wanted.passes


def test_slack_saves_passes():
    few = [
        decode(make(acceptance=rule, drafter="coupled", **options)).passes
        for rule, options in RULES.items()
    ]
    assert min(few[1:]) <= few[0] < N


def test_what_states_say():
    strategy = make(acceptance="exact", drafter="model", window=6)
    condition = captions()
    run, draft = MODEL.start(condition), DRAFT.start(condition)
    before = torch.zeros(3, dtype=torch.int64)
    states = strategy.stream(run, GRID, seeded(4, 5, 6), draft_run=draft)
    for passes, state in enumerate(states, 1):
        made = state.known.sum(dim=1)
        gained = made - before
        assert state.passes == run.passes == passes
        assert torch.equal(state.known, torch.arange(N) < made[:, None])
        assert state.step == int(made.min()) and state.num_steps == N
        assert ((gained == state.accepted + 1) | (before == N)).all()
        assert (state.accepted <= state.proposed).all()
        assert (state.proposed[before == N] == 0).all()
        assert not state.tokens[~state.known].any() and state.speculating and state.window <= 6
        before = made
    assert state.known.all() and state.draft_passes == draft.passes > 0
    assert len(set(made.tolist())) == 1


def test_speculation_that_does_not_pay_is_switched_off():
    strategy = make(window="auto")
    strategy.costs = {1: 1.0, 4: 4.0, 8: 8.0}
    state = decode(strategy)
    assert not state.speculating and state.window == 1 and state.passes == N
    assert torch.equal(state.tokens, decode(Autoregressive()).tokens)


def test_saved_with_its_neighbours(tmp_path):
    strategy = make(acceptance="relaxed", window="auto")
    strategy.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "decoding_config.json").read_text())["acceptance"] == "relaxed"
    again = Speculative.from_pretrained(tmp_path)
    assert torch.equal(again.neighbours.nearest, TABLE.nearest)
    assert dict(again.config)["window"] == "auto"
    other = again.with_options(acceptance="grouped")
    assert other.neighbours is again.neighbours and other.config.acceptance == "grouped"
    (tmp_path / NEIGHBOURS).unlink()
    assert Speculative.from_pretrained(tmp_path).neighbours is None


def test_made_of_a_plain_strategy():
    plain = Autoregressive(temperature=0.7, top_k=9, guidance_scale=2.0)
    made = Speculative.from_config(plain.config, drafter="coupled")
    assert (made.config.temperature, made.config.top_k) == (0.7, 9)
    assert made.guidance == plain.guidance and made.config.acceptance == "seed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(acceptance="x"), "acceptance 'x' must be one of seed, exact, grouped"),
        (dict(drafter="x"), "drafter 'x' must be one of jacobi, coupled"),
        (dict(window=0), "window 0 must be a whole number"),
        (dict(window="x"), "window 'x'"),
        (dict(head_use="x"), "head_use 'x' must be one of changes, chain"),
        (dict(head_depth=0), "head_depth 0 must be a whole number"),
        (dict(initialiser="x"), "initialiser 'x' must be one of random, left"),
        (dict(coupling="x"), "coupling 'x'"),
        (dict(group_size=-1), "group_size -1"),
        (dict(relax_delta=-1.0), "relax_delta -1.0"),
        (dict(temperature=-1), "temperature -1"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        Speculative(**options)


def test_what_is_missing_is_one_line():
    run, condition = MODEL.start(captions()), captions()
    with pytest.raises(ValueError, match="needs draft_run"):
        next(Speculative(drafter="model").stream(run, GRID, seeded(1, 2, 3)))
    with pytest.raises(ValueError, match="drafter 'head' needs a trained drafter head"):
        next(Speculative(drafter="head").stream(run, GRID, seeded(1, 2, 3)))
    with pytest.raises(ValueError, match="draft_run of 1 rows"):
        draft = DRAFT.start(one(condition, 0))
        stream = Speculative(drafter="model").stream(run, GRID, seeded(1, 2, 3), draft_run=draft)
        next(stream)
    with pytest.raises(ValueError, match="needs a table of neighbours"):
        next(Speculative(acceptance="relaxed").stream(run, GRID, seeded(1, 2, 3)))
    bare = tiny(prior_dim=0).start(condition)
    with pytest.raises(ValueError, match="needs a generator with a prior"):
        next(Speculative(drafter="prior").stream(bare, GRID, seeded(1, 2, 3)))
