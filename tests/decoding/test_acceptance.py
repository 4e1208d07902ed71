import pytest
import torch

from studio.decoding import acceptance as rules
from studio.decoding.sampling import pick

V = 12


def dists(*shape, seed=0, sharpness=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, V, generator=generator).double() * sharpness).softmax(-1)


def uniforms(*shape, seed=9):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stepped(p, q, rule=rules.exact):
    """The exact distribution of one step: drafted from q, judged against p, replaced."""
    every = torch.arange(V).expand(len(p), V)
    chance = torch.stack([rule(p, q, every[:, x]) for x in range(V)], dim=1)  # (B, V)
    accepted = q * torch.nan_to_num(chance)
    return accepted + (q.sum(1, keepdim=True) - accepted.sum(1, keepdim=True)) * rules.residual(
        p, q
    )


def test_the_exact_step_gives_p_to_the_last_bits():
    p, q = dists(50, seed=1), dists(50, seed=2)
    assert (stepped(p, q) - p).abs().max() < 1e-12
    sparse = q * (q > q.median())  # a drafter that can't draw some tokens
    sparse = sparse / sparse.sum(1, keepdim=True)
    assert (stepped(p, sparse) - p).abs().max() < 1e-12
    mass = rules.one_hot(q.argmax(1), p)
    assert (stepped(p, mass) - p).abs().max() < 1e-12


def test_nothing_left_to_draw_from_falls_back_to_p():
    p = dists(3)
    assert torch.equal(rules.residual(p, p), p)


def neighbours(seed=3):
    codes = torch.randn(V, 3, generator=torch.Generator().manual_seed(seed)).double()
    distance = torch.cdist(codes, codes).fill_diagonal_(torch.inf)
    return codes, distance.argsort(1)[:, : V - 1]


def slackless():
    codes, nearest = neighbours()
    return {
        "grouped of no size": lambda p, q, x: rules.grouped(p, q, x, size=0, codebook=codes),
        "grouped of no delta": lambda p, q, x: rules.grouped(p, q, x, delta=0.0, codebook=codes),
        "relaxed to no one": lambda p, q, x: rules.relaxed(p, q, x, nearest=nearest, k=0),
        "relaxed by nothing": lambda p, q, x: rules.relaxed(p, q, x, nearest=nearest, delta=0.0),
        "annealed by nothing": lambda p, q, x: rules.annealed(p, q, x, delta=1.0),
    }


@pytest.mark.parametrize("name", list(slackless()))
def test_no_slack_is_the_exact_rule_to_the_bit(name):
    p, q = dists(40, 5, seed=4).float(), dists(40, 5, seed=5).float()
    tokens = pick(q, uniforms(40, 5))
    assert torch.equal(slackless()[name](p, q, tokens), rules.exact(p, q, tokens))


def slack():
    _, nearest = neighbours()
    return {
        "grouped": lambda p, q, x: rules.grouped(p, q, x, size=4),
        "relaxed": lambda p, q, x: rules.relaxed(p, q, x, nearest=nearest, k=5, delta=0.3),
        "annealed": lambda p, q, x: rules.annealed(
            p.unsqueeze(1), q.unsqueeze(1), x.unsqueeze(1), delta=1.5
        ).squeeze(1),
    }


@pytest.mark.parametrize("name", list(slack()))
def test_a_lossy_step_is_as_far_from_p_as_it_accepts_more(name):
    rule = slack()[name]
    p, q = dists(60, seed=6), dists(60, seed=7)
    every = [torch.full((60,), x) for x in range(V)]
    more = torch.stack([rule(p, q, x) - rules.exact(p, q, x) for x in every], 1)
    moved = (stepped(p, q, rule) - p).abs().sum(1) / 2
    assert (moved <= (q * more.abs()).sum(1) + 1e-12).all() and moved.max() > 1e-3


