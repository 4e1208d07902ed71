"""WAV files by hand: what others read in them, and what is seen of broken ones."""

import struct
import wave

import numpy as np
import pytest

from studio.media.wav import is_wav, missing_share, wav_bytes, wav_comment


def noise(*shape):
    return (np.random.default_rng(0).random(shape) * 60000 - 30000).astype(np.int16)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("comment", [None, "a comment", "ünïcode " * 20000])
def test_pythons_own_reader_agrees(tmp_path, channels, comment):
    samples, file = noise(33, channels), tmp_path / "a.wav"
    file.write_bytes(wav_bytes(samples, 16000, comment))
    with wave.open(str(file)) as read:
        assert (read.getframerate(), read.getnchannels(), read.getnframes()) == (
            16000,
            channels,
            33,
        )
        found = np.frombuffer(read.readframes(33), "<i2").reshape(33, channels)
    assert (found == samples).all()
    assert wav_comment(file) == comment and is_wav(file) and missing_share(file) == 0


def test_missing_samples_are_counted(tmp_path):
    whole, file = wav_bytes(noise(1000, 1), 8000), tmp_path / "a.wav"
    file.write_bytes(whole[:-500])
    assert missing_share(file) == pytest.approx(0.25)
    piped = whole[:40] + struct.pack("<I", 0xFFFFFFFF) + whole[44:]
    file.write_bytes(piped)
    assert missing_share(file) == 0
    file.write_bytes(whole[:30])
    assert missing_share(file) == 1
    file.write_bytes(b"no wave at all")
    assert not is_wav(file)
    with pytest.raises(ValueError, match="must be int16 or float32"):
        wav_bytes(np.zeros(4), 8000)
