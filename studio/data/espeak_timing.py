"""Speech with the moment of every phoneme, from espeak-ng's library.

The program that `speech.py` calls gives the sound alone; its library also says when each phoneme
begins and which word it belongs to, so nothing has to be aligned by a network. Training needs it,
what was trained does not. The engine keeps state between utterances (where a noise was last cut),
so its samples may differ from the program's by what nobody hears. Leaves out on purpose: several
threads; the library has one global state.
"""

import ctypes
import ctypes.util
import functools
from dataclasses import dataclass

import numpy as np
import torch

from studio.data.speech import VOICES, Utterance, resample_speech

_SYNCHRONOUS, _PHONEME_EVENTS, _UTF8 = 2, 1, 1
_RATE, _PITCH = 1, 3
_LIST_END, _PHONEME = 0, 7


@dataclass(frozen=True)
class Phoneme:
    """A phoneme as it was spoken.

    Args:
        name: espeak's, such as "aI"; "_" and "_:" are pauses.
        start: seconds from the beginning of the sound.
        place: index in the text of the first letter of its word.
    """

    name: str
    start: float
    place: int


class _Name(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("numbers", ctypes.c_ubyte * 4),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Engine:
    """The library, opened once a process; `open_engine` gives it.

    Raises:
        FileNotFoundError: it is not installed; one line with what to install.
    """

    def __init__(self):
        name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError:
            raise FileNotFoundError(
                "library libespeak-ng not found: apt-get install espeak-ng"
            ) from None
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS)
        self._samples: list[np.ndarray] = []
        self._phonemes: list[Phoneme] = []
        self._callback = _Callback(self._take)  # kept, or the library would call what is gone
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples, count: int, events) -> int:
        if samples and count > 0:
            self._samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != _LIST_END:
            event = events[index]
            if event.type == _PHONEME:
                text = bytes(event.id.string).split(b"\0")[0].decode(errors="replace")
                start = event.sample / self._rate
                self._phonemes.append(Phoneme(text, start, event.text_position - 1))
            index += 1
        return 0

    def speak(
        self, utterance: Utterance, sample_rate: int = 16000
    ) -> tuple[torch.Tensor, list[Phoneme]]:
        """The sound of an utterance, float32 (1, L) in [-1, 1], and its phonemes in order.

        Raises:
            RuntimeError: the library knows no such voice, or gives no sound.
        """
        voice, library = VOICES[utterance.voice][0], self._library
        self._samples, self._phonemes = [], []
        failed = library.espeak_SetVoiceByName(voice.encode())
        if failed:  # as the program does: the name may be a language's
            wanted = _Voice(languages=voice.encode())
            failed = library.espeak_SetVoiceByProperties(ctypes.byref(wanted))
        library.espeak_SetParameter(_RATE, utterance.speed, 0)
        library.espeak_SetParameter(_PITCH, utterance.pitch, 0)
        text = utterance.text.encode()
        library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
        library.espeak_Synchronize()
        if failed or not self._samples:
            raise RuntimeError(f"libespeak-ng cannot speak with voice {voice}")
        samples = np.concatenate(self._samples).astype(np.float64) / 32768
        wave = resample_speech(samples, sample_rate).clip(-1, 1).astype(np.float32)
        return torch.from_numpy(wave)[None], list(self._phonemes)  # (1, L)


@functools.lru_cache(maxsize=1)
def open_engine() -> Engine:
    """The one engine of this process."""
    return Engine()
