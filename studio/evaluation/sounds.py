"""The sounds of an evaluation: files of a folder in a fixed order, or held-out synthetic speech.

What can't be read as sound is left out with a warning, and the report says how many. Channels are
mixed into one, and of a long file only the beginning is taken: measures of speech are made for some
seconds of one voice. Left out on purpose: stereo measures.
"""

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from studio.data.speech import HELDOUT_VOICES, SpokenSentences, espeak_version, find_espeak
from studio.evaluation.pictures import picture_file, spread
from studio.media.audio import read_audio
from studio.media.resampling import resample

ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf")
SPLITS = {"heldout": "held-out sentences", "voice": "held-out voices"}
NATIVE = 16000  # Hz, at which sentences are spoken; another rate is converted from it
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sound:
    """One sound: a file (`path`), or item `index` of a split of the synthetic speech.

    Args:
        name: for readers. key: plain JSON values that tell it from a changed one.
        part: of the data that it belongs to; figures are given for each.
        caption: what is said, where known.
    """

    name: str
    key: tuple
    part: str = ""
    path: Path | None = None
    index: int = 0
    caption: str = ""

    def read(self, sample_rate: int, seconds: float) -> torch.Tensor:
        """The first `seconds` of the sound, float32 (1, L) in [-1, 1]. Raises as `read_audio`."""
        if self.path is not None:
            wave = read_audio(self.path, sample_rate=sample_rate, mono=True, seconds=seconds)[0][0]
        else:
            spoken = _speech(str(self.key[1]))[self.index][0]
            wave = resample(spoken, NATIVE, sample_rate)
        return wave[:, : round(seconds * sample_rate)]  # (1, L)


def find_sounds(folder: str | Path, *, limit: int | None = None) -> list[Sound]:
    """The sound files of a folder and its subfolders by their endings, in the order of names.

    Args:
        limit: so many, spread evenly over the whole; all when None.

    Raises:
        FileNotFoundError, NotADirectoryError: `folder` is none.
        ValueError: it holds no sound.
    """
    root = Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"--data {str(folder)!r} does not exist")
    if not root.is_dir():
        raise NotADirectoryError(f"--data {str(folder)!r} is no folder")
    names = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in ENDINGS and path.is_file()
    )
    names = [name for name in names if not any(part[0] == "." for part in name.split("/"))]
    if not names:
        raise ValueError(f"--data {str(folder)!r} holds no sound ({', '.join(ENDINGS)})")
    files = [picture_file(root / name, name) for name in spread(names, limit)]
    return [Sound(file.name, file.key, path=file.path) for file in files]


def spoken_sounds(count: int) -> list[Sound]:
    """The first `count` held-out sentences in the voices of training, then as many in the voices
    that training never heard.

    Raises:
        FileNotFoundError: espeak-ng is not installed.
    """
    find_espeak()
    found = []
    for split, part in SPLITS.items():
        for index in range(count):
            said = _speech(split).utterance(index)
            key = ("espeak-ng", split, espeak_version(), index)
            place = {"part": part, "index": index, "caption": said.text}
            found.append(Sound(f"{said.voice} {index}", key, **place))
    return found


def spoken_note(count: int) -> str:
    """What to say of `spoken_sounds`."""
    return (
        f"{count} sentences that training never heard, spoken by espeak-ng {espeak_version()}: in "
        f"the voices of training, and in the held-out voices ({', '.join(HELDOUT_VOICES)})."
    )


@lru_cache(maxsize=4)
def _speech(split: str) -> SpokenSentences:
    return SpokenSentences(sample_rate=NATIVE, split=split)


def read_sounds(
    sounds: list[Sound], sample_rate: int, seconds: float
) -> tuple[list[torch.Tensor], list[int]]:
    """Waves (1, L), and which of `sounds` they are: those that can't be read are left out."""
    waves, kept = [], []
    for number, sound in enumerate(sounds):
        try:
            waves.append(sound.read(sample_rate, seconds))
            kept.append(number)
        except (OSError, ValueError) as error:
            logger.warning("left out: %s", error)
    return waves, kept
