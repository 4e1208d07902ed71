import shutil

import pytest
import torch

from studio.data import speech
from studio.data.datasets import make_dataset
from studio.data.speech import (
    ACCENTS,
    HELDOUT_VOICES,
    TRAIN_VOICES,
    VARIANTS,
    SpokenSentences,
    Utterance,
    speak,
)

needs_espeak = pytest.mark.skipif(not shutil.which("espeak-ng"), reason="needs espeak-ng")


@pytest.fixture
def small_cache(tmp_path, monkeypatch):
    """An empty cache folder, and files of three utterances."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(speech, "_SHARD", 3)
    speech._shard.cache_clear()
    yield tmp_path / "studio" / "speech"
    speech._shard.cache_clear()


def test_items_are_a_function_of_index_split_and_seed():
    data = SpokenSentences()
    assert data.utterance(5) == SpokenSentences().utterance(5)
    assert data.utterance(5) != data.utterance(6) != SpokenSentences(seed=1).utterance(6)
    assert data.caption(5) == data.utterance(5).text


def test_the_held_out_voices_never_speak_in_training():
    assert len(HELDOUT_VOICES) == 2 and not set(HELDOUT_VOICES) & set(TRAIN_VOICES)
    spoken = {SpokenSentences().utterance(i).voice for i in range(200)}
    assert spoken == set(TRAIN_VOICES)
    heldout, voice = (SpokenSentences(split=split) for split in ("heldout", "voice"))
    assert all(voice.utterance(i).voice in HELDOUT_VOICES for i in range(20))
    assert all(heldout.utterance(i).voice in TRAIN_VOICES for i in range(20))
    assert all(heldout.caption(i) == voice.caption(i) for i in range(20))


def test_variety_is_a_share_of_training_and_nothing_else():
    data = SpokenSentences(variety=0.5)
    voices = [data.utterance(i).voice for i in range(400)]
    many = [voice for voice in voices if voice not in TRAIN_VOICES]
    assert 160 < len(many) < 240 and len(set(many)) > 120
    assert not any(voice.endswith("5") for voice in many)
    assert [data.caption(i) for i in range(9)] == [SpokenSentences().caption(i) for i in range(9)]
    with pytest.raises(ValueError, match="variety 2 must lie between 0 and 1"):
        SpokenSentences(variety=2)
    heldout = SpokenSentences(split="heldout", variety=0.5)
    assert heldout.utterance(3) == SpokenSentences(split="heldout").utterance(3)


@needs_espeak
def test_every_voice_of_the_variety_speaks():
    for voice in [f"en-us+{name}" for name in VARIANTS] + [f"{name}+m1" for name in ACCENTS]:
        wave = speak(Utterance("go", voice, 50, 190))
        assert wave.abs().max() > 0.05, voice


@needs_espeak
def test_sound_of_an_utterance():
    utterance = Utterance("three red apples", "ada", 50, 160)
    wave = speak(utterance)
    assert wave.shape[0] == 1 and 0.6 < wave.shape[1] / 16000 < 2
    assert wave.dtype == torch.float32 and 0.05 < wave.abs().max() <= 1
    assert torch.equal(wave, speak(utterance))
    assert abs(speak(utterance, 24000).shape[1] / 24000 - wave.shape[1] / 16000) < 1e-3


@needs_espeak
def test_rendered_once_and_then_read(small_cache, monkeypatch):
    data = SpokenSentences(voices=("ada", "ben"))
    wave, text = data[1]
    assert text == data.caption(1)
    assert len(list(small_cache.glob("*/*.npz"))) == 1
    assert (wave - speak(data.utterance(1))).abs().max() < 1e-4
    speech._shard.cache_clear()
    monkeypatch.setattr(speech, "speak", None)  # no second call
    assert torch.equal(data[1][0], wave)


def test_a_missing_program_says_what_to_install(small_cache, monkeypatch):
    monkeypatch.setattr(speech, "PROGRAM", "espeak-nowhere")
    speech.espeak_version.cache_clear()
    with pytest.raises(FileNotFoundError, match="espeak-nowhere not found: apt-get install"):
        SpokenSentences()[0]


@needs_espeak
def test_a_voice_that_the_program_lacks_is_one_line(monkeypatch):
    monkeypatch.setitem(speech.VOICES, "nobody", ("xx-nowhere", 50))
    with pytest.raises(RuntimeError, match="cannot speak with voice xx-nowhere"):
        speak(Utterance("hello", "nobody", 50, 160))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "split 'test' must be one of train, heldout, voice"),
        ({"sample_rate": 100}, "sample_rate 100 must lie between"),
        ({"voices": ["bob"]}, "voice 'bob' must be one of ada"),
        ({"speed": 3}, "data of kind 'speech'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_dataset({"kind": "speech", **arguments})
