"""Which letters of a word stand for which of its phonemes, and so when each letter is spoken.

Every letter takes the next none to three phonemes of its word; how likely a letter takes which ones
is learned from many words by the Viterbi form of expectation maximisation, as letter-to-sound rules
are ("Issues in Building General Letter to Sound Rules", Black, Lenzo and Pagel, 1998). A text then
needs no phonemes when it is spoken: a network learns what letters sound like. Leaves out on
purpose: letters that share a phoneme in parts.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from studio.data.espeak_timing import Phoneme
from studio.media.files import atomic_write

_MOST = 3  # phonemes of one letter
_FIRST = (1.5, 0.5, 2.5, 5.0)  # costs of taking none, one, two, three before anything is known
_SLOPE = 4.0  # and of leaving the diagonal
_ROUNDS = 6
_UNSEEN = 0.05


class LetterTable:
    """Costs of letters taking phonemes.

    Args:
        counts: letter -> phonemes, joined by blanks -> how often.
    """

    def __init__(self, counts: dict[str, dict[str, int]] | None = None):
        self.counts = counts or {}
        self._totals = {letter: sum(found.values()) for letter, found in self.counts.items()}

    @classmethod
    def learn(cls, words: Iterable[tuple[str, Sequence[str]]]) -> "LetterTable":
        """From words and their phonemes, each pair as often as it counts."""
        pairs = sorted({(letters, tuple(names)) for letters, names in words if letters and names})
        table = cls()
        for _ in range(_ROUNDS):
            counts: dict[str, Counter] = {}
            for letters, names in pairs:
                start = 0
                for letter, taken in zip(letters, table.align(letters, names), strict=True):
                    chunk = " ".join(names[start : start + taken])
                    counts.setdefault(letter, Counter())[chunk] += 1
                    start += taken
            table = cls({letter: dict(found) for letter, found in counts.items()})
        return table

    def align(self, letters: str, names: Sequence[str]) -> list[int]:
        """How many phonemes every letter takes; they add up to all."""
        n, m = len(letters), len(names)
        if m > _MOST * n:  # spelled out, or the like
            return [m * (i + 1) // n - m * i // n for i in range(n)]
        best = [[math.inf] * (m + 1) for _ in range(n + 1)]
        came = [[0] * (m + 1) for _ in range(n + 1)]
        best[0][0] = 0.0
        for i, letter in enumerate(letters):
            for j in range(m + 1):
                if best[i][j] == math.inf:
                    continue
                for taken in range(min(_MOST, m - j) + 1):
                    cost = best[i][j] + self._cost(letter, names, i, j, taken, n)
                    if cost < best[i + 1][j + taken]:
                        best[i + 1][j + taken], came[i + 1][j + taken] = cost, taken
        counts, j = [], m
        for i in range(n, 0, -1):
            counts.append(came[i][j])
            j -= came[i][j]
        return counts[::-1]

    def _cost(self, letter: str, names: Sequence[str], i: int, j: int, taken: int, n: int) -> float:
        if not self.counts:
            return _FIRST[taken] + _SLOPE * abs((i + 0.5) / n - (j + taken / 2) / len(names))
        count = self.counts.get(letter, {}).get(" ".join(names[j : j + taken]), 0)
        total = self._totals.get(letter, 0)
        return _FIRST[taken] / 2 - math.log((count + _UNSEEN) / (total + 1))

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        atomic_write(path, json.dumps(self.counts, sort_keys=True, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "LetterTable":
        """Reads what `save` wrote."""
        return cls(json.loads(path.read_text(encoding="utf-8")))


def spoken_words(text: str, phonemes: Sequence[Phoneme]) -> list[tuple[int, str, list[int]]]:
    """The words of a text: where each begins, its letters, and the indices of its phonemes. Words
    that espeak speaks as one ("of the") are one here."""
    words: list[tuple[int, str, list[int]]] = []
    place = 0
    for letters in text.split(" "):
        stop = place + len(letters)
        own = [
            i
            for i, phoneme in enumerate(phonemes)
            if place <= phoneme.place < stop and not phoneme.name.startswith("_")
        ]
        if own or not words:
            words.append((place, letters, own))
        else:
            first, before, theirs = words[-1]
            words[-1] = first, f"{before} {letters}", theirs
        place = stop + 1
    return words


def letter_ends(
    text: str, phonemes: Sequence[Phoneme], seconds: float, table: LetterTable
) -> list[float]:
    """When each letter of `f" {text} "` ends, in seconds; a silent letter ends where it begins.

    Args:
        text: single blanks, none around it.
        phonemes: in order, with the pauses.
        seconds: length of the sound, where the last blank ends.
    """
    starts = [phoneme.start for phoneme in phonemes] + [seconds]
    ends: list[float] = []
    for _, letters, own in spoken_words(text, phonemes):
        now = starts[own[0]] if own else (ends[-1] if ends else 0.0)
        ends.append(now)  # the blank before the word
        taken = table.align(letters, [phonemes[i].name for i in own]) if own else [0] * len(letters)
        first = 0
        for count in taken:
            first += count
            ends.append(starts[own[first - 1] + 1] if first else now)
    return [*ends, seconds]
