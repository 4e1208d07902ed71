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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"a": 1, "b": 0.5, "c": -2e-9, "d": True, "e": None, "f": 2**62},
        {"a": "greedy", "b": "0.5", "c": "true", "d": "null", "e": "NaN", "f": "1e5"},
        {"guidance_interval": [0, 4], "levels": [], "names": ["a, b", "c=d", None, 1.5]},
        {"a": "x, y", "b": "x, y=1", "c": "", "d": " blank ", "e": 'say "no"', "f": "[0, 4]"},
        {"a": ",", "b": "=", "c": '"', "d": "[1, 2", "e": "\\", "f": "ä ☂", "g": "{}"},
    ],
)
def test_options_are_read_back_as_they_were(options):
    text = settings.options_text(options)
    assert repr(settings.options_of(text)) == repr(options), text
    assert Request(decoding_options=settings.options_of(text)).decoding_options == options


def test_options_as_they_are_typed():
    found = settings.options_of("min_p=0.1, ,tree = greedy ,levels=[1, 2],a=1 2,b={,c=")
    assert found == {
        "min_p": 0.1, "tree": "greedy", "levels": [1, 2], "a": "1 2", "b": "{", "c": "",
    }  # fmt: skip
    for text in ("min_p", "a=1, b", "=1", "a=1, =2", "b, a=1"):
        with pytest.raises(ValueError, match="must look like name=value"):
            settings.options_of(text)
    with pytest.raises(ValueError, match="are more than"):
        settings.options_of("a=1," * 20_000)
    assert settings.options_of(f"a={'[' * 60_000}")["a"].startswith("[[")


def test_classes_are_an_axis():
    laid = settings.grid(Request(model="tiny", class_label=1), ("class_label", "0..2"))
    assert [r.class_label for r in laid.requests] == [0, 1, 2]
    with pytest.raises(ValueError, match="class_label"):
        settings.axis("class_label", "red")
