"""What is said about a set of pictures through their features: distance, retrieval, diversity.

The Fréchet distance follows "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
Equilibrium" (2017, 1706.08500), precision and recall "Improved Precision and Recall Metric for
Assessing Generative Models" (2019, 1904.06991); both on our own features, so the figures compare
with each other only (see `NOTE` in features.py). Features are unit vectors (n, D); all maths is
done in float64. Leaves out on purpose: corrections for few samples; state the number of pictures
instead.
"""

import torch


def moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (D,) and covariance (D, D) of features (n, D), float64.

    Raises:
        ValueError: fewer than two rows.
    """
    if len(features) < 2:
        raise ValueError(f"features of {len(features)} pictures: at least 2 are needed")
    x = features.detach().double().cpu()
    mean = x.mean(0)  # (D,)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)  # (D,), (D, D)


def frechet_distance(features: torch.Tensor, reference: torch.Tensor) -> float:
    """Fréchet distance of the Gaussians that fit two sets of features (n, D), (m, D).

    The trace of sqrt(A B) is that of sqrt(sqrt(A) B sqrt(A)), which is symmetric: eigenvalues of
    symmetric matrices only, so fewer pictures than dimensions do no harm.
    """
    mean_a, a = moments(features)
    mean_b, b = moments(reference)
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # (D, D)
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + a.trace() + b.trace() - 2 * cross
    return max(0.0, distance.item())


def retrieval(features: torch.Tensor, labels: torch.Tensor, gallery: torch.Tensor) -> dict:
    """Shares of pictures whose own name is the nearest, and among the five nearest, of a gallery.

    Args:
        features: (n, D). labels: int64 (n,), rows of the gallery. gallery: (M, D).
    """
    scores = features.float() @ gallery.float().T  # (n, M)
    near = scores.topk(min(5, len(gallery)), dim=-1).indices  # (n, 5)
    found = near == labels.to(near.device)[:, None]
    return {
        "top1": found[:, 0].double().mean().item(),
        "top5": found.any(1).double().mean().item(),
    }


def diversity(features: torch.Tensor) -> float:
    """Mean cosine distance between two pictures of a set (n, D): 0 when all are the same."""
    count = len(features)
    if count < 2:
        raise ValueError(f"features of {count} pictures: at least 2 are needed")
    unit = torch.nn.functional.normalize(features.detach().double(), dim=-1)
    similarity = (unit.sum(0).square().sum() - count) / (count * (count - 1))
    return max(0.0, (1 - similarity).item())


def precision_recall(features: torch.Tensor, reference: torch.Tensor, *, k: int = 3) -> dict:
    """How many pictures lie among the reference's (precision), and the reverse (recall).

    A point lies among a set when it is nearer to one of its points than that one's k-th neighbour.

    Args:
        features: (n, D). reference: (m, D). k: which neighbour gives the radius.
    """
    if min(len(features), len(reference)) <= k:
        raise ValueError(f"k {k} must be smaller than the number of pictures")
    return {
        "precision": _share_among(features.double(), reference.double(), k),
        "recall": _share_among(reference.double(), features.double(), k),
    }


def _share_among(points: torch.Tensor, members: torch.Tensor, k: int) -> float:
    radius = torch.cdist(members, members).kthvalue(k + 1, dim=1).values  # (m,), 1st is itself
    return (torch.cdist(points, members) <= radius).any(1).double().mean().item()
