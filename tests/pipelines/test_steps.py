import pytest
import torch
from PIL import Image

from studio.outputs import TokenLayout
from studio.pipelines import steps

GRID = TokenLayout.single((4, 4), 9)


def test_mask_cells_take_any_white_pixel():
    mask = torch.zeros(16, 16)
    mask[5, 9] = 1.0
    assert steps.mask_cells(mask, 16, (4, 4)).nonzero().tolist() == [[6]]
    image = Image.new("L", (32, 32), 0)
    image.paste(255, (0, 0, 16, 8))
    assert steps.mask_cells(image, 16, (4, 4)).nonzero().flatten().tolist() == [0, 1]


def test_strength_on_a_grid_depends_on_the_sample_alone(seeded):
    keep = steps.kept_by_strength(0.5, GRID, seeded(1, 2, 3))
    assert keep.sum(dim=1).tolist() == [8, 8, 8]
    assert not torch.equal(keep[0], keep[1])
    assert torch.equal(steps.kept_by_strength(0.5, GRID, seeded(2))[0], keep[1])
    assert steps.kept_by_strength(0.001, GRID, seeded(1)).sum() == 15
    assert steps.kept_by_strength(1, GRID, seeded(1)).sum() == 0


def test_unknown_places_take_the_nearest_known_token():
    tokens = torch.zeros(1, 16, dtype=torch.int64)
    tokens[0, 0], tokens[0, 15] = 3, 7
    known = torch.zeros(1, 16, dtype=torch.bool)
    known[0, 0] = known[0, 15] = True
    filled = steps.fill_unknown(tokens, known, GRID).reshape(4, 4)
    assert filled[1, 1] == 3 and filled[2, 2] == 7 and filled[0, 0] == 3
    nothing = torch.zeros_like(known)
    assert torch.equal(steps.fill_unknown(tokens, nothing, GRID), tokens)


def test_fresh_generators_differ():
    seeds = {g.initial_seed() for g in steps.make_generators(None, 8)}
    assert len(seeds) == 8


@pytest.mark.parametrize("value", [0, 4, "1", 1.0, True, None])
def test_check_whole(value):
    with pytest.raises(ValueError, match="x .* must be a whole number from 1 to 3"):
        steps.check_whole("x", value, 1, 3)
