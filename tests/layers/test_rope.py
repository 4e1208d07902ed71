import math

import pytest
import torch

from studio.layers.rope import layered_rope_table, rope_table, rotate


def test_grid_rotates_first_half_with_row_and_second_with_column():
    table = rope_table((3, 4), 16, base=100.0)
    assert table.shape == (12, 8) and table.dtype == torch.complex64
    frequencies = [100.0 ** (-2 * j / 8) for j in range(4)]
    row, column = 2, 3
    angles = torch.tensor([row * f for f in frequencies] + [column * f for f in frequencies])
    torch.testing.assert_close(table[row * 4 + column].real, angles.cos())
    torch.testing.assert_close(table[row * 4 + column].imag, angles.sin())


def test_one_and_three_axes():
    line = rope_table((5,), 8)
    torch.testing.assert_close(line[4, 0].angle(), torch.tensor(4.0) - 2 * math.pi)
    video = rope_table((2, 3, 4), 20)  # 10 pairs: 4 for time, 3 and 3
    assert video.shape == (24, 10)
    assert torch.equal(video[0, :4], video[11, :4])  # the same frame
    assert torch.equal(video[1, 4:7], video[13, 4:7])  # the same row in another frame
    video = rope_table((2, 3, 4), 16)  # 8 pairs: 4 for time, 2 and 2
    assert torch.equal(video[0, :4], video[11, :4])
    assert torch.equal(video[1, 4:6], video[13, 4:6])
    assert not torch.equal(video[0, 3], video[12, 3])


def test_condition_positions():
    zeros = rope_table((2, 2), 8, num_condition=3, condition_rope="zeros")
    assert zeros.shape == (7, 4) and not zeros[:3].abs().any()
    identity = rope_table((2, 2), 8, num_condition=3)
    assert torch.equal(identity[:3], torch.ones(3, 4, dtype=torch.complex64))
    assert torch.equal(identity[3:], zeros[3:])


def test_rotation_is_adjacent_pairs_and_relative():
    table = rope_table((6,), 8)
    x = torch.randn(2, 6, 3, 8, generator=torch.Generator().manual_seed(0))
    y = rotate(x, table)
    cos, sin = table[4, 1].real, table[4, 1].imag
    a, b = x[0, 4, 2, 2], x[0, 4, 2, 3]
    torch.testing.assert_close(y[0, 4, 2, 2:4], torch.stack((a * cos - b * sin, a * sin + b * cos)))
    same = x[:1, :1].expand(1, 6, 3, 8)
    turned = rotate(same, table)[0, :, 0]  # (6, 8)
    torch.testing.assert_close(turned[1] @ turned[3], turned[2] @ turned[4])
    assert rotate(x.bfloat16(), table).dtype == torch.bfloat16


def test_rows_may_stand_elsewhere():
    table = rope_table((6,), 8)
    x = torch.randn(2, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    y = rotate(x, table[torch.tensor([[0, 1], [3, 4]])])
    torch.testing.assert_close(y[1:], rotate(x[1:], table[3:5]))


def test_a_table_first_built_in_inference_mode_serves_training():
    with torch.inference_mode():
        table = rope_table((7,), 12, base=123.0)
    x = torch.randn(1, 7, 1, 12, requires_grad=True)
    rotate(x, table).sum().backward()
    assert x.grad is not None


def test_wrong_use():
    with pytest.raises(ValueError, match="head_dim 7"):
        rope_table((4,), 7)
    with pytest.raises(ValueError, match="condition_rope 'none'"):
        rope_table((4,), 8, condition_rope="none")


def test_layers_share_coordinates():
    """A single grid is a plain table; cells of a coarser grid stand between the finer ones."""
    single = layered_rope_table(((2, 3, 4),), 12, base=50.0, num_condition=2)
    assert torch.equal(single, rope_table((2, 3, 4), 12, base=50.0, num_condition=2))
    both = layered_rope_table(((1, 2, 2), (2, 4, 2)), 12)
    assert both.shape == (4 + 16, 6)
    fine = rope_table((2, 4, 2), 12).angle()
    # the first coarse cell: between frames 0 and 1, rows 0 and 1, in column 0
    wanted = (fine[0] + fine[(1 * 4 + 1) * 2]) / 2
    torch.testing.assert_close(both[0].angle(), wanted)
    with pytest.raises(ValueError, match="must have equally many axes"):
        layered_rope_table(((2, 2), (2, 2, 2)), 12)
    with pytest.raises(ValueError, match="head_dim 4"):
        layered_rope_table(((2, 2, 2),), 4)
