"""First weights for the prior of a generator of clips, from a generator of pictures.

Who can draw an object from its name knows its look already. Three steps take that over, none of
which needs a network over tokens: the caption encoder learns to find the same look in a caption of
a clip that the other generator finds in that caption without its motion (distillation, "Distilling
the Knowledge in a Neural Network", 2015, arXiv 1503.02531), and to tell the motion; a ridge
regression for every motion says how a look becomes the digits of all tokens; and what the motions
have in common is kept in fewer numbers (reduced-rank regression, 1975,
doi 10.1016/0047-259X(75)90042-1). Regression reaches at once the many small directions of a look
that gradient descent comes to last. Leaves out on purpose: several objects in one clip.
"""

import logging
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from studio.data.token_cache import TokenCache
from studio.generators.captions import CaptionTokenizer
from studio.generators.conditioning import TextCondition
from studio.training.tasks import step_generator

logger = logging.getLogger(__name__)
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)  # shares of a feature's variance
HELD = 16  # one clip in so many says which of them is best
ROWS = 256  # captions that are read at a time


class MovingData(Protocol):
    """What is needed of a data set: clips of one object each."""

    def caption(self, index: int) -> str: ...

    def still_caption(self, index: int) -> str: ...

    def motion(self, index: int) -> int: ...


def learn_looks(
    model: Any,
    teacher: Any,
    data: MovingData,
    captions: CaptionTokenizer,
    *,
    steps: int,
    batch_size: int = 192,
    learning_rate: float = 1e-3,
    dropout: float = 0.05,
    seed: int = 0,
) -> float:
    """Trains the caption encoder of `model`, its prior's products and gates; the mean error of the
    last steps, as a share of the look's variance.

    Args:
        model: a generator whose prior has gates; it starts from the teacher's weights.
        teacher: a generator of pictures with a prior of equal widths, without gates.
        data: clips; captions alone are used.
    """
    prior = model.prior
    model.conditioner.load_state_dict(teacher.conditioner.state_dict())
    for name in ("norm", "factors"):
        getattr(prior, name).load_state_dict(getattr(teacher.prior, name).state_dict())
    prior.queries.data.copy_(teacher.prior.queries)
    learned = [*model.conditioner.parameters(), prior.queries]
    learned += [p for part in (prior.norm, prior.factors, prior.gates) for p in part.parameters()]
    optimizer = torch.optim.AdamW(learned, learning_rate, weight_decay=0.0, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1)
    mean, spread = _spread(teacher, data, captions)
    recent: list[float] = []
    for step in range(steps):
        places = range(step * batch_size, (step + 1) * batch_size)
        generator = step_generator(seed, step)
        dropped = torch.rand(batch_size, generator=generator) < dropout
        wanted = looks(teacher, [data.still_caption(i) for i in places], captions)
        wanted[dropped] = mean
        pooled = _pooled(model, [data.caption(i) for i in places], captions, dropped)
        error = ((prior.products(pooled) - wanted) / spread).square().mean()
        motions = torch.tensor([data.motion(i) for i in places])
        opened = prior.gates(pooled)[~dropped]
        loss = error + F.cross_entropy(opened, motions[~dropped])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        recent = [*recent[-49:], error.item()]
        if step % 100 == 99:
            logger.info("looks: step %d, error %.4f", step + 1, sum(recent) / len(recent))
    return sum(recent) / len(recent)


@torch.no_grad()
def fit_tokens(
    model: Any, data: MovingData, cache: TokenCache, captions: CaptionTokenizer, *, count: int
) -> float:
    """Solves for what makes tokens of a look, from `count` clips; the share of the digits' variance
    that is left over in clips that were held out.
    """
    prior, levels = model.prior, model.config.token_levels
    texts = [data.caption(i) for i in range(count)]
    found = torch.cat([prior.products(_pooled(model, part, captions)) for part in _parts(texts)])
    motions = torch.tensor([data.motion(i) for i in range(count)])
    scale = found.std(0).clamp(min=1e-6)
    features = F.pad((found / scale).double(), (0, 1), value=1.0)  # (n, H + 1)
    tokens = torch.cat([cache.batch(i, len(p))[0] for i, p in _starts(texts)])
    targets = _targets(model, tokens)  # (n, N d)
    held = torch.arange(count) % HELD == 0
    gates = [int(g) for g in motions.unique()]
    errors = {}
    for ridge in RIDGES:
        left = torch.zeros((), dtype=torch.float64)
        for gate in gates:
            here = motions == gate
            solved = _ridge(features[here & ~held], targets[here & ~held], ridge)
            tried = features[here & held] @ solved
            left += (tried - targets[here & held]).square().sum()
        errors[ridge] = float(left / (targets[held] - targets.mean(0)).square().sum())
    ridge = min(errors, key=errors.__getitem__)
    logger.info("tokens: errors by ridge %s", errors)
    maps, leftover = [], []
    for gate in gates:
        here = motions == gate
        solved = _ridge(features[here & ~held], targets[here & ~held], ridge)
        unseen = (features[here & held] @ solved - targets[here & held]).square().mean(0)
        leftover.append(unseen.view(-1, len(levels)).mean(-1))  # (N,)
        maps.append(_ridge(features[here], targets[here], ridge))  # (H + 1, N d)
    _put(prior, maps, leftover, features, scale, gates)
    return errors[ridge]


