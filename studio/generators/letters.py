"""Spelled text to the ids of letters, as a `SpeechCondition` takes them."""

from collections.abc import Sequence

import torch


def letter_ids(texts: Sequence[str], alphabet: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids int64 and mask bool, (B, S) both: letters numbered from 1, a blank before and after
    every text, right padded by 0.

    Raises:
        ValueError: a letter that the alphabet does not have.
    """
    numbers = {letter: i for i, letter in enumerate(alphabet, 1)}
    rows = []
    for text in texts:
        unknown = sorted(set(text) - set(numbers))
        if unknown:
            raise ValueError(f"text holds {unknown[0]!r}, which is none of {alphabet!r}")
        rows.append(torch.tensor([numbers[c] for c in f" {text} "]))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, S)
    return ids, ids > 0
