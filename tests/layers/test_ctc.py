import torch
from torch.nn import functional as F

from studio.layers.ctc import best_path


def test_repeats_are_joined_and_blanks_dropped():
    path = torch.tensor([0, 1, 1, 0, 1, 3, 3, 2, 0, 3])
    assert best_path(F.one_hot(path, 4).float(), "ab ") == "aa b"
    assert best_path(F.one_hot(torch.zeros(3, dtype=torch.int64), 4).float(), "ab ") == ""
