"""Trees in the loop on tiny transformers: plain decoding's tokens, batches, kept tokens, states.

Whole distributions are in test_tree_joint.py.
"""

import pytest
import torch

from studio.decoding.autoregressive import Autoregressive
from studio.decoding.speculative import Speculative
from tests.decoding.test_speculative import DRAFT, MODEL, SAMPLING, N, decode, make
from tests.decoding.tiny_models import GRID, LAYOUTS, captions, one, tiny
from tests.decoding.toy_runs import OrderedTable, random_table, seeded

TREES = {
    "even": dict(tree="recursive", branches=2, drafter="prior", window=8),
    "model": dict(tree="recursive", branches=[3, 2, 1], drafter="model", window=13),
    "last": dict(tree="recursive", branches=[2, 1, 1], drafter="jacobi", window=7),
    "greedy": dict(tree="greedy", drafter="prior", window=8),
    "greedy-last": dict(tree="greedy", drafter="jacobi", window=8),
}
CHAINS = dict(tree="kseq", branches=3, drafter="prior", window=10)


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("sampling", SAMPLING[::2])
def test_seed_faithful_trees_are_plain_decoding(name, sampling):
    plain = decode(Autoregressive(**sampling))
    state = decode(make(**TREES[name], **sampling))
    assert torch.equal(state.tokens, plain.tokens) and state.passes <= N


@pytest.mark.parametrize("name", ["even", "greedy-last"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout, name):
    model = tiny(LAYOUTS[layout])
    plain = decode(Autoregressive(guidance_scale=2.0), model)
    options = dict(TREES[name], guidance_scale=2.0)
    assert torch.equal(decode(make(**options), model).tokens, plain.tokens)
    other = decode(make(acceptance="exact", **options), model)
    sizes = [s.vocab_size for s in model.layout.segments for _ in range(s.num_tokens)]
    assert (other.tokens < torch.tensor(sizes)).all()


RULED = [
    dict(acceptance="seed", **TREES["even"]),
    dict(acceptance="seed", **TREES["greedy-last"]),
    *(dict(acceptance="exact", **options) for options in TREES.values()),
    dict(acceptance="exact", **CHAINS),
    dict(acceptance="exact", **{**CHAINS, "drafter": "model", "window": 7}),
    dict(acceptance="relaxed", relax_neighbours=4, relax_delta=3.0, **TREES["even"]),
]


@pytest.mark.parametrize("options", RULED)
def test_a_row_alone_is_the_row_in_a_batch(options):
    """Token by token, though rows accept differently many in the same pass."""
    strategy = make(guidance_scale=2.0, **options)
    condition, counts = captions(), []
    together = decode(strategy, condition=condition, seen=counts)
    assert any(len(set(accepted)) > 1 for accepted in counts)
    for row in range(3):
        alone = decode(strategy, condition=one(condition, row), seeds=(4 + row,))
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert alone.passes <= together.passes


@pytest.mark.parametrize("options", [RULED[i] for i in (0, 2, 3, 5, 7)])
def test_rows_with_different_kept_tokens_are_as_if_alone(options):
    keep = torch.zeros(3, N, dtype=torch.bool)
    keep[0, :5], keep[1, 3:6], keep[1, N - 1], keep[2] = True, True, True, True
    given = torch.randint(24, (3, N), generator=torch.Generator().manual_seed(0))
    state = decode(make(**options), given=given, keep=keep)
    assert torch.equal(state.tokens[keep], given[keep]) and state.known.all()
    own = dict(given=given[1:2], keep=keep[1:2])
    alone = decode(make(**options), condition=one(captions(), 1), seeds=(5,), **own)
    assert torch.equal(alone.tokens[0], state.tokens[1])
    if options["acceptance"] == "seed":
        plain = decode(Autoregressive(), given=given, keep=keep)
        assert torch.equal(state.tokens, plain.tokens)


@pytest.mark.parametrize("name", ["even", "greedy-last"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_num_tokens_makes_the_same_prefix(name, count):
    whole = decode(Autoregressive())
    part = decode(make(**TREES[name]), num_tokens=count)
    assert part.num_steps == part.step == count and not part.tokens[:, count:].any()
    assert torch.equal(part.tokens[:, :count], whole.tokens[:, :count])


def test_relaxed_trees_without_slack_are_the_exact_stream():
    for options in (TREES["even"], TREES["greedy"]):
        wanted = decode(make(acceptance="exact", **options))
        state = decode(make(acceptance="relaxed", relax_delta=0.0, **options))
        assert torch.equal(state.tokens, wanted.tokens) and state.passes == wanted.passes


def test_more_branches_save_passes():
    """Of trees of the same depth, over twenty pictures."""
    condition, seeds = captions(20), range(20)
    options = dict(drafter="prior", tree="recursive", window=33)
    for rule in ("seed", "exact"):
        passes = []
        for branches in ([1, 1, 1], [3, 2, 2]):
            seen = []
            strategy = make(acceptance=rule, branches=branches, **options)
            decode(strategy, condition=condition, seeds=seeds, seen=seen)
            passes.append(sum(map(sum, seen)) / len(seen))
        assert passes[1] > 1.2 * passes[0]


def test_what_states_say():
    strategy = make(acceptance="exact", **TREES["model"])
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
        assert (state.accepted <= state.proposed).all() and (state.proposed <= 12).all()
        assert (state.proposed[before == N] == 0).all()
        assert not state.tokens[~state.known].any() and state.speculating
        before = made
    assert state.known.all() and state.draft_passes == draft.passes > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(tree="x"), "tree 'x' must be one of recursive, greedy, kseq"),
        (dict(tree="greedy"), None),
        (dict(tree="greedy", drafter="model"), "tree 'greedy' needs drafter prior or jacobi, not"),
        (dict(tree="recursive", drafter="coupled"), "needs drafter prior or jacobi or model"),
        (dict(tree="kseq", drafter="prior"), "tree 'kseq' needs acceptance exact, not 'seed'"),
        (
            dict(tree="recursive", acceptance="annealed"),
            "needs acceptance seed or exact or relaxed",
        ),
        (dict(tree="recursive", branches=0), "branches 0 must be a whole number"),
        (dict(tree="recursive", branches=[]), r"branches \[\] must be one number"),
        (dict(tree="greedy", branches=[2, 1]), r"branches \[2, 1\] must be one number"),
        (dict(tree="recursive", window="auto"), "window 'auto' is for chains"),
    ],
)
def test_bad_options_are_one_line(options, message):
    if message is None:
        assert Speculative(**options).config.tree == options["tree"]
        return
    with pytest.raises(ValueError, match=message):
        Speculative(**options)


def test_what_is_missing_is_one_line():
    run, strategy = MODEL.start(captions()), Speculative(tree="recursive", drafter="model")
    with pytest.raises(ValueError, match="needs draft_run"):
        next(strategy.stream(run, GRID, seeded(1, 2, 3)))
    bare = tiny(prior_dim=0).start(captions())
    with pytest.raises(ValueError, match="needs a generator with a prior"):
        next(Speculative(tree="greedy", drafter="prior").stream(bare, GRID, seeded(1, 2, 3)))
    table = OrderedTable(random_table(1, N, 25, 24), N)
    with pytest.raises(ValueError, match="trees need a run that scores them, not OrderedTable"):
        next(Speculative(tree="recursive").stream(table, GRID, seeded(1)))
