import pytest
import torch
from safetensors.torch import save_file

from studio.decoding.neighbours import NEIGHBOURS, Neighbours


def table(v=30, k=7):
    return Neighbours.build(torch.randn(v, 3, generator=torch.Generator().manual_seed(0)), k)


def test_nearest_first_without_itself():
    made = table()
    distance = torch.cdist(made.codebook, made.codebook)
    for code in range(30):
        order = [i for i in distance[code].argsort().tolist() if i != code]
        assert made.nearest[code].tolist() == order[:7]
    assert table(v=5, k=99).nearest.shape == (5, 4)


def test_ties_go_to_the_smaller_id():
    made = Neighbours.build(torch.tensor([[0.0], [1.0], [-1.0], [2.0]]), 3)
    assert made.nearest[0].tolist() == [1, 2, 3]


def test_saved_and_loaded(tmp_path):
    made = table()
    made.save(tmp_path)
    again = Neighbours.load(tmp_path)
    assert torch.equal(again.nearest, made.nearest) and torch.equal(again.codebook, made.codebook)
    assert again.nearest.dtype == torch.int64
    assert [f.name for f in tmp_path.iterdir()] == [NEIGHBOURS]
    assert (tmp_path / NEIGHBOURS).stat().st_size < 30 * (3 * 4 + 7 * 2) + 300


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"codebook of shape \(3,\)"):
        Neighbours.build(torch.zeros(3))
    with pytest.raises(ValueError, match="k 0"):
        Neighbours.build(torch.zeros(3, 2), 0)
    with pytest.raises(ValueError, match="has no neighbours.safetensors"):
        Neighbours.load(tmp_path)
    save_file({"other": torch.zeros(1)}, tmp_path / NEIGHBOURS)
    with pytest.raises(ValueError, match="must hold codebook and nearest"):
        Neighbours.load(tmp_path)
