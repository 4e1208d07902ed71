"""Tiny conditions and tokens that the generator tests share."""

import pytest
import torch

from studio.generators.conditioning import ClassCondition, FeatureCondition, TextCondition
from studio.outputs import TokenLayout

LEVELS = [2, 3, 4]
# Sizes of every kind of condition, as a generator's config takes them.
SIZES = {
    "class": dict(condition="class", num_classes=5),
    "text": dict(condition="text", text_vocab_size=30, num_condition_tokens=6, text_layers=1),
    "features": dict(condition="features", caption_dim=10, num_condition_tokens=6),
}


@pytest.fixture(params=list(SIZES))
def kind(request):
    return request.param


@pytest.fixture
def sizes():
    return SIZES


@pytest.fixture
def grid():
    return TokenLayout.single((3, 3), 24).to_dict()


@pytest.fixture
def tokens():
    return torch.randint(24, (3, 9), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def make_condition():
    def make(kind):
        """Three rows; captions of 2, 5 and 1 tokens, features padded on the left."""
        if kind == "class":
            return ClassCondition(torch.tensor([1, 4, 0]))
        rng = torch.Generator().manual_seed(3)
        lengths = torch.tensor([[2], [5], [1]])
        mask = torch.arange(5) < lengths  # (3, 5)
        if kind == "text":
            return TextCondition(torch.randint(30, (3, 5), generator=rng) * mask, mask)
        mask = mask.flip(1)
        return FeatureCondition(torch.randn(3, 5, 10, generator=rng) * mask.unsqueeze(-1), mask)

    return make


@pytest.fixture
def shake():
    def shake(model):
        """Moves every weight, so that none is left at zero or one, and switches dropout off."""
        rng = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=rng) * 0.1)
        return model.eval()

    return shake
