import math
from itertools import pairwise

import pytest

from studio.decoding.schedules import MASK_SCHEDULES, RAMPS, masked_share, ramped


@pytest.mark.parametrize("name", MASK_SCHEDULES)
def test_mask_schedules_fall_from_one_to_zero(name):
    values = [masked_share(name, i / 20) for i in range(21)]
    assert values[0] == pytest.approx(1) and values[-1] == 0
    assert all(a > b for a, b in pairwise(values))


def test_known_values():
    assert masked_share("arccos", 0.5) == pytest.approx(2 / 3)
    assert masked_share("cosine", 0.5) == pytest.approx(math.sqrt(0.5))
    assert masked_share("linear", 0.25) == 0.75


@pytest.mark.parametrize("name", RAMPS)
def test_ramps_begin_at_the_value(name):
    assert ramped(3.0, name, 0.0) == 3.0
    assert ramped(3.0, name, 1.0) == pytest.approx(3.0 if name == "constant" else 0.0)
