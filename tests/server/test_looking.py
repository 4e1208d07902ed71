"""Waves, spectrograms and single frames of results."""

import io

import pytest
import torch
from PIL import Image

from studio.server import looking


def test_a_sound_closely(tmp_path):
    from studio.media.audio import write_audio

    path = tmp_path / "x.wav"
    write_audio(path, torch.sin(torch.arange(8000) / 9)[None], 16000)
    shown = looking.wave_and_spectrogram(path)
    assert Image.open(io.BytesIO(shown.data)).size == (576, 240) and "spectrogram" in shown.alt
    path.write_bytes(b"RIFF")
    with pytest.raises(ValueError) as caught:
        looking.wave_and_spectrogram(path)
    assert str(tmp_path) not in str(caught.value)


def test_frames_of_a_clip(tmp_path):
    pytest.importorskip("av")
    from studio.media.video_writer import write_frames

    path = tmp_path / "x.mp4"
    frames = [Image.new("RGB", (16, 16), (80 * i, 0, 0)) for i in range(3)]
    write_frames(path, frames, fps=8.0, request=None)
    assert looking.frame_count(path) == 3
    last = Image.open(io.BytesIO(looking.frame(path, 2).data))
    assert last.size == (320, 320) and last.getpixel((0, 0))[0] > 120
