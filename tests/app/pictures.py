"""Pictures, sounds and clips as uploads."""

import io

import numpy as np
from PIL import Image


def png(seed=0, size=(32, 24)):
    """A picture of coloured noise as a PNG file's bytes."""
    values = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def wav(seconds=1.0, rate=16000):
    """A gliding tone that comes and goes, as a WAV file's bytes."""
    from studio.media.wav import wav_bytes

    time = np.arange(int(seconds * rate)) / rate
    wave = np.sin(2 * np.pi * (120 + 200 * time) * time) * np.sin(9 * time) ** 2
    return wav_bytes((wave * 20000).astype(np.int16)[:, None], rate)


def gif(frames=8, side=16):
    """A square that moves, as a GIF file's bytes."""
    pictures = []
    for place in range(frames):
        values = np.full((side, side, 3), 40, np.uint8)
        values[4:9, place : place + 5] = (230, 80, 30)
        pictures.append(Image.fromarray(values))
    file = io.BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=125)
    return file.getvalue()
