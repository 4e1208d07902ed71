"""Random generators that take milliseconds, with every part that real ones have."""

import torch

from studio.generators.autoregressive import AutoregressiveTransformer
from studio.generators.conditioning import TextCondition
from studio.generators.drafter_head import DrafterHead
from studio.outputs import TokenLayout, TokenSegment

LEVELS = [2, 3, 4]
GRID = TokenLayout.single((3, 4), 24)
LINE = TokenLayout.single((12,), 24, prefix=True)
SEGMENTS = TokenLayout(
    (
        TokenSegment("coarse", (2, 2), 10),
        TokenSegment("fine", (2, 2), 24),
        TokenSegment("books", (2,), 16, codebooks=2),
    )
)
LAYOUTS = {"grid": GRID, "line": LINE, "segments": SEGMENTS}


def tiny(layout=GRID, seed=0, sharpness=0.5, **options):
    """An `AutoregressiveTransformer` whose distributions are neither flat nor points."""
    base = dict(
        layout=layout.to_dict(),
        dim=16,
        num_layers=1,
        num_heads=2,
        multiple_of=16,
        rope="2d" if len(layout.segments) == 1 else "1d",
        condition="text",
        text_vocab_size=30,
        num_condition_tokens=6,
        text_layers=1,
        token_levels=LEVELS,
        head="digits",
        prior_dim=8,
    )
    model = AutoregressiveTransformer(**{**base, **options}).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.copy_(torch.randn(value.shape, generator=generator) * value.shape[-1] ** -0.5)
        for value in model.token_head.parameters():
            value.mul_(sharpness * 2)
    return model


def tiny_head(model, seed=0, **options):
    """A `DrafterHead` for a tiny model, whose guesses are not the model's."""
    sizes = dict(feature_dim=model.config.dim, dim=8, num_heads=1, rope=model.config.rope)
    head = DrafterHead(layout=model.config.layout, **{**sizes, **options}).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in head.parameters():
            if value.ndim > 1:
                value.copy_(torch.randn(value.shape, generator=generator) * value.shape[-1] ** -0.5)
    return head


def captions(rows=3):
    """Conditions of different lengths, every row its own."""
    ids = torch.randint(30, (rows, 6), generator=torch.Generator().manual_seed(7))
    mask = torch.arange(6) < torch.tensor([6, 3, 4, 5])[torch.arange(rows) % 4][:, None]
    return TextCondition(ids * mask, mask)


def one(condition, row):
    """One row of a condition."""
    return TextCondition(condition.ids[row : row + 1], condition.mask[row : row + 1])
