"""How many tokens a pass should score: the draft window.

A pass over n tokens takes the last emitted one and n - 1 drafts, and emits 1 to n tokens. With
measured costs (`costs.py`) and the acceptance seen so far the window with most tokens a second is
taken; a window of 1 is plain decoding, that is, speculation switched off. Left out on purpose: an
acceptance that depends on the place in the window.
"""

import numpy as np

PRIOR = (16.0, 20.0)  # accepted and tested drafts that every row begins with
FADE = 0.95  # what a pass leaves of the evidence before it
LEAST = 16  # smaller windows are not tried: Jacobi drafts settle over passes, of which few remain
PATIENCE = 12  # passes before speculation may switch itself off


def tokens_per_pass(window: int, acceptance: float) -> float:
    """Expected tokens that a pass over `window` tokens emits when each draft stands with
    probability `acceptance` in [0, 1]: (1 - a^n) / (1 - a)."""
    if acceptance >= 1.0:
        return float(window)
    return (1.0 - acceptance**window) / (1.0 - acceptance)


def choose_window(costs: dict[int, float], acceptance: float) -> int:
    """The window with most tokens a second; 1 when speculation does not pay.

    Args:
        costs: seconds that a pass over n tokens takes, for every n that may be chosen.
        acceptance: probability that a draft stands, in [0, 1].

    Raises:
        ValueError: no costs for 1 token, or an acceptance out of range.
    """
    if 1 not in costs:
        raise ValueError(f"costs of {sorted(costs)} tokens must include those of 1")
    if not 0.0 <= acceptance <= 1.0:
        raise ValueError(f"acceptance {acceptance} must lie between 0 and 1")
    return max(sorted(costs), key=lambda n: tokens_per_pass(n, acceptance) / costs[n])


class FixedWindow:
    """Always the same one."""

    def __init__(self, size: int):
        self.largest = size

    def sizes(self, left: np.ndarray) -> np.ndarray:
        """The windows of all rows, int64 (B,), of which `left` (B,) tokens are to be made."""
        return np.minimum(self.largest, left)

    def learn(self, tested: np.ndarray, accepted: np.ndarray) -> None:
        """Takes note of how many drafts (B,) were tested and accepted; here, of nothing."""

    @property
    def speculating(self) -> bool:
        """False when every row's window is 1, that is, plain decoding."""
        return self.largest > 1


class AutoWindow(FixedWindow):
    """The best one for the acceptance seen so far, among 1 and those from 16 on; once 1, which
    takes some passes, it stays 1, as nothing is seen then.

    Args:
        costs: as in `choose_window`.
        batch_size: B.
        pooled: one estimate for all rows. With one a row, a row's windows do not depend on the
            others, which matters where the result depends on the window.
    """

    def __init__(self, costs: dict[int, float], batch_size: int, *, pooled: bool):
        self.largest = max(costs)
        self._pooled = pooled
        rows = 1 if pooled else batch_size
        self._seen = np.tile(np.array(PRIOR), (rows, 1))  # (B or 1, 2)
        self._chosen = np.zeros(rows, dtype=np.int64)
        self._passes = 0
        self._sizes = {n: s for n, s in costs.items() if n == 1 or n >= min(LEAST, self.largest)}
        self._hopeless = choose_window(self._sizes, 1.0) == 1  # though all drafts stood
        self._choose()

    def _choose(self) -> None:
        for row, (accepted, tested) in enumerate(self._seen.tolist()):
            if self._chosen[row] != 1:
                best = choose_window(self._sizes, accepted / tested)
                early = self._passes < PATIENCE and not self._hopeless
                self._chosen[row] = max(best, min(LEAST, self.largest)) if early else best

    def sizes(self, left: np.ndarray) -> np.ndarray:
        return np.minimum(self._chosen, left)

    def learn(self, tested: np.ndarray, accepted: np.ndarray) -> None:
        news = np.stack((accepted, tested), axis=1).astype(float)  # (B, 2)
        if self._pooled:
            news = news.sum(axis=0, keepdims=True)  # (1, 2)
        self._seen = np.where(news[:, 1:] > 0, self._seen * FADE + news, self._seen)
        self._passes += 1
        self._choose()

    @property
    def speculating(self) -> bool:
        return bool((self._chosen > 1).any())
