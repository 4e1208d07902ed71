"""Vocos backbone: its reach, its conditions, and gradients."""

import pytest
import torch

from studio.layers.vocos import VocosBackbone


def backbone(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VocosBackbone(6, 32, 48, 2, **options).eval()


def frames(count, seed=0):
    return torch.randn(2, 6, count, generator=torch.Generator().manual_seed(seed))


def test_a_frame_depends_on_its_reach_and_no_further():
    model = backbone()
    x = frames(40)
    changed = x.clone()
    changed[..., 20] += 1
    moved = (model(x) - model(changed)).abs().amax((0, 2)) > 1e-7
    assert model.reach == 9 and moved.nonzero().flatten().tolist() == list(range(11, 30))
    assert model(x).shape == (2, 40, 32)


def test_attention_sees_the_whole_clip():
    model = backbone(use_attention=True)
    x = frames(40)
    changed = x.clone()
    changed[..., 0] += 1
    assert model.reach is None and ((model(x) - model(changed)).abs() > 1e-9)[:, -1].any()
    with pytest.raises(ValueError, match="backbone dim 40 must be a multiple of 32"):
        VocosBackbone(6, 40, 48, 2, use_attention=True)


def test_conditions_pick_their_norms():
    model = backbone(num_conditions=3)
    torch.nn.init.normal_(model.norm.scale.weight)
    x = frames(8)
    both = model(x, torch.tensor([0, 2]))
    assert torch.allclose(both[0], model(x)[0], atol=1e-6)
    assert torch.allclose(both[1], model(x, 2)[1], atol=1e-6)
    assert not torch.allclose(model(x), model(x, 1), atol=1e-3)
    with pytest.raises(ValueError, match="condition 3 must lie between 0 and 2"):
        model(x, 3)
    with pytest.raises(ValueError, match="condition 1: the norms of this backbone take none"):
        backbone()(x, 1)


@pytest.mark.parametrize("options", [{}, {"num_conditions": 2, "use_attention": True}])
def test_a_gradient_reaches_every_parameter(options):
    model = backbone(**options)
    model(frames(8)).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
