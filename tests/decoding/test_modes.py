"""Modes by name."""

import subprocess
import sys

import pytest

from studio.decoding.autoregressive import Autoregressive
from studio.decoding.modes import EXACT, FAITHFUL, LOSSY, MODES, PLAIN, find_mode
from studio.decoding.speculative import Speculative


def test_every_mode_keeps_the_options_of_the_strategy_it_replaces():
    base = Autoregressive(temperature=0.5, guidance_scale=2.0)
    for name, options in MODES.items():
        made = find_mode(name, base.config)
        assert type(made) is (Autoregressive if name == PLAIN else Speculative)
        assert made.config.temperature == 0.5 and made.guidance.scale == 2.0
        assert all(made.config[key] == value for key, value in options.items())
    assert find_mode("exact", base.config, window=5).config.window == 5
    assert find_mode("seed", find_mode("seed-tree", base.config).config).config.tree is None
    assert find_mode("plain", find_mode("exact", base.config).config).config.temperature == 0.5


def test_modes_are_of_one_kind_each():
    assert sorted((PLAIN, *FAITHFUL, *EXACT, *LOSSY)) == sorted(MODES)
    assert LOSSY[0] == "grouped" and "seed" in FAITHFUL and "exact" in EXACT


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="decoding 'fast' must be one of plain, seed"):
        find_mode("fast", Autoregressive().config)


def test_names_cost_no_torch():
    code = "import sys, studio.decoding.modes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
