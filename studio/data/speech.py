"""Speech made on the spot with espeak-ng: sentences, their sound, and who says them.

espeak-ng (a program, called once an utterance) speaks in several voices, pitches and speeds. An
utterance is a pure function of its index, so a data set is described by a few numbers; what was
rendered is kept in the user's cache folder. Held out by rule: sentences by their letters
(`sentences.is_heldout`), and the voices built on the variants numbered 5. Leaves out on purpose:
recordings of people, the mbrola voices (their licence forbids commercial use), other languages.
"""

import functools
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from studio.data.sentences import loose_words, sentence
from studio.media.files import atomic_path

# Name -> (voice of espeak-ng, middle of its pitches). Names are ours.
VOICES: dict[str, tuple[str, int]] = {
    "ada": ("en-us+f1", 50),
    "amy": ("en-gb-x-rp+f2", 55),
    "eve": ("en-us+f3", 50),
    "ivy": ("en-gb+f4", 50),
    "may": ("en-us+f2", 45),
    "ben": ("en-us+m1", 45),
    "ian": ("en-gb-scotland+m2", 45),
    "leo": ("en-us+m3", 50),
    "max": ("en-gb+m4", 40),
    "sam": ("en-us+m6", 50),
    "tom": ("en-gb-x-rp+m7", 45),
    "zoe": ("en-us+f5", 50),
    "jon": ("en-us+m5", 45),
}
HELDOUT_VOICES = tuple(name for name, (voice, _) in VOICES.items() if voice.endswith("5"))
TRAIN_VOICES = tuple(name for name in VOICES if name not in HELDOUT_VOICES)
# For variety: accents, and variants that come with espeak-ng. None ends in the held-out 5.
ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-gb-x-gbclan")
VARIANTS = """
    Alex Alicia Andrea Andy Annie AnxiousAndy Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco
    Mario Michael Mike Nguyen RicishayMax Storm adam anika antonio aunty belinda benjamin boris
    caleb croak david ed edward edward2 f1 f2 f3 f4 grandma grandpa gustave iven iven2 iven3 iven4
    john kaukovalta klatt klatt2 klatt3 klatt4 klatt6 linda m1 m2 m3 m4 m6 m7 m8 marcelo max michel
    miguel norbert pablo paul pedro quincy rob robert sandro shelby steph steph2 steph3 travis
    victor whisper whisperf zac
""".split()
SPLITS = ("train", "heldout", "voice", "words")
PITCH_REACH, SPEEDS = 12, (130, 190)  # steps of espeak's 0 to 99 around the middle; words a minute
PROGRAM = "espeak-ng"
_SHARD = 32  # utterances a file of the cache
_NATIVE = 22050
_LAYOUT = 1  # of the cache; another number forgets older ones


