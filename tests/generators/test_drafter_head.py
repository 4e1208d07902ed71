import pytest
import torch

from studio.generators.autoregressive import AutoregressiveTransformer
from studio.generators.drafter_head import DrafterHead
from studio.generators.guidance import Guidance


@pytest.fixture
def target(grid, sizes, shake):
    options = dict(dim=16, num_layers=1, num_heads=2, multiple_of=16, token_levels=[2, 3, 4])
    return shake(
        AutoregressiveTransformer(
            layout=grid, head="digits", prior_dim=8, **sizes["text"], **options
        )
    )


@pytest.fixture
def head(grid, shake):
    return shake(DrafterHead(layout=grid, feature_dim=16, dim=8, num_heads=2))


def start(target, head, condition, scale=2.0):
    run = target.start(condition, guidance=Guidance(scale))
    run.extend(torch.zeros(3, 0, dtype=torch.int64))
    return run, head.start(run)


def test_saved_and_loaded(head, tmp_path):
    head.save_pretrained(tmp_path)
    again = DrafterHead.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters()))
    names = list(head.state_dict())
    assert not [n for n in names if "embed" in n or "token_head" in n]  # they are the target's


def test_a_gradient_reaches_every_weight(head):
    x = torch.randn(2, 5, 16)
    head(x, x.flip(1), rope=head.rotary("cpu")[:5], causal=True).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_one_after_the_other_is_all_at_once(target, head, make_condition, tokens, scale):
    run, drafts = start(target, head, make_condition("text"), scale)
    copies = len(run.features) // 3
    features = torch.randn(3 * copies, 9, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        embedded = target.embeddings(tokens).repeat(copies, 1, 1)
        whole = head(features, embedded, rope=head.rotary("cpu"), causal=True)
    steps = [drafts.extend(features[:, i : i + 1], tokens[:, i : i + 1]) for i in range(9)]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole)
    assert drafts.lengths == [9, 9, 9] and drafts.passes == 9
    # rows taken back to lengths of their own go on as they did
    drafts.rewind([2, 6, 4])
    rows = torch.arange(3 * copies)
    index = (torch.tensor([2, 6, 4])[:, None] + torch.arange(3)).repeat(copies, 1)
    places = rows[:, None], index
    again = drafts.extend(features[places], tokens[rows[:3, None], index[:3]])
    torch.testing.assert_close(again, whole[places])
    drafts.rewind([9, 6, 9]) if drafts.lengths[0] >= 9 else None
    past = drafts.extend(features[:, :9], tokens)  # past the end: nothing that anybody reads
    assert past.shape == whole.shape


def test_scores_are_the_targets(target, head, make_condition, tokens):
    """The target's own features give the target's own guided logits, at any place of a row."""
    run, drafts = start(target, head, make_condition("text"))
    logits = run.extend(tokens[:, :6])  # of tokens 1 .. 6
    torch.testing.assert_close(drafts.score(run.features, [1, 1, 1]), logits)
    ragged = torch.cat([run.features[i : i + 1, n : n + 2] for i, n in enumerate([0, 3, 4] * 2)])
    scored = drafts.score(ragged, [1, 4, 5])
    wanted = torch.stack([logits[i, n : n + 2] for i, n in enumerate([0, 3, 4])])
    torch.testing.assert_close(scored, wanted)
    assert drafts.score(ragged[:, :1], [12, 9, 8]).isfinite().all()  # past the end


def test_another_target_is_named(target, grid):
    wide = DrafterHead(layout=grid, feature_dim=24, dim=8, num_heads=2)
    with pytest.raises(ValueError, match="features of 24 and 9 tokens can't draft for a Autoreg"):
        wide.check_target(target)
    with pytest.raises(ValueError, match="rope '3d' must be 1d or 2d"):
        DrafterHead(layout=grid, rope="3d")
