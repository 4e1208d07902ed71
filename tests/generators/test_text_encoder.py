import torch

from studio.generators.text_encoder import TextEncoder


def test_padding_is_not_seen():
    torch.manual_seed(0)
    encoder = TextEncoder(20, 16, num_layers=2, num_heads=2, max_length=6)
    ids = torch.tensor([[3, 4, 5, 0], [6, 0, 0, 0]])
    mask = ids > 0
    x = encoder(ids, mask)
    assert x.shape == (2, 4, 16)
    torch.testing.assert_close(encoder(ids[1:, :1], mask[1:, :1]), x[1:, :1])
    torch.testing.assert_close(encoder(ids + 9 * ~mask, mask)[0, :3], x[0, :3])
    swapped = encoder(torch.tensor([[4, 3, 5, 0]]), mask[:1])
    assert not torch.allclose(swapped[0, 2], x[0, 2])


def test_a_row_without_text_stays_finite():
    torch.manual_seed(0)
    encoder = TextEncoder(20, 16, num_layers=1, num_heads=2, max_length=6)
    ids = torch.zeros(1, 2, dtype=torch.int64)
    assert encoder(ids, ids.bool()).isfinite().all()
