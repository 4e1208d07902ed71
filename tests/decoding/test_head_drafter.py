"""Drafts from the target's own features: what is read, when, and what it saves."""

import numpy as np
import pytest
import torch

from studio.decoding.autoregressive import Autoregressive
from studio.decoding.costs import head_costs
from studio.decoding.head_drafter import HEAD_USES, _columns
from studio.decoding.speculative import Speculative
from tests.decoding.joints import JointHead, JointRun, T, conditionals
from tests.decoding.tiny_models import GRID, captions, tiny, tiny_head
from tests.decoding.toy_runs import last, seeded

MODEL = tiny()
LAYOUT = GRID.single((T,), 4)


@pytest.mark.parametrize("rule", ["seed", "exact"])
def test_a_chain_of_a_head_that_is_right_is_always_accepted(rule):
    tables = conditionals(3)
    run = JointRun(tables, 50)
    strategy = Speculative(acceptance=rule, drafter="head", head_use="chain", window=T)
    draft = JointHead(tables, run)
    states = strategy.states(
        run,
        LAYOUT,
        np.arange(1, 51, dtype=np.uint64),
        torch.zeros(50, T, dtype=torch.int64),
        torch.zeros(50, T, dtype=torch.bool),
        T,
        draft,
    )
    first, second = list(states)  # the first pass knew no features
    assert not first.known.all() and second.known.all()
    missing = T - first.known.sum(1)
    assert torch.equal(second.accepted, missing.where(missing == 0, missing - 1))


def heads_beside(strategy, condition):
    run = MODEL.start(condition, guidance=strategy.guidance)
    return run, tiny_head(MODEL).start(run)


@pytest.mark.parametrize("use", HEAD_USES)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_features_of_all_that_stands_are_read_once(guidance, use, monkeypatch):
    """Each token once with the target's feature, whatever was predicted in between."""
    strategy = Speculative(drafter="head", head_use=use, window=5, guidance_scale=guidance)
    condition = captions()
    run, draft = heads_beside(strategy, condition)
    extend, rewind, fed, kept = draft.extend, draft.rewind, [], []

    def watch(features, tokens):
        fed.append((list(draft.lengths), features.clone(), tokens.clone()))
        return extend(features, tokens)

    monkeypatch.setattr(draft, "extend", watch)
    monkeypatch.setattr(draft, "rewind", lambda n: (kept.append(n), rewind(n)))
    tokens = last(strategy.stream(run, GRID, seeded(1, 2, 3), draft_run=draft)).tokens
    whole = MODEL.start(condition, guidance=strategy.guidance)
    whole.extend(tokens)
    for row in range(len(run.features)):
        truly = set()
        for lengths, features, ids in fed:
            for i, place in enumerate(range(lengths[row % 3], min(12, lengths[row % 3] + 5))):
                same = i < ids.shape[1] and ids[row % 3, i] == tokens[row % 3, place]
                if same and torch.allclose(features[row, i], whole.features[row, place], atol=1e-5):
                    truly.add(place)
        assert set(range(kept[-1][row % 3])) <= truly and kept[-1][row % 3] > 4


@pytest.mark.parametrize("use", HEAD_USES)
def test_given_tokens_in_front_are_read_as_well(use):
    strategy = Speculative(drafter="head", head_use=use, window=4)
    condition = captions()
    run, draft = heads_beside(strategy, condition)
    given = torch.randint(24, (3, 12), generator=torch.Generator().manual_seed(0))
    keep = torch.arange(12) < torch.tensor([[0], [5], [12]])
    states = strategy.stream(run, GRID, seeded(1, 2, 3), given=given, keep=keep, draft_run=draft)
    plain = MODEL.start(condition)
    wanted = last(Autoregressive().stream(plain, GRID, seeded(1, 2, 3), given=given, keep=keep))
    assert torch.equal(last(states).tokens, wanted.tokens)
    assert draft.lengths[1] > 5


@pytest.mark.parametrize("use", HEAD_USES)
def test_a_pass_of_one_token_keeps_features_for_later(use):
    """The window closes and opens again: what was not read meanwhile is read then."""
    strategy = Speculative(drafter="head", head_use=use, window=4)
    run, draft = heads_beside(strategy, captions())
    window = strategy._make_window(run, draft, 3)
    sizes, calls = window.sizes, []

    def closing(left):
        calls.append(1)
        return np.minimum(1 if len(calls) in (2, 3) else 4, left) + 0 * sizes(left)

    window.sizes = closing
    strategy._make_window = lambda *_: window
    state = last(strategy.stream(run, GRID, seeded(1, 2, 3), draft_run=draft))
    plain = last(Autoregressive().stream(MODEL.start(captions()), GRID, seeded(1, 2, 3)))
    assert torch.equal(state.tokens, plain.tokens)


def test_columns_of_guided_copies_are_alike():
    values = torch.arange(24.0).view(4, 3, 2)
    taken = _columns(values, np.array([[2, 0], [1, 1]]))
    assert torch.equal(taken[0], values[0, [2, 0]]) and torch.equal(taken[3], values[3, [1, 1]])


def test_what_drafts_cost_is_part_of_the_window():
    head, run = tiny_head(MODEL), MODEL.start(captions())
    each = head_costs(head, MODEL, 4, Autoregressive().guidance, (1, 4))
    assert each == head_costs(head, MODEL, 4, Autoregressive().guidance, (1, 4))
    assert all(0 < seconds < 1 for seconds in each.values())
    for use, wanted in (("chain", 2 * each[1]), ("changes", 2 * each[4])):
        strategy = Speculative(drafter="head", window="auto", head_use=use, head_depth=2)
        costs = strategy._with_drafting({1: 1.0, 4: 1.0}, run, head.start(run), 4)
        assert costs[4] == pytest.approx(1.0 + wanted)
    assert costs[1] == 1.0
