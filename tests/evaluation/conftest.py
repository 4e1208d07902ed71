"""Tiny features and pictures that the evaluation tests share."""

import pytest
import torch

from studio.evaluation.features import ImageTextFeatures

NAMES = ["red apple", "rocket", "cat", "black cat", "sun", "anchor"]


@pytest.fixture
def features():
    """Untrained features over six names, with a gallery of six directions."""
    torch.manual_seed(0)
    model = ImageTextFeatures(
        NAMES, ["red", "white"], image_size=16, dim=8, channels=(8, 12), width=4
    )
    for norm in (m for m in model.modules() if hasattr(m, "running_var")):
        norm.running_var.uniform_(0.5, 1.5)
    model.gallery.copy_(torch.eye(8)[:6])
    return model.eval()


@pytest.fixture
def pictures():
    """Eight smooth random pictures (8, 3, 32, 32) in [-1, 1]."""
    noise = torch.rand(8, 3, 5, 5, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return torch.nn.functional.interpolate(noise, (32, 32), mode="bilinear")  # (8, 3, 32, 32)
