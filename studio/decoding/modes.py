"""Names for ways to decode an ordered generator: what `studio generate --decoding` takes, and what
`studio bench decoding` races.

Every mode is a class and some options of it; the rest (temperature, guidance, ...) comes from the
strategy that it replaces. Papers are named where the options are, in `speculative.py`. Nothing here
imports torch.
"""

from typing import Any

from studio.registry import find_class

_SEED = {"acceptance": "seed"}
_EXACT = {"acceptance": "exact", "window": 32}
_GROUPED = {"acceptance": "grouped", "window": 32}
_RELAXED = {"acceptance": "relaxed", "drafter": "coupled", "window": 32}

# name -> options; a new mode is one line here.
MODES: dict[str, dict[str, Any]] = {
    # the tokens of plain decoding for that seed
    "plain": {},
    "seed": {**_SEED, "window": "auto"},
    "seed-jacobi": {**_SEED, "window": 32},
    "seed-prior": {**_SEED, "drafter": "prior", "window": 16},
    "seed-head": {**_SEED, "drafter": "head", "window": 32},
    "seed-tree": {**_SEED, "drafter": "jacobi", "tree": "greedy", "window": 32},
    "seed-recycling": {**_SEED, "drafter": "recycling", "window": "auto"},
    # other draws from the same distribution
    "exact": {**_EXACT, "drafter": "coupled"},
    "exact-gumbel": {**_EXACT, "drafter": "coupled", "coupling": "gumbel"},
    "exact-jacobi": {**_EXACT, "drafter": "jacobi"},
    "exact-prior": {**_EXACT, "drafter": "prior", "window": 16},
    "exact-head": {**_EXACT, "drafter": "head"},
    "exact-tree": {**_EXACT, "drafter": "jacobi", "tree": "greedy"},
    "exact-recycling": {**_EXACT, "drafter": "recycling", "window": 8},
    # draws from a similar one
    "grouped": {**_GROUPED, "drafter": "coupled"},
    "grouped-paper": {**_GROUPED, "drafter": "coupled", "group_size": 10, "group_distance": None},
    "grouped-jacobi": {**_GROUPED, "drafter": "jacobi"},
    "relaxed": _RELAXED,
    "relaxed-plus": {**_RELAXED, "relax_neighbours": 10, "relax_delta": 5.0},
    "annealed": {"acceptance": "annealed", "drafter": "coupled", "window": 32},
}
PLAIN = "plain"
FAITHFUL = tuple(name for name, options in MODES.items() if options.get("acceptance") == "seed")
EXACT = tuple(name for name, options in MODES.items() if options.get("acceptance") == "exact")
LOSSY = tuple(name for name in MODES if name not in (PLAIN, *FAITHFUL, *EXACT))


def find_mode(name: str, config, **overrides):
    """The strategy of a mode.

    Args:
        name: a key of `MODES`.
        config: of the strategy whose other options it keeps.
        overrides: options that go before the mode's.

    Raises:
        ValueError: an unknown mode or option.
    """
    if name not in MODES:
        raise ValueError(f"decoding {name!r} must be one of {', '.join(MODES)}")
    cls = find_class("Autoregressive" if name == PLAIN else "Speculative")
    chains = {} if name == PLAIN else {"tree": None}  # whatever the strategy drafted
    return cls.from_config(config, **{**chains, **MODES[name], **overrides})
