import pytest

from studio.data.spelling import ALPHABET, number_words, spell


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (42, "forty two"),
        (100, "one hundred"),
        (1204, "one thousand two hundred four"),
        (3_000_000, "three million"),
    ],
)
def test_numbers_in_words(number, words):
    assert number_words(number) == words


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="number -1 must lie between 0 and"):
        number_words(-1)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Three RED apples!", "three red apples"),
        ("I\u2019ve 1,204 caf\u00e9's", "i've one thousand two hundred four cafe's"),
        ("call 0045", "call zero zero four five"),
        ("3.14 & 50%", "three point one four and fifty percent"),
        ("'quoted' rock'n'roll", "quoted rock'n'roll"),
        ("12345678901", "one two three four five six seven eight nine zero one"),
        ("\u4f60\u597d \U0001f34e", ""),
        ("", ""),
    ],
)
def test_text_as_it_is_said(text, spoken):
    assert spell(text) == spoken
    assert set(spell(text)) <= set(ALPHABET)
    assert spell(spoken) == spoken
