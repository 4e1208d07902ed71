import pytest

from studio.data.word_errors import character_error_rate, edit_distance, word_error_rate


@pytest.mark.parametrize(
    ("said", "heard", "edits"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 2)],
)
def test_edits(said, heard, edits):
    assert edit_distance(said, heard) == edit_distance(heard, said) == edits


def test_rates_count_over_all_pairs():
    pairs = [("three red apples", "three apples"), ("a", "b")]
    assert word_error_rate(pairs) == 2 / 4
    assert character_error_rate(pairs) == 5 / 17
    with pytest.raises(ValueError, match="nothing that was said"):
        word_error_rate([])
