"""Any text as what is said aloud: lower-case words of a to z and apostrophes, numbers in words.

What speech is made from, what a recogniser is scored against, and what a text-to-speech pipeline is
given all pass through `spell`. Leaves out on purpose: abbreviations, dates, currencies, other
languages.
"""

import re
import unicodedata

ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
ONES = tuple(f"{ONES} fifteen sixteen seventeen eighteen nineteen".split())
TENS = ("", "", *"twenty thirty forty fifty sixty seventy eighty ninety".split())
SCALES = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
SIGNS = {"&": "and", "%": "percent", "+": "plus", "=": "equals", "@": "at"}
ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
_MOST_DIGITS = 9


def number_words(number: int) -> str:
    """A whole number from 0 to 10**12 - 1 in English words, for example "forty two"."""
    if not 0 <= number < 10**12:
        raise ValueError(f"number {number} must lie between 0 and {10**12 - 1}")
    for size, name in SCALES:
        if number >= size:
            rest = f" {number_words(number % size)}" if number % size else ""
            return f"{number_words(number // size)} {name}{rest}"
    if number >= 20:
        rest = f" {ONES[number % 10]}" if number % 10 else ""
        return TENS[number // 10] + rest
    return ONES[number]


def spell(text: str) -> str:
    """Text in the letters of `ALPHABET`: single spaces, no leading or trailing ones.

    Accents are dropped, numbers are read as words (digit by digit where they begin with zero or
    have more than nine digits, or follow a decimal point), other signs become spaces.
    """
    text = unicodedata.normalize("NFKD", text.replace("\u2019", "'")).lower()
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = re.sub(r"\d+(?:\.\d+)?", _read_number, text)
    text = "".join(f" {SIGNS[c]} " if c in SIGNS else c for c in text)
    text = re.sub(r"(?<![a-z])'|'(?![a-z])|[^a-z']", " ", text)
    return " ".join(text.split())


def _read_number(match: re.Match) -> str:
    whole, _, part = match[0].partition(".")
    single = len(whole) > _MOST_DIGITS or (len(whole) > 1 and whole[0] == "0")
    words = _digits(whole) if single else number_words(int(whole))
    return f" {words} point {_digits(part)} " if part else f" {words} "


def _digits(text: str) -> str:
    return " ".join(ONES[int(c)] for c in text)
