import pytest
import torch

from studio.pipelines.speech_parts import Manner, clauses, letter_times, split_text
from tests.toys import speech_pipeline


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return speech_pipeline(num_tokens=40).generator


def test_clauses_end_at_marks_and_not_within_numbers():
    assert clauses("Hello, world! It is 3.5, no: 1,000?") == [
        ("hello", ","),
        ("world", "!"),
        ("it is three point five", ","),
        ("no", ":"),
        ("one thousand", "?"),
    ]
    assert clauses("...") == [] and clauses("a\nb") == [("a", "\n"), ("b", "")]


def test_speeds_beyond_training_stretch_the_lengths():
    assert [Manner(speed=s).told_speed for s in (0.5, 1.0, 1.1875, 2.0)] == [-1.0, 0.0, 1.0, 1.0]
    assert Manner(speed=1.1).stretch == pytest.approx(1.0)
    assert Manner(speed=2.0).stretch == pytest.approx(190 / 320)
    assert Manner(speed=0.5).stretch == pytest.approx(130 / 80)


def test_letters_end_one_after_another(network):
    ends = letter_times("a red kite", network, Manner(), torch.device("cpu"))
    assert len(ends) == 12 and bool((ends.diff() >= 0).all()) and float(ends[-1]) % 1 == 0
    slow = letter_times("a red kite", network, Manner(speed=0.5), torch.device("cpu"))
    assert slow[-1] > ends[-1]


def test_a_text_is_cut_where_it_must_be(network):
    options = {"frame_rate": 40.0, "device": torch.device("cpu")}
    parts = split_text("one two three four five six, seven.", network, Manner(), **options)
    assert " ".join(part.text for part in parts) == "one two three four five six seven"
    assert len(parts) > 2 and all(part.count <= 40 for part in parts)
    assert [part.pause for part in parts[-2:]] == [5, 0]
    with pytest.raises(ValueError, match="holds the word 'aaaa"):
        split_text("a" * 60, network, Manner(), **options)
