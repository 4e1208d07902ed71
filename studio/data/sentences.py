"""Sentences from a small grammar, plus single words and digits: what the synthetic voices say.

Which sentences training never sees follows from their letters alone (`is_heldout`), so no list of
them is kept. Leaves out on purpose: meaning.
"""

import functools
import hashlib
import re
from collections.abc import Sequence

import numpy as np

from studio.data.spelling import ONES, number_words, spell

COLORS = """red green blue yellow orange purple pink brown black white grey golden silver
violet""".split()
ADJECTIVES = """small big old new happy sad quick slow quiet loud warm cold soft hard heavy light
bright dark tall short round empty clean strange gentle brave lazy clever hungry sleepy funny
lonely smooth rough sweet sour wild young thin thick""".split()
THINGS = """apple orange lemon cherry banana grape melon carrot potato onion book chair table lamp
cup bottle box key door window clock bell ball kite drum guitar piano violin trumpet boat ship
train car bus truck bicycle rocket balloon umbrella hat shoe coat glove ring crown flower tree
leaf rose star cloud stone shell feather candle pencil letter picture mirror hammer ladder basket
blanket pillow brush spoon knife fork plate bowl cake cookie bridge tower house tent flag map coin
camera phone computer robot wheel engine mask glass sword shield""".split()
ANIMALS = """dog cat horse cow pig goat rabbit mouse bear lion tiger elephant giraffe monkey zebra
fox owl eagle duck goose chicken penguin parrot frog turtle snake spider bee butterfly ant whale
dolphin shark octopus crab snail camel donkey squirrel hedgehog""".split()
PEOPLE = """anna peter mary john lucy george alice henry emma thomas julia oliver the|teacher
the|doctor the|farmer the|captain the|king the|queen my|brother my|sister our|neighbour
their|mother his|father her|friend""".replace("|", "_").split()
PLACES = """house garden forest river mountain city village school kitchen market beach island
station library castle bridge field valley harbour museum hospital church office desert lake ocean
park street theatre cave""".split()
DOES = """jumps runs walks sleeps sings dances swims waits hides plays rests sits stands laughs
cries shouts whispers works lives stays""".split()
TAKES = """carries finds sees likes loves wants holds buys sells paints draws brings throws keeps
loses makes washes opens breaks hears watches follows pushes pulls touches needs shows""".split()
WHERE = """in near behind beside under above over around across toward through past""".split()
WHEN = """today tomorrow yesterday now again always often never|again every|morning every|evening
at|night in|summer in|winter on|monday on|tuesday on|wednesday on|thursday on|friday on|saturday
on|sunday this|afternoon after|lunch before|breakfast once|more""".replace("|", "_").split()
MONTHS = """january february march april may june july august september october november
december""".split()
ASKS = """where when why how""".split()
PHRASES = """good_morning good_evening good_night thank_you thank_you_very_much you_are_welcome
excuse_me see_you_soon how_are_you i_am_fine please_come_in be_careful well_done happy_birthday
hello_world yes no hello goodbye please sorry maybe of_course good_luck""".split()
_IRREGULAR = {"leaf": "leaves", "knife": "knives", "mouse": "mice", "goose": "geese"}
_HELDOUT_SHARE = 12  # of 256


