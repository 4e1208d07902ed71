import pytest
import torch

from studio.layers.delay import (
    delay,
    delayed_order,
    from_delayed,
    to_delayed,
    undelay,
    whole_frames,
)


def test_every_codebook_is_one_step_later():
    codes = torch.tensor([[[1, 2, 3], [4, 5, 6]]])
    assert delay(codes, 9).tolist() == [[[1, 2, 3, 9], [9, 4, 5, 6]]]
    assert torch.equal(undelay(delay(codes, 9)), codes)
    assert to_delayed(codes).tolist() == [[1, 2, 4, 3, 5, 6]]


@pytest.mark.parametrize(("books", "frames"), [(1, 5), (3, 1), (4, 7), (8, 3)])
def test_there_and_back(books, frames):
    codes = torch.randint(50, (2, books, frames), generator=torch.Generator().manual_seed(0))
    assert torch.equal(undelay(delay(codes, -1)), codes)
    assert torch.equal(from_delayed(to_delayed(codes), books), codes)
    order = delayed_order(books, frames)
    assert sorted(order.tolist()) == list(range(books * frames))
    # a token comes after the coarser ones of its frame, and after the frame before in its codebook
    place = torch.empty_like(order).scatter(0, order, torch.arange(len(order)))
    grid = place.view(books, frames)
    assert bool((grid.diff(dim=0) > 0).all()) and bool((grid.diff(dim=1) > 0).all())


def test_a_stream_knows_what_is_whole():
    counts = [whole_frames(n, 2, 3) for n in range(7)]
    assert counts == [0, 0, 0, 1, 1, 2, 3]
    assert whole_frames(5, 1, 5) == 5


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="7 tokens must be a multiple of 2"):
        from_delayed(torch.zeros(1, 7, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="grid of 2 steps must have at least 3"):
        undelay(torch.zeros(1, 3, 2))
