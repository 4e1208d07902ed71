"""The metrics against closed forms and cases that are clear by hand."""

import pytest
import torch

from studio.evaluation.metrics import (
    diversity,
    frechet_distance,
    moments,
    precision_recall,
    retrieval,
)


def draws(count, dim, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_distance_of_a_set_to_itself_is_zero():
    x = draws(50, 6)
    assert frechet_distance(x, x) < 1e-9
    assert frechet_distance(draws(5, 40), draws(5, 40)) < 1e-9  # fewer pictures than dimensions


def test_distance_of_a_shift_is_its_square():
    x = draws(60, 5)
    assert frechet_distance(x, x + 2.0) == pytest.approx(5 * 4.0, rel=1e-5)


def test_distance_of_diagonal_gaussians():
    x = draws(4000, 3)
    x = (x - x.mean(0)) @ torch.linalg.inv(
        torch.linalg.cholesky(torch.cov(x.T))
    ).T  # unit covariance
    assert frechet_distance(3 * x, x) == pytest.approx(3 * (3 - 1) ** 2, rel=1e-4)


def test_distance_against_scipy():
    linalg = pytest.importorskip("scipy.linalg", reason="scipy is not installed (extra eval)")
    x, y = draws(90, 7), draws(80, 7, 1) @ draws(7, 7, 2) + 0.3
    (mx, cx), (my, cy) = moments(x), moments(y)
    cross = linalg.sqrtm((cx @ cy).numpy()).real.trace()
    expected = (mx - my).square().sum() + cx.trace() + cy.trace() - 2 * cross
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-6)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-6)


def test_few_pictures_are_refused():
    with pytest.raises(ValueError, match="features of 1 pictures: at least 2"):
        moments(draws(1, 4))
    with pytest.raises(ValueError, match="at least 2"):
        diversity(draws(1, 4))
    with pytest.raises(ValueError, match="k 3 must be smaller"):
        precision_recall(draws(3, 4), draws(9, 4))


def test_retrieval_counts_first_and_first_five():
    gallery = torch.eye(8)
    features = torch.eye(8)[[0, 1, 2]] * 0.4 + torch.eye(8)[[0, 3, 2]]
    found = retrieval(features, torch.tensor([0, 1, 7]), gallery)
    assert found["top1"] == pytest.approx(1 / 3)
    assert found["top5"] >= 2 / 3


def test_diversity_of_equal_and_of_orthogonal_pictures():
    assert diversity(torch.ones(4, 5)) == pytest.approx(0.0, abs=1e-9)
    assert diversity(torch.eye(5)) == pytest.approx(1.0)


def test_precision_and_recall():
    x = draws(40, 3)
    assert precision_recall(x, x) == {"precision": 1.0, "recall": 1.0}
    assert precision_recall(x + 100, x) == {"precision": 0.0, "recall": 0.0}
    half = precision_recall(x[:10], x)
    assert half["precision"] == 1.0 and half["recall"] < 1.0


def test_distance_against_torchmetrics():
    theirs = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics is not installed")
    x, y = draws(90, 7), draws(80, 7, 1) @ draws(7, 7, 2) + 0.3
    expected = theirs._compute_fid(*moments(x), *moments(y))
    assert frechet_distance(x, y) == pytest.approx(float(expected), abs=1e-4)
