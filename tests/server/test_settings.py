"""Grids: every parameter, options of decoding, choices in a prompt."""

import pytest

from studio.pipelines.request import Request
from studio.server import settings

BASE = Request(model="tiny", prompt="red apple", seed=3, decoding_options={"window": 4})


def test_options_of_decoding_are_axes():
    laid = settings.grid(BASE, ("option.min_p", "0, 0.1"), ("seed", "1..2"))
    assert [r.decoding_options["min_p"] for r in laid.requests] == [0, 0.1, 0, 0.1]
    assert all(r.decoding_options["window"] == 4 for r in laid.requests)
    assert (laid.columns, laid.rows) == (("0", "0.1"), ("1", "2"))
    with pytest.raises(ValueError, match="axis 'nothing' must be one of .*option.NAME"):
        settings.axis("nothing", "1")
    with pytest.raises(ValueError, match="has no values"):
        settings.axis("option.min_p", " ")


def test_choices_in_a_prompt_are_the_rows():
    base = Request(model="tiny", prompt="{red|blue} apple")
    laid = settings.grid(base, ("seed", "1..3"))
    assert laid.y == "prompt" and laid.rows == ("red apple", "blue apple")
    assert [r.prompt for r in laid.requests] == ["red apple"] * 3 + ["blue apple"] * 3
    with pytest.raises(ValueError, match="leave Y out"):
        settings.grid(base, ("seed", "1..3"), ("top_k", "1, 2"))
    assert settings.grid(base, ("prompt", "rocket, sun")).columns == ("rocket", "sun")


def test_an_endless_axis_is_refused_before_it_is_made():
    with pytest.raises(ValueError, match="axis seed: has 1,000,000 cells; 100 are allowed"):
        settings.axis("seed", "0..999999")
