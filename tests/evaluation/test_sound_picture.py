import numpy as np
import pytest
import torch

from studio.evaluation.sound_picture import BANDS, WAVE, WIDTH, sound_picture


@pytest.mark.parametrize("length", [1, 100, 40000])
def test_pictures_of_any_length(length):
    picture = sound_picture(0.5 * torch.ones(1, length), 16000)
    assert picture.size == (WIDTH, WAVE + BANDS)


def test_a_tone_is_a_line_at_its_height():
    tone = 0.9 * torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)[None]
    pixels = np.asarray(sound_picture(tone, 16000)).astype(int)
    wave, bands = pixels[:WAVE], pixels[WAVE:].sum(-1)
    assert (wave[2, 100] != wave[0, 100]).any() and (wave[WAVE // 2, 100] == (76, 120, 168)).all()
    rows = bands[:, 50:-50].mean(1)
    assert rows.argmax() > BANDS // 2 and rows.max() > 3 * rows[: BANDS // 2].mean()
