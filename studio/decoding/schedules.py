"""How the number of masked tokens and the temperature move while tokens are made.

Mask schedules of MaskGIT: Masked Generative Image Transformer, 2022, 2202.04200 ("arccos" is the
one of TiTok's and RAR's published generators). Plain functions of progress r in [0, 1].
"""

import math
from collections.abc import Callable

# Share of the tokens that is still masked when a share r of the steps is done; 1 at 0 and 0 at 1.
MASK_SCHEDULES: dict[str, Callable[[float], float]] = {
    "arccos": lambda r: math.acos(r) / (math.pi * 0.5),
    "cosine": lambda r: math.cos(math.pi * 0.5 * r),
    "linear": lambda r: 1.0 - r,
}

# What a temperature is multiplied by at progress r.
RAMPS: dict[str, Callable[[float], float]] = {
    "constant": lambda r: 1.0,
    "linear": lambda r: 1.0 - r,
    "cosine": lambda r: 0.5 * (1.0 + math.cos(math.pi * r)),
}


def masked_share(schedule: str, progress: float) -> float:
    """The share of tokens still masked at `progress`, exactly 0 at the end."""
    return 0.0 if progress >= 1.0 else MASK_SCHEDULES[schedule](progress)


def ramped(value: float, schedule: str, progress: float) -> float:
    """`value` under a ramp: "constant", or going to 0 by "linear" or "cosine"."""
    return value * RAMPS[schedule](progress)
