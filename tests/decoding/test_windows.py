import numpy as np
import pytest

from studio.decoding.windows import AutoWindow, FixedWindow, choose_window, tokens_per_pass

FLAT = {1: 1.0, 4: 1.05, 8: 1.1, 16: 1.2, 32: 1.4, 64: 2.0}
STEEP = {1: 1.0, 4: 4.0, 8: 8.0, 16: 16.0}


def test_tokens_per_pass():
    assert tokens_per_pass(1, 0.9) == pytest.approx(1.0)
    assert tokens_per_pass(4, 0.5) == pytest.approx(1 + 0.5 + 0.25 + 0.125)
    assert tokens_per_pass(7, 1.0) == 7.0 and tokens_per_pass(7, 0.0) == 1.0


def test_the_window_follows_the_acceptance_and_the_costs():
    chosen = [choose_window(FLAT, a) for a in (0.0, 0.3, 0.7, 0.9, 1.0)]
    assert chosen == sorted(chosen) and chosen[0] == 1 and chosen[-1] == 64
    assert choose_window(STEEP, 0.99) == 1
    best = max(FLAT, key=lambda n: tokens_per_pass(n, 0.8) / FLAT[n])
    assert choose_window(FLAT, 0.8) == best


def test_bad_arguments_are_one_line():
    with pytest.raises(ValueError, match="must include those of 1"):
        choose_window({4: 1.0}, 0.5)
    with pytest.raises(ValueError, match="acceptance 1.5"):
        choose_window(FLAT, 1.5)


def test_a_fixed_window_is_cut_at_the_end():
    window = FixedWindow(16)
    assert window.sizes(np.array([20, 16, 3, 0])).tolist() == [16, 16, 3, 0]
    assert window.speculating and not FixedWindow(1).speculating


def test_what_does_not_pay_is_switched_off_for_good():
    window = AutoWindow(STEEP, 2, pooled=True)
    assert window.sizes(np.array([9, 9])).tolist() == [1, 1] and not window.speculating
    window = AutoWindow(FLAT, 2, pooled=True)
    assert window.speculating
    for _ in range(60):
        window.learn(np.array([1, 1]), np.array([0, 0]))
    assert not window.speculating
    window.learn(np.array([50, 50]), np.array([50, 50]))
    assert not window.speculating


def test_rows_choose_for_themselves_unless_pooled():
    window = AutoWindow(FLAT, 2, pooled=False)
    for _ in range(30):
        window.learn(np.array([8, 1]), np.array([8, 0]))
    one, other = window.sizes(np.array([99, 99])).tolist()
    assert one > other
    pooled = AutoWindow(FLAT, 2, pooled=True)
    pooled.learn(np.array([8, 1]), np.array([8, 0]))
    assert len(set(pooled.sizes(np.array([99, 99])).tolist())) == 1