def find_espeak() -> str:
    """The path of espeak-ng. Raises FileNotFoundError with what to install."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise FileNotFoundError(f"program {PROGRAM} not found: apt-get install {PROGRAM}")
    return found


@functools.lru_cache(maxsize=1)
def espeak_version() -> str:
    """The version that espeak-ng names, for example "1.51": other versions sound different."""
    done = subprocess.run([find_espeak(), "--version"], capture_output=True, text=True, check=True)
    words = done.stdout.split()
    return next((word for word in words if word[0].isdigit()), "unknown")


@dataclass(frozen=True)
class Utterance:
    """What is said and how.

    Args:
        text: in the letters of `spelling.ALPHABET`.
        voice: a name of `VOICES`, or one that espeak-ng knows.
        pitch: 0 to 99.
        speed: words a minute.
    """

    text: str
    voice: str
    pitch: int
    speed: int


def speak(utterance: Utterance, sample_rate: int = 16000) -> torch.Tensor:
    """The sound of an utterance, float32 (1, L) in [-1, 1], with the program's own loudness.

    Raises:
        FileNotFoundError: espeak-ng is not installed.
        RuntimeError: it failed; one line with what it said.
    """
    voice = VOICES.get(utterance.voice, (utterance.voice,))[0]
    command = [find_espeak(), "-z", "-v", voice, "-p", str(utterance.pitch)]
    command += ["-s", str(utterance.speed), "--stdout", "--", utterance.text]
    done = subprocess.run(command, capture_output=True)
    data = done.stdout
    start = data.find(b"data", 12)
    if done.returncode or start < 0 or int.from_bytes(data[24:28], "little") != _NATIVE:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no sound"]
        raise RuntimeError(f"{PROGRAM} cannot speak with voice {voice}: {said[-1]}")
    payload = data[start + 8 :]
    samples = np.frombuffer(payload[: len(payload) // 2 * 2], "<i2").astype(np.float64) / 32768
    resampled = resample_speech(samples, sample_rate).clip(-1, 1)
    return torch.from_numpy(resampled.astype(np.float32))[None]  # (1, L)


def resample_speech(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Another rate by cutting the spectrum of the whole, exact for sound that begins and ends in
    silence."""
    divisor = np.gcd(_NATIVE, sample_rate)
    up, down = sample_rate // divisor, _NATIVE // divisor
    blocks = -(-len(samples) // down) + 1
    spectrum = np.fft.rfft(samples, blocks * down)
    kept = np.zeros(blocks * up // 2 + 1, complex)
    count = min(len(kept), len(spectrum))
    kept[:count] = spectrum[:count]
    result = np.fft.irfft(kept, blocks * up) * (up / down)
    return result[: round(len(samples) * up / down)]


@dataclass(frozen=True)
class SpokenSentences:
    """An endless data set of spoken sentences; item i is a pure function of i.

    Args:
        sample_rate: of the sound, in Hz.
        split: "train", "heldout" (sentences that training never sees, in the voices that it does
            see), "voice" (the same sentences in the held-out voices), or "words" (words of a far
            larger vocabulary in no order).
        seed: another seed gives other utterances.
        voices: names of `VOICES`; all of the split when None.
        variety: this share of the train split is spoken by any of `ACCENTS` with any of `VARIANTS`,
            at any pitch, so that a codec meets more than the voices of the studio and does not
            learn those by heart.
    """

    sample_rate: int = 16000
    split: str = "train"
    seed: int = 0
    voices: tuple[str, ...] | None = None
    variety: float = 0.0

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r} must be one of {', '.join(SPLITS)}")
        if not 4000 <= self.sample_rate <= 48000:
            raise ValueError(f"sample_rate {self.sample_rate} must lie between 4000 and 48000")
        if not 0 <= self.variety <= 1:
            raise ValueError(f"variety {self.variety} must lie between 0 and 1")
        object.__setattr__(self, "voices", tuple(self.voices) if self.voices else None)
        for name in self.voices or ():
            if name not in VOICES:
                raise ValueError(f"voice {name!r} must be one of {', '.join(VOICES)}")

    def speakers(self) -> tuple[str, ...]:
        """The voices that may speak."""
        default = HELDOUT_VOICES if self.split == "voice" else TRAIN_VOICES
        return self.voices or default

    def utterance(self, index: int) -> Utterance:
        """What item `index` says and how."""
        rng = np.random.default_rng([self.seed, int(self.split != "train"), index])
        wide = self.split == "words"
        text = loose_words(rng) if wide else sentence(rng, heldout=self.split != "train")
        rng = np.random.default_rng([self.seed, 7, SPLITS.index(self.split), index])
        speakers = self.speakers()
        name = speakers[int(rng.integers(len(speakers)))]
        if self.split == "train" and self.variety and rng.random() < self.variety:
            name = f"{ACCENTS[rng.integers(len(ACCENTS))]}+{VARIANTS[rng.integers(len(VARIANTS))]}"
            pitch, speed = int(rng.integers(20, 81)), int(rng.integers(SPEEDS[0], SPEEDS[1] + 1))
            return Utterance(text, name, pitch, speed)
        pitch = VOICES[name][1] + int(rng.integers(-PITCH_REACH, PITCH_REACH + 1))
        return Utterance(text, name, pitch, int(rng.integers(SPEEDS[0], SPEEDS[1] + 1)))

    def caption(self, index: int) -> str:
        """The words of an item, without its sound."""
        return self.utterance(index).text

    def __len__(self) -> int:
        """Utterances an epoch; the data set has no end, so this is as large as it gets."""
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        """Sound float (1, L) in [-1, 1], and its words."""
        samples, ends = _shard(self, index // _SHARD)
        place = index % _SHARD
        start = int(ends[place - 1]) if place else 0
        wave = samples[start : int(ends[place])].astype(np.float32) / 32767
        return torch.from_numpy(wave)[None], self.caption(index)  # (1, L)

    def render(self, count: int) -> None:
        """Makes sure that items 0 to `count` - 1 are in the cache."""
        for number in range(-(-count // _SHARD)):
            if not _shard_path(self, number).exists():
                _render_shard(self, number)


def _shard_path(data: SpokenSentences, number: int) -> Path:
    voices = "-".join((*data.speakers(), *([f"variety{data.variety:g}"] if data.variety else [])))
    key = f"{espeak_version()}-{_LAYOUT}-{data.sample_rate}-{data.split}-{data.seed}-{voices}"
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "studio" / "speech" / key / f"{number:06d}.npz"


@functools.lru_cache(maxsize=512)
def _shard(data: SpokenSentences, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples int16 of `_SHARD` utterances in a row, and where each ends."""
    path = _shard_path(data, number)
    if not path.exists():
        _render_shard(data, number)
    with np.load(path) as file:
        return file["samples"], file["ends"]


def _render_shard(data: SpokenSentences, number: int) -> None:
    def render(index: int) -> np.ndarray:
        wave = speak(data.utterance(index), data.sample_rate)[0]
        return (wave * 32767).round().to(torch.int16).numpy()

    find_espeak()
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        waves = list(pool.map(render, range(number * _SHARD, (number + 1) * _SHARD)))
    with atomic_path(_shard_path(data, number)) as temporary:
        ends = np.cumsum([len(wave) for wave in waves])
        np.savez(temporary, samples=np.concatenate(waves), ends=ends)
