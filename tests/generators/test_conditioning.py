import pytest
import torch

from studio.generators.conditioning import ClassCondition, FeatureCondition, TextCondition


def test_rows(kind, make_condition):
    condition = make_condition(kind)
    assert condition.batch_size == 3 and condition.dropped.tolist() == [False] * 3
    assert condition.null().dropped.all() and not condition.dropped.any()
    rows = torch.tensor([True, False, False])
    assert torch.equal(condition.drop(rows).dropped, rows)
    assert condition.repeat(2).batch_size == 6
    assert condition[1:].batch_size == 2
    assert condition.joined(condition.null()).dropped.tolist() == [False] * 3 + [True] * 3
    assert condition.to("cpu").batch_size == 3


def test_repeat_keeps_rows_together():
    repeated = ClassCondition(torch.tensor([4, 2])).repeat(2)
    assert repeated.labels.tolist() == [4, 4, 2, 2]


def test_joining_pads_the_shorter():
    short = TextCondition(torch.tensor([[3]]), torch.tensor([[True]]))
    long = TextCondition(torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.bool))
    both = short.joined(long)
    assert both.ids.tolist() == [[3, 0, 0], [5, 6, 7]]
    assert both.mask.tolist() == [[True, False, False], [True, True, True]]
    features = FeatureCondition(torch.ones(1, 1, 4), torch.ones(1, 1, dtype=torch.bool))
    wide = FeatureCondition(torch.ones(1, 2, 4), torch.ones(1, 2, dtype=torch.bool))
    assert wide.joined(features).features.shape == (2, 2, 4)
    with pytest.raises(ValueError, match="can't be joined"):
        short.joined(features)
