"""Sound files there and back: loudness, requests, and everything that can be wrong with one."""

import logging
import math

import pytest
import torch

from studio.media.audio import (
    audio_info,
    read_audio,
    read_request,
    side_file,
    write_audio,
)
from studio.media.wav import wav_bytes

soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")

REQUEST = {"model": "speech", "prompt": "three red äpples", "seed": 7}


def tone(channels=1, rate=16000, seconds=0.5):
    times = torch.arange(round(rate * seconds)) / rate
    rows = [0.5 * torch.sin(2 * math.pi * 220 * (c + 1) * times) for c in range(channels)]
    return torch.stack(rows)  # (C, L)


@pytest.mark.parametrize(
    "suffix, limit", [(".wav", 0), (".flac", 0), (".ogg", 0.05), (".mp3", 0.1)]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sound_comes_back_with_its_loudness_and_request(tmp_path, suffix, limit, channels):
    sound = (tone(channels) * 32768).round() / 32768
    file = write_audio(tmp_path / "new" / f"a{suffix}", sound, 16000, REQUEST)
    info = audio_info(file)
    assert (info.sample_rate, info.channels) == (16000, channels)
    assert info.seconds == pytest.approx(0.5, abs=0.1)
    read, rate = read_audio(file)
    assert rate == 16000 and read.shape[:2] == (1, channels) and read.dtype == torch.float32
    if suffix != ".mp3":
        assert read.shape[2] == sound.shape[1]
    count = min(read.shape[2], sound.shape[1])
    middle = slice(1000, count - 1000)
    assert (read[0, :, middle] - sound[:, middle]).abs().max() <= limit
    assert read_request(file) == REQUEST
    assert side_file(file).is_file() == (suffix == ".mp3")
    names = {path.name for path in file.parent.iterdir()}
    assert names <= {file.name, side_file(file).name}


def test_what_was_read_is_written_as_it_was(tmp_path):
    every = torch.arange(-32768, 32768)[None] / 32768
    file = write_audio(tmp_path / "a.wav", every, 8000)
    read, _ = read_audio(file)
    assert torch.equal(read[0], every)
    again = write_audio(tmp_path / "b.wav", read, 8000)
    assert again.read_bytes() == file.read_bytes()
    loud = torch.tensor([[0.1, -1.7, 3.3]])
    write_audio(file, loud, 8000, depth="float")
    assert torch.equal(read_audio(file)[0][0], loud)


def test_what_is_too_loud_for_16_bits_is_clipped_and_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        file = write_audio(tmp_path / "a.wav", torch.tensor([[0.5, 1.5, -1.5, 1.0]]), 8000)
    assert "sound reaches 1.50" in caplog.text
    read = read_audio(file)[0].flatten().tolist()
    assert read == [0.5, 32767 / 32768, -1.0, 32767 / 32768]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_the_same_sound_has_the_same_bytes(tmp_path, suffix):
    made = [write_audio(tmp_path / f"{n}{suffix}", tone(), 16000, REQUEST) for n in "ab"]
    assert made[0].read_bytes() == made[1].read_bytes()


def test_parts_mixes_and_other_rates(tmp_path):
    file = write_audio(tmp_path / "a.wav", tone(2), 16000)
    whole, _ = read_audio(file)
    part, _ = read_audio(file, start=0.1, seconds=0.2)
    assert torch.equal(part, whole[..., 1600:4800])
    assert torch.allclose(read_audio(file, mono=True)[0], whole.mean(1, keepdim=True))
    slow, rate = read_audio(file, sample_rate=8000)
    assert rate == 8000 and slow.shape == (1, 2, 4000)
    with pytest.raises(ValueError, match=r"start 2 and seconds None must lie in the 0\.50 s"):
        read_audio(file, start=2)
    with pytest.raises(ValueError, match="seconds -1"):
        read_audio(file, seconds=-1)


def test_odd_sounds_that_are_fine(tmp_path):
    file = write_audio(tmp_path / "one.wav", torch.tensor([[0.25]]), 8000)
    assert read_audio(file)[0].tolist() == [[[0.25]]]
    file = write_audio(tmp_path / "silent.wav", torch.zeros(1, 100), 8000)
    assert read_audio(file)[0].abs().max() == 0
    file = write_audio(tmp_path / "eight.wav", tone(8), 16000)
    assert read_audio(file)[0].shape == (1, 8, 8000)


def bad_files(folder):
    """Name -> (what the message must say, what makes the file)."""
    whole = wav_bytes((tone().numpy().T * 9000).astype("int16"), 16000)
    write_audio(folder / "whole.flac", tone(), 16000)
    write_audio(folder / "whole.ogg", tone(), 16000)
    flac, ogg = (folder / "whole.flac").read_bytes(), (folder / "whole.ogg").read_bytes()
    nan = tone().numpy().T.copy()
    nan[7] = math.nan
    huge = tone().numpy().T * 32768
    nine = wav_bytes(tone(9).numpy().T.copy(), 16000)
    slow = wav_bytes(tone().numpy().T.copy(), 10)
    return {
        "empty.wav": ("is empty", b""),
        "text.wav": ("is none that can be read", b"this is no sound at all" * 9),
        "header.wav": ("is none that can be read", whole[:30]),
        "half.wav": ("is cut short: 50 % of it is missing", whole[: 44 + 8000]),
        "none.wav": ("holds no samples", wav_bytes(nan[:0], 16000)),
        "nan.wav": ("holds values that are not finite", wav_bytes(nan, 16000)),
        "huge.wav": (r"values up to 16384; they must lie in \[-1, 1\]", wav_bytes(huge, 16000)),
        "nine.wav": ("has 9 channels; 1 to 8 are allowed", nine),
        "slow.wav": ("10 samples a second; 1000 to 768000", slow),
        "half.flac": ("cut short", flac[: len(flac) // 2]),
        "half.ogg": ("cut short", ogg[: len(ogg) // 8]),
        "noise.mp3": ("cut short", bytes(range(256)) * 4),
    }


def test_bad_files_are_named_in_one_line(tmp_path):
    for name, (message, content) in bad_files(tmp_path).items():
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            read_audio(file)
        assert "\n" not in str(error.value) and name in str(error.value), name


def test_what_is_not_there_or_too_long_is_refused_before_decoding(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_audio(tmp_path / "nothing.wav")
    with pytest.raises(ValueError, match="is a folder"):
        read_audio(tmp_path)
    file = tmp_path / "hour.wav"
    size = 3600 * 48000 * 2 * 2
    head = bytearray(wav_bytes(torch.zeros(1, 2).short().numpy(), 48000)[:44])
    head[4:8], head[40:44] = (size + 36).to_bytes(4, "little"), size.to_bytes(4, "little")
    with open(file, "wb") as out:
        out.write(head)
        out.truncate(44 + size)  # a hole: it takes no place on the disk
    with pytest.raises(
        ValueError, match="60 minutes of 2 channels at 48000 Hz; at most 47 are read"
    ):
        read_audio(file)
    assert read_audio(file, start=3599.5)[0].shape == (1, 2, 24000)


def test_what_can_not_be_written_is_named(tmp_path):
    sound, file = tone(), tmp_path / "a.wav"
    for message, arguments in (
        ("must end in one of .wav", (tmp_path / "a.aiff", sound, 16000)),
        (r"audio of shape \(1, 0\)", (file, sound[:, :0], 16000)),
        (r"audio of shape \(9, 8000\)", (file, tone(9), 16000)),
        ("not finite", (file, sound / 0, 16000)),
        ("sample_rate 10", (file, sound, 10)),
        ("FLAC can't hold 1 channels at 700000 Hz", (tmp_path / "a.flac", sound, 700000)),
    ):
        with pytest.raises(ValueError, match=message):
            write_audio(*arguments)
    with pytest.raises(ValueError, match="depth '24'"):
        write_audio(file, sound, 16000, depth="24")
    with pytest.raises(ValueError, match="depth 'float'"):
        write_audio(tmp_path / "a.flac", sound, 16000, depth="float")
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".json"]


def test_requests_that_are_none(tmp_path):
    file = write_audio(tmp_path / "a.wav", tone(), 16000)
    with pytest.raises(ValueError, match="holds no studio request"):
        read_request(file)
    samples = tone().numpy().T.copy()
    for text in ("studio:[1]", "studio:{", "other words"):
        file.write_bytes(wav_bytes(samples, 16000, text))
        with pytest.raises(
            ValueError, match="must be a JSON object|not valid JSON|holds no studio"
        ):
            read_request(file)
    large = {"prompt": "ä" * 100_000}
    for suffix in (".wav", ".flac", ".ogg", ".mp3"):
        assert read_request(write_audio(tmp_path / f"b{suffix}", tone(), 16000, large)) == large
