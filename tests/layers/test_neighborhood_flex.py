"""The permutation and the sparse blocks: nothing needed is left out, full blocks are full."""

import pytest
import torch

from studio.layers.neighborhood_flex import BLOCK, block_mask, permutation
from studio.layers.neighborhood_window import Neighborhood, neighborhood_mask

CPU = torch.device("cpu")
WINDOWS = [
    Neighborhood((700,), 400),
    Neighborhood((40, 50), (7, 5)),
    Neighborhood((20, 40), (5, 4), (5, 2), (2, 1), (True, False)),
    Neighborhood((5, 17, 18), (2, 3, 4), 1, (1, 2, 1), (True, False, False)),
]


def listed(counts, columns, shape):
    blocks = torch.zeros(shape, dtype=torch.bool)
    for row in range(shape[0]):
        blocks[row, columns[0, 0, row, : counts[0, 0, row]].long()] = True
    return blocks


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("num_extra", [0, 5, 130])
def test_blocks(window, num_extra):
    tiles, mask = permutation(window, CPU), block_mask(window, num_extra, CPU)
    held, extra = tiles.queries.numel(), -(-num_extra // BLOCK)
    assert mask.seq_lengths == (held, held + num_extra)
    shape = (held // BLOCK, held // BLOCK + extra)
    partly = listed(mask.kv_num_blocks, mask.kv_indices, shape)
    wholly = listed(mask.full_kv_num_blocks, mask.full_kv_indices, shape)
    assert not (partly & wholly).any()

    places = torch.arange(held)
    seen = tiles.sees(places.unsqueeze(1), places)  # (P, P)
    there = seen[tiles.order][:, tiles.order]  # (N, N)
    assert torch.equal(there, neighborhood_mask(window))
    assert seen.diagonal().all()

    real = torch.zeros(held, dtype=torch.bool)
    real[tiles.order] = True
    split = (held // BLOCK, BLOCK)
    blocks = seen.view(*split, *split).transpose(1, 2)  # (T, T, 128, 128)
    needed = (seen & real.unsqueeze(1) & real).view(*split, *split).transpose(1, 2)
    needed = needed.flatten(2).any(-1)
    used = partly | wholly
    assert not (needed & ~used[:, : shape[0]]).any()
    assert blocks.flatten(2).all(-1)[wholly[:, : shape[0]]].all()
    assert used[:, shape[0] :].all()
    # Each block of queries computes only what is near: the point of the tiles.
    assert used.float().mean() < 0.9 or window.shape == (700,)


def test_the_rule_shows_extra_keys_to_all():
    window = WINDOWS[1]
    mask = block_mask(window, 3, CPU)
    held = permutation(window, CPU).queries.numel()
    query, key = torch.arange(held).unsqueeze(1), torch.arange(held, held + 3)
    zero = torch.tensor(0)
    assert mask.mask_mod(zero, zero, query, key).expand(held, 3).all()


def test_a_large_grid_is_sparse():
    """16 x 32 x 32 cells, which as a matrix would have 268 million entries."""
    mask = block_mask(Neighborhood((16, 32, 32), (4, 8, 8)), 0, CPU)
    used = mask.kv_num_blocks + mask.full_kv_num_blocks
    assert used.float().mean() < 0.25 * 128
