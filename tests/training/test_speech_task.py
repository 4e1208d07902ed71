import shutil

import pytest
import torch

from studio.data.letter_alignment import LetterTable, letter_ends, spoken_words
from studio.tokenizers.spectral import SpectralTokenizer
from studio.training.loop import train
from studio.training.recipe import Recipe
from studio.training.speech_task import SpeechTask, collate, manner

pytestmark = pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("codec")
    tiny = {"dim": 8, "hidden_dim": 8, "encoder_layers": 1, "decoder_layers": 1}
    tiny |= {"fine_dim": 8, "fine_hidden_dim": 8, "fine_layers": 1}
    SpectralTokenizer(levels=[3, 3], hop=400, frames=2, n_mels=8, **tiny).save_pretrained(folder)
    return folder


def recipe(codec, **changes):
    config = {"dim": 16, "num_layers": 1, "num_heads": 2, "text_layers": 1, "frame_layers": 1}
    config |= {"token_levels": [3, 3], "head": "digits+full", "head_rank": 4, "prior_dim": 1}
    loss = {"utterances": 6, "words": 4, "checked": 2, "tokens": 200}
    values = {
        "name": "tiny-tts",
        "task": "speech",
        "model": {"class": "AutoregressiveTransformer", "config": config},
        "data": {"kind": "speech", "sample_rate": 16000},
        "loss": loss,
        "requires": {"tokenizer": str(codec)},
        "steps": 2,
        "batch_size": 2,
        "sample_every": 2,
        "threads": 1,
    }
    return Recipe(**{**values, **changes})


@pytest.fixture(scope="module")
def task(codec, tmp_path_factory):
    return SpeechTask(recipe(codec), tmp_path_factory.mktemp("runs") / "tiny")


def test_letters_last_as_long_as_the_sound(task):
    for index in range(10):
        item = task.item(index)
        assert len(item.ends) == len(item.utterance.text) + 2
        assert bool((item.ends.diff() >= 0).all()) and item.ends[-1] == len(item.tokens)
        # the vowels take more of it than the blanks
        lengths = item.ends.diff(prepend=torch.zeros(1))
        assert lengths.max() > 2


def test_an_alignment_gives_silent_letters_nothing():
    sounds = {"a": ["A"], "b": ["B"], "x": ["k", "s"], "e": []}
    spelled = "ab ba aab bab axe bax xa bea abe bxa xb axb eab abax".split()
    words = [(w, [name for letter in w for name in sounds[letter]]) for w in spelled]
    table = LetterTable.learn(words)
    assert table.align("bexae", ["B", "k", "s", "A"]) == [1, 0, 2, 1, 0]
    assert table.align("a", ["d", "V", "b", "@", "l"]) == [5]
    assert LetterTable(table.counts).align("ab", ["A", "B"]) == [1, 1]


def test_batches_follow_from_the_step_and_are_about_equally_long(task):
    first, again = task.batch(3, torch.device("cpu")), task.batch(3, torch.device("cpu"))
    assert torch.equal(first["read"], again["read"]) and task.chosen(3) == task.chosen(3)
    wrong = (first["read"] != first["tokens"]) & first["real"]
    assert 0 <= wrong.float().mean() < 0.4
    assert first["condition"].ids.shape == first["condition"].ends.shape


def test_manner_is_relative_to_the_voice(task):
    for index in range(6):
        pitch, speed = manner(task.item(index).utterance)
        assert -1 <= pitch <= 1 and -1 <= speed <= 1
    batch = collate([task.item(0), task.item(1)], task.voices)
    assert batch["condition"].voices.tolist() == [
        task.voices.index(task.item(i).utterance.voice) for i in (0, 1)
    ]


def test_trains_and_writes_what_a_pipeline_reads(codec, tmp_path):
    final = train(recipe(codec), out=tmp_path / "runs" / "tts")
    assert (final / "config.json").exists()
    assert list((tmp_path / "runs" / "tts").glob("sheet-*.png"))


def test_what_is_missing_is_named(codec, tmp_path):
    with pytest.raises(ValueError, match="requires.tokenizer None"):
        SpeechTask(recipe(codec, requires={}), tmp_path)
    with pytest.raises(ValueError, match="loss option 'tones' is unknown"):
        SpeechTask(recipe(codec, loss={"tones": 1}), tmp_path)


def test_words_spoken_as_one_are_one():
    from studio.data.espeak_timing import Phoneme

    phonemes = [Phoneme("I", 0.1, 0), Phoneme("n", 0.2, 0), Phoneme("D", 0.3, 0)]
    phonemes += [Phoneme("@", 0.4, 0), Phoneme("_:", 0.5, 6)]
    assert spoken_words("in the", phonemes) == [(0, "in the", [0, 1, 2, 3])]
    ends = letter_ends("in the", phonemes, 0.6, LetterTable())
    assert len(ends) == 8 and ends[0] == 0.1 and ends[-2:] == [0.5, 0.6]
