import shutil

import pytest
import torch

from studio.data.sentences import is_heldout
from studio.data.speech import HELDOUT_VOICES, PROGRAM
from studio.evaluation.sounds import find_sounds, read_sounds, spoken_note, spoken_sounds
from studio.media.audio import write_audio


def test_sounds_of_a_folder_in_the_order_of_names(tmp_path, caplog):
    for name, channels, rate in (("b.flac", 2, 8000), ("a/c.wav", 1, 16000), (".x/d.wav", 1, 8000)):
        write_audio(tmp_path / name, torch.full((channels, rate), 0.25), rate)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "notes.txt").write_text("no sound")
    found = find_sounds(tmp_path)
    assert [sound.name for sound in found] == ["a/c.wav", "b.flac", "broken.wav"]
    assert [sound.name for sound in find_sounds(tmp_path, limit=1)] == ["a/c.wav"]
    waves, kept = read_sounds(found, 16000, 0.5)
    assert kept == [0, 1] and "cut short" in caplog.text
    assert [wave.shape for wave in waves] == [(1, 8000)] * 2
    assert waves[0].unique().tolist() == [0.25]


def test_folders_that_are_none(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, kind, message in (
        ("none", FileNotFoundError, "does not exist"),
        ("file", NotADirectoryError, "is no folder"),
        ("empty", ValueError, "holds no sound"),
    ):
        with pytest.raises(kind, match=f"--data '.*{name}' {message}"):
            find_sounds(tmp_path / name)


@pytest.mark.skipif(not shutil.which(PROGRAM), reason="needs espeak-ng")
def test_held_out_speech(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known, other = spoken_sounds(1)
    assert known.part != other.part and known.key != other.key
    assert is_heldout(known.caption) and other.name.split()[0] in HELDOUT_VOICES
    assert known.name.split()[0] not in HELDOUT_VOICES
    assert other.name.split()[0] in spoken_note(1)
    wave = known.read(8000, 0.3)
    assert wave.shape == (1, 2400) and float(wave.abs().max()) > 0.01