def looks(model: Any, texts: list[str], captions: CaptionTokenizer) -> torch.Tensor:
    """The products of a model's prior for captions, (n, hidden)."""
    with torch.no_grad():
        return model.prior.products(_pooled(model, texts, captions))


def _pooled(model, texts: list[str], captions, dropped: torch.Tensor | None = None):
    ids, mask = captions.encode(texts)
    length = max(1, int(mask.sum(1).max()))
    condition = TextCondition(ids=ids[:, :length], mask=mask[:, :length])
    if dropped is not None:
        condition = condition.drop(dropped)
    return model.prior.pooled(*model.conditioner(condition))


def _spread(teacher, data, captions) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of the looks there are, and how far they go from it on average."""
    texts = [data.still_caption(i) for i in range(16 * ROWS)]
    found = torch.cat([looks(teacher, part, captions) for part in _parts(texts)])
    return found.mean(0), found.std(0).clamp(min=1e-6)


def _parts(texts: list[str]) -> list[list[str]]:
    return [part for _, part in _starts(texts)]


def _starts(texts: list[str]) -> list[tuple[int, list[str]]]:
    return [(i, texts[i : i + ROWS]) for i in range(0, len(texts), ROWS)]


def _targets(model, tokens: torch.Tensor) -> torch.Tensor:
    """The centre of each digit's level, (n, N d)."""
    digits = model.token_head.split(tokens)  # (n, N, d)
    centres = model.prior.centres.split(model.prior.levels, -1)
    rows = [c.T[d, torch.arange(d.shape[1])] for c, d in zip(centres, digits.unbind(-1))]
    return torch.stack(rows, -1).flatten(1).double()


def _ridge(features: torch.Tensor, targets: torch.Tensor, ridge: float) -> torch.Tensor:
    """Least squares of `targets` (n, M) on `features` (n, K), the last of which is 1 and free."""
    weight = torch.full((features.shape[1],), ridge * len(features), dtype=features.dtype)
    weight[-1] = 1e-6 * len(features)
    return torch.linalg.solve(features.T @ features + weight.diag(), features.T @ targets)


def _put(prior, maps, leftover, features, scale, gates: list[int]) -> None:
    """The look that all maps share best, and each map from it, into the prior."""
    rank, count = prior.look.out_features, len(prior.levels)
    inner = features[:, :-1] - features[:, :-1].mean(0)
    values, vectors = torch.linalg.eigh(inner.T @ inner / len(inner))
    values = values.clamp(min=values[-1] * 1e-9)
    root = vectors * values.sqrt() @ vectors.T
    back = vectors / values.sqrt() @ vectors.T
    weighed = [root @ solved[:-1] for solved in maps]  # (H, N d) each
    _, shared = torch.linalg.eigh(sum(w @ w.T for w in weighed))
    kept = shared.flip(1)[:, :rank]  # (H, R)
    prior.look.weight.copy_((back @ kept).T / scale)
    prior.out.weight.zero_()
    prior.out.bias.zero_()
    numbers = prior.out.weight.view(-1, count + 1, prior.gates.out_features, rank + 1)
    for gate, solved, around, unseen in zip(gates, maps, weighed, leftover, strict=True):
        numbers[:, :count, gate, :rank] = (kept.T @ around).T.reshape(-1, count, rank).float()
        numbers[:, :count, gate, rank] = solved[-1].view(-1, count).float()
        sharpness = 0.5 / unseen.clamp(min=0.02)  # of a normal distribution about the number
        numbers[:, count, gate, rank] = 2 * (sharpness.log() - 1).float()
