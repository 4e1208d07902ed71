"""How much of what was said was heard otherwise: word and character error rates."""

from collections.abc import Iterable, Sequence


def edit_distance(said: Sequence, heard: Sequence) -> int:
    """The least number of insertions, deletions and substitutions between two sequences.

    Levenshtein, "Binary codes capable of correcting deletions, insertions, and reversals" (1966).
    """
    row = list(range(len(heard) + 1))
    for i, one in enumerate(said, 1):
        corner, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            cost = min(row[j] + 1, row[j - 1] + 1, corner + (one != other))
            corner, row[j] = row[j], cost
    return row[-1]


def word_error_rate(pairs: Iterable[tuple[str, str]]) -> float:
    """Edits over all pairs (said, heard) as a share of the words said; may exceed 1."""
    return _rate((said.split(), heard.split()) for said, heard in pairs)


def character_error_rate(pairs: Iterable[tuple[str, str]]) -> float:
    """Edits over all pairs (said, heard) as a share of the characters said; may exceed 1."""
    return _rate(pairs)


def _rate(pairs: Iterable[tuple[Sequence, Sequence]]) -> float:
    edits, total = 0, 0
    for said, heard in pairs:
        edits, total = edits + edit_distance(said, heard), total + len(said)
    if not total:
        raise ValueError("pairs hold nothing that was said")
    return edits / total
