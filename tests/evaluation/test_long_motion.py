"""Long clips under the check of motion."""

import pytest
import torch

import studio
from studio.env import emoji_font
from studio.evaluation.features import ImageTextFeatures
from studio.evaluation.long_motion import evaluate_long_motion, memory_growth, resident_mib
from tests import toys


@pytest.mark.skipif(not emoji_font(), reason="Noto Color Emoji is not installed")
def test_first_middle_and_last_parts(bundled):
    bundled("emoji-features")
    torch.manual_seed(0)
    words = studio.CaptionTokenizer.train(["red apple moving left"] * 9, 300, max_length=40)
    pipe, done = toys.video_pipeline(words), []
    report = evaluate_long_motion(
        pipe,
        features=ImageTextFeatures.bundled(),
        count=1,
        num_frames=26,
        num_layers=3,
        progress=lambda *numbers: done.append(numbers),
    )
    assert report["parts"] == 4 and done[-1] == (4, 4) and len(report["memory_mib"]) == 4
    for part in ("first", "middle", "last"):
        assert set(report[part]) == {"direction", "top1", "top5", "background"}
    assert report["memory_growth_mib"] == memory_growth(report["memory_mib"])
    assert report["frames_per_second"] > 0 and resident_mib() > 50


def test_growth_is_that_of_the_last_third():
    assert memory_growth([5.0]) == 0
    assert memory_growth([100.0, 300.0, 800.0, 900.0, 1000.0, 900.0, 901.0, 950.0, 902.0]) == 2
