"""Exactness over whole sequences: 40,000 of them against the known joint of a toy.

One-token tests are not enough: a wrong record of what a draft was drawn from only shows in joints
of three tokens and more. So mistakes of that kind are planted here, and must be caught.
"""

import numpy as np
import pytest
import torch

from studio.decoding import drafting, loop
from studio.decoding.acceptance import num_accepted
from studio.decoding.autoregressive import Autoregressive
from studio.decoding.noise import stream_states
from studio.decoding.sampling import pick
from studio.decoding.speculative import Speculative
from studio.outputs import TokenLayout
from tests.decoding.joints import (
    JointHead,
    JointRun,
    T,
    V,
    chi_square,
    conditionals,
    joint,
    outcomes,
)
from tests.decoding.toy_runs import last, seeded

ROWS = 40_000
LAYOUT = TokenLayout.single((T,), V)
TABLES, DRAFT_TABLES = conditionals(1), conditionals(2)
SEEDS = [0, 1, 2]
EXACT = {
    "jacobi": dict(drafter="jacobi", initialiser="random"),
    "jacobi-left": dict(drafter="jacobi", window=3),
    "jacobi-prior": dict(drafter="jacobi", initialiser="prior", window=3),
    "maximal": dict(drafter="coupled", window=5),
    "gumbel": dict(drafter="coupled", coupling="gumbel", window=5),
    "prior": dict(drafter="prior", window=3),
    "model": dict(drafter="model", window=3),
    "recycling": dict(drafter="recycling", window=3),
    "head": dict(drafter="head", window=4),
    "head-gumbel": dict(drafter="head", coupling="gumbel", window=4),
    "head-chain": dict(drafter="head", head_use="chain", head_depth=2, window=5),
    "filtered": dict(drafter="coupled", temperature=0.7, top_k=3, window=4),
}


def keys_of(seed, rows=ROWS):
    """Keys of 63 bits, cheaper than a generator a row."""
    return stream_states(seed + 77, np.arange(rows)) >> np.uint64(1)


def decode(strategy, seed=0, rows=ROWS):
    run, draft = JointRun(TABLES, rows), JointRun(DRAFT_TABLES, rows)
    if strategy.config.drafter == "head":
        draft = JointHead(DRAFT_TABLES, run)
    tokens = torch.zeros(rows, T, dtype=torch.int64)
    keys = keys_of(seed, rows)
    state = last(strategy.states(run, LAYOUT, keys, tokens, tokens.bool(), T, draft))
    assert bool(state.known.all())
    return state.tokens


def p_value(tokens, temperature=1.0, top_k=V):
    cut = [t.masked_fill(t < t.topk(top_k, -1).values[:, -1:], -torch.inf) for t in TABLES]
    return chi_square(outcomes(tokens), joint([t / temperature for t in cut]))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", EXACT)
def test_exact_decoding_has_the_joint_of_the_target(name, seed):
    options = {"window": 4, **EXACT[name]}
    tokens = decode(Speculative(acceptance="exact", **options), seed)
    assert p_value(tokens, options.get("temperature", 1.0), options.get("top_k", V)) > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_seed_faithful_decoding_has_the_joint_of_the_target(seed):
    tokens = decode(Speculative(window=1), seed)  # plain decoding
    assert p_value(tokens) > 1e-3
    for name, options in EXACT.items():
        if name != "filtered":
            few = decode(Speculative(**{"window": 4, **options}), seed, rows=2000)
            assert torch.equal(few, tokens[:2000]), name


def test_plain_decoding_is_the_window_of_one():
    seeds = range(20)
    plain = last(Autoregressive().stream(JointRun(TABLES, 20), LAYOUT, seeded(*seeds)))
    ours = last(Speculative(window=1).stream(JointRun(TABLES, 20), LAYOUT, seeded(*seeds)))
    assert torch.equal(ours.tokens, plain.tokens) and not ours.proposed.any()


@pytest.mark.parametrize(
    "lossy",
    [
        dict(acceptance="grouped", group_size=2, group_delta=1.0),
        dict(acceptance="annealed", anneal_delta=3.0, anneal_nu=0.0),
    ],
)
def test_lossy_rules_are_seen_by_the_same_test(lossy):
    assert p_value(decode(Speculative(drafter="coupled", window=4, **lossy))) < 1e-3


class StaleDrafter(drafting.CoupledDrafter):
    """Planted: a kept draft goes on carrying the distribution it was first drawn from."""

    def look(self, seen):
        tokens = super().look(seen)
        count = seen.draft_tokens.shape[1]
        if count:
            kept = (tokens[:, :count] == seen.draft_tokens).unsqueeze(-1)
            stale = torch.where(kept, seen.draft_probs, seen.probs[:, :count])
            self._probs = torch.cat((stale, seen.probs[:, count:]), dim=1)
        return tokens


class ShiftedDrafter(drafting.JacobiDrafter):
    """Planted: every draft carries the distribution of the position after it."""

    def look(self, seen):
        tokens = super().look(seen)
        self._probs = seen.probs.roll(-1, dims=1)
        return tokens


class WrongDrafter(drafting.ModelDrafter):
    """Planted: drafts of a model are said to be drawn at another temperature."""

    def propose(self, count):
        draft = super().propose(count)
        return drafting.Draft(draft.tokens, draft.probs.sqrt() / draft.probs.sqrt().sum(-1, True))


def unnormalised(p, q, tokens, u, v, limits, rule):
    """Planted: what is left after a rejection is drawn from as if its sum were 1."""
    accepted = num_accepted(u < rule(p[:, :-1], q, tokens), limits)
    rows = torch.arange(len(p))
    other = torch.cat((q, torch.zeros_like(p[:, :1])), dim=1)[rows, accepted]
    other = torch.where((accepted < limits)[:, None], other, 0)
    left = (p[rows, accepted] - other).clamp(min=0)
    left[:, -1] += 1 - left.sum(dim=1)
    return accepted, pick(left, v[rows, accepted])


@pytest.mark.parametrize("planted", [StaleDrafter, ShiftedDrafter, WrongDrafter])
def test_a_wrong_record_of_the_draft_is_caught(planted, monkeypatch):
    monkeypatch.setitem(drafting.DRAFTERS, "planted", planted)
    assert p_value(decode(Speculative(acceptance="exact", drafter="planted", window=5))) < 1e-6


def test_a_missing_renormalisation_is_caught(monkeypatch):
    monkeypatch.setattr(loop, "verify_chain", unnormalised)
    strategy = Speculative(acceptance="exact", drafter="coupled", window=4)
    assert p_value(decode(strategy)) < 1e-6
