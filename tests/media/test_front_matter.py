"""Front matters of cards: short plain values, whatever else they hold."""

import time

import pytest

from studio.media.front_matter import MAX_LENGTH, read, split


def test_values_and_what_follows():
    front, rest = split("---\nlicense: mit\ntokens: 64\ntags: [a, b]\n---\n# Card --- more\n")
    assert read(front) == {"license": "mit", "tokens": 64, "tags": ["a", "b"]}
    assert rest == "\n# Card --- more\n"
    assert split("# Card\n") == ("", "# Card\n") and split("a --- b --- c")[0] == ""


def test_long_and_deep_values_are_cut_or_left_out():
    front = f"a: {'x' * 500}\nb: [{', '.join('y' * 30)}]\nc: {{d: e}}\nf: [[1]]\n1: 2\ng: 1.5\nh:\n"
    found = read(front)
    assert found == {"a": "x" * 100, "b": ["y"] * 20, "g": 1.5}
    assert read(f"a: {2**60}\nb: .inf\nc: .nan\nd: 2024-01-01\n") == {}


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    "front",
    [
        f"{BOMB}license: *h\n",
        "license: &l mit\nother: *l\n",
        "a: !!python/object:x {}\n",
        "[" * 10_000,
        "? " * 5_000,
        "- " * 5_000,
        "{" * 5_000,
        f"a: 1{':1' * 8_000}\n",
        f"a: 0x{'f' * 16_000}\n",
        f"a: {'1' * 16_000}\n",
        f"a: {'x' * MAX_LENGTH}\n",
        "{{a: b}: c}: d\n",
        "- a\n",
        "a: \x00\n",
    ],
)
def test_what_is_hostile_reads_as_nothing(front):
    start = time.monotonic()
    assert read(front) == {}
    assert time.monotonic() - start < 5
