"""Tokens of spoken sentences with the time of every letter, kept on disk once they were made.

Like `token_cache.py`, for sequences of different lengths. Sound is spoken, encoded and forgotten.
Leaves out on purpose: sentences that are too long for the arrays; others stand in their places.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studio.data.espeak_timing import open_engine
from studio.data.letter_alignment import LetterTable, letter_ends, spoken_words
from studio.data.speech import SpokenSentences, Utterance
from studio.data.token_cache import cache_key, open_rows


@dataclass(frozen=True)
class SpokenTokens:
    """One utterance.

    Args:
        tokens: int64 (T,).
        ends: float32 (S,), when each letter of `f" {text} "` ends, in tokens; the last is T.
        utterance: what was said and how.
    """

    tokens: torch.Tensor
    ends: torch.Tensor
    utterance: Utterance


class SpeechTokenCache:
    """Items 0 to `size` - 1 of a data set.

    Args:
        folder: where caches live; one sub-folder a key.
        tokenizer: a frozen sound tokenizer of one codebook.
        data: what is said.
        table: which letters stand for which phonemes.
        size: how many items are kept; item i stands for all i + k * size.
        max_tokens, max_letters: longer utterances are passed over (blanks around the text count).
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Any,
        data: SpokenSentences,
        table: LetterTable,
        size: int,
        *,
        max_tokens: int,
        max_letters: int,
    ):
        self.tokenizer, self.data, self.table, self.size = tokenizer, data, table, size
        digest = hashlib.sha256(repr(sorted(table.counts.items())).encode()).hexdigest()
        folder = folder / cache_key(tokenizer, (data, max_tokens, max_letters, digest))
        folder.mkdir(parents=True, exist_ok=True)
        # the last column is the length; nothing was written where it is 0
        self.tokens = open_rows(folder / f"speech-{size}.i32", (size, max_tokens + 1), np.int32)
        self.ends = open_rows(folder / f"ends-{size}.f32", (size, max_letters), np.float32)
        # which item of the data set it is, as long ones are passed over
        self.places = open_rows(folder / f"places-{size}.i32", (size, 1), np.int32)

    def __getitem__(self, index: int) -> SpokenTokens:
        """Item `index`, made now if it is not there."""
        row = index % self.size
        if not self.tokens[row, -1]:
            self._make(row)
        utterance = self.data.utterance(int(self.places[row, 0]))
        count = int(self.tokens[row, -1])
        tokens = torch.from_numpy(self.tokens[row, :count].astype(np.int64))
        ends = torch.from_numpy(self.ends[row, : len(utterance.text) + 2].copy())
        return SpokenTokens(tokens, ends, utterance)

    def length(self, index: int) -> int:
        """Tokens of an item; makes it if it is not there."""
        row = index % self.size
        if not self.tokens[row, -1]:
            self._make(row)
        return int(self.tokens[row, -1])

    @torch.no_grad()
    def _make(self, row: int) -> None:
        place = row
        while True:
            made = spoken_tokens(self.tokenizer, self.data, place, self.table)
            if len(made.tokens) < self.tokens.shape[1] and len(made.ends) <= self.ends.shape[1]:
                break
            place += self.size
        self.tokens[row, : len(made.tokens)] = made.tokens.numpy()
        self.ends[row, : len(made.ends)] = made.ends.numpy()
        self.places[row] = place
        self.tokens[row, -1] = len(made.tokens)


@torch.no_grad()
def spoken_tokens(
    tokenizer: Any, data: SpokenSentences, index: int, table: LetterTable
) -> SpokenTokens:
    """Speaks item `index` and encodes it."""
    utterance = data.utterance(index)
    wave, phonemes = open_engine().speak(utterance, data.sample_rate)
    tokens = tokenizer.encode(wave[None].to(tokenizer.device)).tokens[0].cpu()  # (T,)
    ends = letter_ends(utterance.text, phonemes, wave.shape[-1] / data.sample_rate, table)
    ends = torch.tensor(ends) * (data.sample_rate / tokenizer.hop)
    ends[-1] = len(tokens)
    return SpokenTokens(tokens, ends, utterance)


def learn_table(sets: Sequence[SpokenSentences], count: int) -> LetterTable:
    """A table from the first `count` utterances of every set."""
    engine, words = open_engine(), []
    for data in sets:
        for index in range(count):
            utterance = data.utterance(index)
            _, phonemes = engine.speak(utterance, data.sample_rate)
            for _, letters, own in spoken_words(utterance.text, phonemes):
                words.append((letters, [phonemes[i].name for i in own]))
    return LetterTable.learn(words)
