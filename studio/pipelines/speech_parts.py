"""A text as parts that a generator of speech can say at once, each with the times of its letters.

Cut at punctuation, or else between words where a part would be longer than the generator's
sequence. Lengths of letters are the network's own prediction (FastSpeech 2, 2020, 2006.04558).
Leaves out on purpose: marks for emphasis.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from studio.data.spelling import spell
from studio.generators.base import Generator
from studio.generators.conditioning import SpeechCondition
from studio.generators.letters import letter_ids

# seconds of silence after a part that ends so
PAUSES = {".": 0.3, "!": 0.3, "?": 0.3, "\n": 0.3, ";": 0.2, ":": 0.2, ",": 0.12}
_MARKS = "".join(PAUSES)
_MIDDLE, _REACH = 160.0, 30.0  # words a minute at speed 1, and how far training went from there


@dataclass(frozen=True)
class Manner:
    """How something is said: the voice's number, pitch -1 to 1, and speed, 1 for ordinary."""

    voice: int = 0
    pitch: float = 0.0
    speed: float = 1.0

    @property
    def told_speed(self) -> float:
        """The speed as networks are told, -1 to 1: as far as training went."""
        return min(max((_MIDDLE * self.speed - _MIDDLE) / _REACH, -1.0), 1.0)

    @property
    def stretch(self) -> float:
        """What predicted lengths are multiplied by, for speeds beyond."""
        return (_MIDDLE + _REACH * self.told_speed) / (_MIDDLE * self.speed)


@dataclass(frozen=True)
class Part:
    """A stretch of text that is spoken at once.

    Args:
        text: spelled.
        ends: when each letter of `f" {text} "` ends, in tokens, float (S,); the last is whole.
        pause: tokens of silence after it.
    """

    text: str
    ends: torch.Tensor
    pause: int = 0

    @property
    def count(self) -> int:
        """Its tokens, without the pause."""
        return int(self.ends[-1])


def clauses(text: str) -> list[tuple[str, str]]:
    """The spelled clauses of a text, each with the mark that ends it ("" for none)."""
    found = []
    # a mark between digits, as in 3.5 or 1,000, ends nothing
    pattern = rf"(?:[^{_MARKS}]|(?<=\d)[.,:](?=\d))+[{_MARKS}]*|[{_MARKS}]+"
    for piece in re.findall(pattern, text):
        body = spell(piece.rstrip(_MARKS))
        mark = piece.rstrip(" \t\r")[-1:]
        if body:
            found.append((body, mark if mark in PAUSES else ""))
    return found


def split_text(
    text: str, network: Generator, manner: Manner, *, frame_rate: float, device: torch.device
) -> list[Part]:
    """A text as parts that fit into the network's sequence.

    Args:
        frame_rate: tokens a second.

    Raises:
        ValueError: nothing in it can be spoken, or a word is longer than a sequence.
    """
    made: list[Part] = []
    for clause, mark in clauses(text):
        words = clause.split(" ")
        while words:
            part, words = _longest(words, network, manner, device)
            made.append(part)
        pause = round(PAUSES.get(mark, 0.0) / manner.speed * frame_rate)
        made[-1] = replace(made[-1], pause=pause)
    if not made:
        raise ValueError(
            f"prompt {text[:40]!r} holds nothing that can be spoken: letters a to z and digits can "
            "be"
        )
    made[-1] = replace(made[-1], pause=0)
    return made


def _longest(words: list[str], network: Generator, manner: Manner, device) -> tuple[Part, list]:
    """The most leading words that fit at once, and the words after them."""
    letters, tokens = network.config.num_condition_tokens, network.layout.num_tokens
    count = len(words)
    while count and len(" ".join(words[:count])) + 2 > letters:
        count -= 1
    while count:
        text = " ".join(words[:count])
        ends = letter_times(text, network, manner, device)
        if ends[-1] <= tokens:
            return Part(text, ends), words[count:]
        count = min(count - 1, int(count * tokens / float(ends[-1])))
    raise ValueError(f"prompt holds the word {words[0][:40]!r}, which is too long to be spoken")


@torch.no_grad()
def letter_times(text: str, network: Generator, manner: Manner, device) -> torch.Tensor:
    """When each letter of a spelled text ends, in tokens, float (S,); the last is whole."""
    condition = speech_condition([text], [torch.zeros(1)], network, manner).to(device)
    lengths = network.conditioner.lengths(condition)[0, : len(text) + 2].expm1().cpu()
    ends = (lengths * manner.stretch).cumsum(0)  # (S,)
    total = ends[-1].round().clamp(min=1)
    return torch.cat((ends[:-1].clamp(max=float(total)), total[None]))


def speech_condition(
    texts: Sequence[str], ends: Sequence[torch.Tensor], network: Generator, manner: Manner
) -> SpeechCondition:
    """Rows (B, S), S always the network's longest, so that a row never depends on others."""
    config, batch = network.config, len(texts)
    ids, mask = letter_ids(texts, config.alphabet)
    missing = config.num_condition_tokens - ids.shape[1]
    times = torch.zeros(batch, config.num_condition_tokens)  # (B, S)
    for row, end in zip(times, ends, strict=True):
        row[: len(end)] = end
    return SpeechCondition(
        ids=torch.nn.functional.pad(ids, (0, missing)),
        mask=torch.nn.functional.pad(mask, (0, missing)),
        ends=times,
        voices=torch.full((batch,), manner.voice),
        pitches=torch.full((batch,), manner.pitch),
        speeds=torch.full((batch,), manner.told_speed),
    )