def plural(noun: str) -> str:
    """The plural of a noun of this grammar."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("s", "sh", "ch", "x")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def is_heldout(text: str) -> bool:
    """Whether training never sees this sentence: about one in twenty of those of three words or
    more, by a hash of the letters."""
    if len(text.split()) < 3:
        return False
    return hashlib.sha256(text.encode()).digest()[0] < _HELDOUT_SHARE


def vocabulary() -> list[str]:
    """Every word that a sentence may hold, without numbers, sorted."""
    groups = (COLORS, ADJECTIVES, THINGS, ANIMALS, PEOPLE, PLACES, DOES, TAKES, WHERE, WHEN)
    lists = [*groups, MONTHS, ASKS, PHRASES, map(plural, THINGS + ANIMALS)]
    return sorted({word for words in lists for entry in words for word in entry.split("_")})


def sentence(rng: np.random.Generator, *, heldout: bool = False) -> str:
    """A random sentence in the letters of `spelling.ALPHABET`, from those that training sees, or
    from the others."""
    while True:
        text = spell(_draw(rng).replace("_", " "))
        if is_heldout(text) == heldout:
            return text


@functools.lru_cache(maxsize=1)
def wide_vocabulary() -> tuple[str, ...]:
    """Words of 2 to 12 letters in the documentation of Python's language, which Python itself
    carries, with those of the grammar; sorted. For how words are spelled, not for what they say.
    """
    from pydoc_data.topics import topics

    found = re.findall(
        r"(?<![\w.'_-])[a-z]{2,12}(?![\w.'_(=-])", "\n".join(topics.values()).lower()
    )
    spoken = {word for word in found if re.search("[aeiouy]", word)}
    return tuple(sorted(spoken | set(vocabulary())))


def loose_words(rng: np.random.Generator) -> str:
    """Two to five words of `wide_vocabulary`, in no order."""
    return " ".join(_pick(rng, wide_vocabulary()) for _ in range(int(rng.integers(2, 6))))


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _noun_phrase(rng: np.random.Generator) -> str:
    """One or several things or animals."""
    noun = _pick(rng, THINGS if rng.random() < 0.6 else ANIMALS)
    quality = _pick(rng, COLORS if rng.random() < 0.6 else ADJECTIVES)
    words = f"{quality} {noun}" if rng.random() < 0.75 else noun
    kind = rng.random()
    if kind < 0.35:
        return f"{number_words(int(rng.integers(2, 21)))} {words[: -len(noun)]}{plural(noun)}"
    if kind < 0.6:
        return f"the {words}"
    return _article(words)


def _draw(rng: np.random.Generator) -> str:
    """One sentence, words that belong together joined by underscores."""
    kind = rng.random()
    if kind < 0.14:  # short answers: one word, or a phrase
        words = vocabulary() if rng.random() < 0.7 else PHRASES
        return _pick(rng, words)
    if kind < 0.24:
        return _numbers(rng)
    if kind < 0.38:
        first = _noun_phrase(rng)
        return first if rng.random() < 0.5 else f"{first} and {_noun_phrase(rng)}"
    if kind < 0.46:
        return f"{_noun_phrase(rng)} {_pick(rng, WHERE)} the {_pick(rng, PLACES)}"
    if kind < 0.54:
        day = number_words(int(rng.integers(1, 32)))
        return f"{_pick(rng, PEOPLE)} {_pick(rng, DOES)} on {_pick(rng, MONTHS)} {day}"
    if kind < 0.60:
        return f"{_pick(rng, ASKS)} is the {_pick(rng, ADJECTIVES)} {_pick(rng, ANIMALS)}"
    who = _pick(rng, PEOPLE) if rng.random() < 0.6 else f"the {_pick(rng, ANIMALS)}"
    if kind < 0.74:
        place = f"{_pick(rng, WHERE)} the {_pick(rng, ADJECTIVES)} {_pick(rng, PLACES)}"
        return f"{who} {_pick(rng, DOES)} {place}"
    words = f"{who} {_pick(rng, TAKES)} {_noun_phrase(rng)}"
    return f"{words} {_pick(rng, WHEN)}" if rng.random() < 0.35 else words


def _numbers(rng: np.random.Generator) -> str:
    """Digits one by one, a number, or a time of day."""
    kind = rng.random()
    if kind < 0.45:
        return " ".join(_pick(rng, ONES[:10]) for _ in range(int(rng.integers(1, 7))))
    if kind < 0.75:
        return number_words(int(10 ** rng.uniform(0.5, 4)))
    hour, minute = ONES[int(rng.integers(1, 13))], int(rng.integers(0, 12)) * 5
    return f"it is {hour} {number_words(minute) if minute else 'now'}"
