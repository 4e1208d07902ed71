"""Trees are exact over whole sequences: the known joint of a toy, and mistakes that it catches."""

import pytest
import torch

from studio.decoding import tree_drafting, tree_loop, trees
from studio.decoding.speculative import Speculative
from tests.decoding.joints import V, chi_square, joint, outcomes
from tests.decoding.test_speculative_joint import ROWS, TABLES, decode, p_value

EXACT = {
    "recursive-prior": dict(drafter="prior", tree="recursive", branches=2, window=7),
    "recursive-jacobi": dict(drafter="jacobi", tree="recursive", branches=[2, 2], window=7),
    "recursive-model": dict(drafter="model", tree="recursive", branches=[2, 2], window=7),
    "kseq-prior": dict(drafter="prior", tree="kseq", branches=3, window=7),
    "kseq-model": dict(drafter="model", tree="kseq", branches=2, window=7),
    "greedy-prior": dict(drafter="prior", tree="greedy", window=6),
    "greedy-jacobi": dict(drafter="jacobi", tree="greedy", window=6),
}


def decoded(name, seed=1, *, full=False):
    """A p-value: of whole sequences, or of fewer where they cost more and `full` is not asked."""
    options = EXACT[name]
    slow = not full and (options["drafter"] == "model" or options["tree"] == "greedy")
    rows = ROWS // (16 if options["tree"] == "greedy" else 4) if slow else ROWS
    tokens = decode(Speculative(acceptance="exact", **options), seed=seed, rows=rows)
    if not slow:
        return p_value(tokens)
    mass = joint(TABLES).view(V**3, -1).sum(1)  # of the first three tokens
    return chi_square(outcomes(tokens).view(V**3, -1).sum(1), mass)


@pytest.mark.parametrize("name", EXACT)
def test_trees_have_the_joint_of_the_target(name):
    assert decoded(name) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("seed", (1, 2, 3))
@pytest.mark.parametrize("name", EXACT)
def test_trees_have_the_joint_of_the_target_over_all_rows(name, seed):
    assert decoded(name, seed, full=True) > 1e-3


def test_seed_faithful_trees_are_plain_decoding():
    plain = decode(Speculative(window=1), rows=500)
    for options in EXACT.values():
        if options["tree"] != "kseq":
            assert torch.equal(decode(Speculative(**options), rows=500), plain)


def test_one_branch_is_the_chain():
    """With the same numbers for the same places, the same tokens."""
    for drafter in ("prior", "model"):
        options = dict(acceptance="exact", drafter=drafter, window=4)
        chain = decode(Speculative(**options), rows=500)
        for tree in ("recursive", "kseq"):
            found = decode(Speculative(tree=tree, branches=1, **options), rows=500)
            assert torch.equal(found, chain)


# --- planted mistakes ----------------------------------------------------------------------------


def forgotten(q, tokens):
    """What is left of the draft is not of sum 1."""
    return q.scatter(-1, tokens.unsqueeze(-1), 0.0)


def one_chain(p, q, k, **options):
    """K-SEQ tests three drafts by the rule for one."""
    return torch.ones_like(p[:, 0])


def shared(row):
    """Drafts of all nodes at one depth come from one number, though where nodes are depends on
    what was drawn."""

    class Same:
        def __getitem__(self, node):
            return row[0]

    return Same()


PLANTED = [
    (trees, "without", forgotten, "recursive-model"),
    (tree_loop, "kseq_rho", one_chain, "kseq-prior"),
]


@pytest.mark.parametrize(("module", "name", "mistake", "options"), PLANTED)
def test_a_mistake_at_a_node_is_caught(module, name, mistake, options, monkeypatch):
    monkeypatch.setattr(module, name, mistake)
    assert decoded(options) < 1e-6


def test_numbers_that_nodes_of_a_greedy_tree_share_are_caught(monkeypatch):
    grow = tree_drafting.grow_levels
    monkeypatch.setattr(
        tree_drafting,
        "grow_levels",
        lambda table, budget, u, **o: grow(table, budget, shared(u), **o),
    )
    assert decoded("greedy-prior") < 1e-6


def test_a_draft_that_is_not_what_it_was_drawn_from_is_caught(monkeypatch):
    drawn = tree_drafting.TreeDrafter._drawn

    def wrong(self, *args, **options):
        tokens, probs = drawn(self, *args, **options)
        return tokens, probs.sqrt() / probs.sqrt().sum(-1, keepdim=True)

    monkeypatch.setattr(tree_drafting.TreeDrafter, "_drawn", wrong)
    assert decoded("recursive-prior") < 1e-6