def test_group_of_the_released_code():
    """Ranks 7 below to 6 above, alone with fewer than 7 below; of the paper, G / 2 each side."""
    p = torch.arange(1.0, 31.0)[None] / 465.0
    open_ended = dict(delta=1.0, distance=None)
    for token, size in ((3, 1), (7, 14), (20, 14), (29, 8)):
        x = torch.tensor([token])
        members, kept = rules.group(p, x, **open_ended)
        assert int(kept.sum()) == size and token in members[kept].tolist()
    members, kept = rules.group(p, torch.tensor([0]), size=6, **open_ended)
    assert members[kept].tolist() == [0, 1, 2, 3]
    _, kept = rules.group(p, torch.tensor([20]), size=6, delta=2.5 / 465, distance=None)
    assert int(kept.sum()) == 5
    codes = torch.arange(30.0)[:, None] / 2
    _, kept = rules.group(p, torch.tensor([20]), size=6, delta=1.0, distance=1.1, codebook=codes)
    assert int(kept.sum()) == 5


def test_masked_tokens_are_no_members_unless_asked():
    p = torch.zeros(1, 20)
    p[0, 10:] = 0.1
    x = torch.tensor([12])
    few, many = (rules.group(p, x, size=10, masked=m)[1].sum() for m in (False, True))
    assert int(few) < int(many)


def test_relaxed_mass_is_bounded():
    p, (_, nearest) = dists(200, seed=8), neighbours()
    x = torch.randint(V, (200,), generator=torch.Generator().manual_seed(1))
    own = rules.prob_of(p, x)
    mass, absorbed = rules.relaxed_mass(p, x, nearest, k=6, delta=0.2)
    assert (mass - own <= 0.2).all() and (absorbed > 0).any() and (absorbed <= 6).all()
    wanted = torch.stack(
        [p[i, x[i]] + p[i, nearest[x[i], : absorbed[i]]].sum() for i in range(200)]
    )
    torch.testing.assert_close(mass, wanted)
    mass, _ = rules.relaxed_mass(p, x, nearest, k=6, delta=3.0)
    assert (mass <= 3.0 * own + 1e-12).all() and (mass > own).any()


def test_annealed_slack_falls_with_the_place_and_never_below_exact():
    p, q = dists(1, 8, seed=10), dists(1, 8, seed=11)
    x = pick(q, uniforms(1, 8))
    exact = rules.prob_of(p, x) / rules.prob_of(q, x)
    chance = rules.annealed(p, q, x, delta=2.0, nu=0.2)
    slack = (chance / exact)[chance < 1]
    assert (slack >= 1).all() and (slack.diff() <= 1e-12).all()


def test_rows_stop_at_their_own_rejection_and_limit():
    accepted = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]).bool()
    limits = torch.tensor([4, 4, 4, 2])
    assert rules.num_accepted(accepted, limits).tolist() == [2, 4, 0, 2]
    drafts = torch.tensor([[5, 6, 7]])
    assert rules.leading_matches(torch.tensor([[5, 6, 1]]), drafts, torch.tensor([3])).item() == 2


def test_a_chain_ends_in_a_replacement_or_a_draw():
    p, q = dists(2000, 3, seed=12), dists(2000, 2, seed=13)
    x = pick(q, uniforms(2000, 2, seed=1))
    limits = torch.full((2000,), 2)
    limits[:3] = torch.tensor([-1, 0, 1])
    u, v = uniforms(2000, 2, seed=2), uniforms(2000, 3, seed=3)
    accepted, token = rules.verify_chain(p, q, x, u, v, limits)
    assert accepted[0] == 0 and accepted[1] == 0 and accepted[2] <= 1
    assert set(accepted.tolist()) == {0, 1, 2}
    rejected = (accepted == 0) & (limits > 0)
    left = rules.residual(p[:, 0], q[:, 0])
    assert torch.equal(token[rejected], pick(left, v[:, 0])[rejected])
    assert torch.equal(token[accepted == 2], pick(p[:, 2], v[:, 2])[accepted == 2])
    assert (token[rejected] != x[rejected, 0]).all()


def test_coupled_draws_are_draws_from_p_that_seldom_change():
    p, q = dists(1, seed=14).expand(20_000, V), dists(1, seed=15).expand(20_000, V)
    x = pick(q, uniforms(20_000, seed=4))
    drawn = rules.couple(p, q, x, uniforms(20_000, seed=5), uniforms(20_000, seed=6))
    expected = p[0] * 20_000
    counts = torch.bincount(drawn, minlength=V)
    assert ((counts - expected) ** 2 / expected).sum() < 31.3  # 99.9th percentile, 11 degrees
    same = (drawn == x).double().mean()
    assert same == pytest.approx(float(torch.minimum(p[0], q[0]).sum()), abs=0.02)
