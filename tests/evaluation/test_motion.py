"""The check of motion: real clips pass it, others do not."""

import pytest
import torch

import studio
from studio.data.motion import DIRECTIONS, Clip, draw_clip
from studio.env import emoji_font
from studio.evaluation.features import ImageTextFeatures
from studio.evaluation.motion import (
    crop_object,
    direction,
    direction_clips,
    evaluate_motion,
    find_objects,
    layer_quality,
    object_masks,
    score_clips,
    track,
)
from tests import toys

pytestmark = pytest.mark.skipif(not emoji_font(), reason="Noto Color Emoji is not installed")


@pytest.fixture
def features(bundled):
    bundled("emoji-features")
    return ImageTextFeatures.bundled()


def made(motion, background=("white",), name="red apple", frames=6):
    return draw_clip(Clip((name,), motion, background=background), 48, frames)


@pytest.mark.parametrize("ground", [("white",), ("red",), ("blue", "yellow")])
@pytest.mark.parametrize("word", DIRECTIONS)
def test_directions_are_found_and_nothing_else(word, ground):
    assert direction(made(f"moving {word}", ground)) == word


def test_what_does_not_move_has_no_direction():
    for motion in ("standing still", "turning", "growing", "circling"):
        assert direction(made(motion, ("blue",))) == ""
    empty = torch.ones(3, 6, 48, 48)
    assert direction(empty) == "" and bool(track(empty).isnan().all())
    assert not object_masks(empty).any()
    assert crop_object(empty).shape == (4, 3, 64, 64)
    # noise of a tokenizer is no object
    noise = 0.02 * torch.randn(3, 6, 48, 48, generator=torch.Generator().manual_seed(0))
    assert direction((made("moving left") + noise).clamp(-1, 1)) == "left"


def test_objects_of_real_clips_are_found(features):
    data = direction_clips()
    clips = list(data.batch(0, 6)[0])
    names = [data.clip(i).names[0] for i in range(6)]
    found = find_objects(clips, features)
    assert [features.names[row[0]] for row in found.tolist()] == names
    scores = score_clips(clips, data, features)
    assert scores == {"direction": 1.0, "top1": 1.0, "top5": 1.0, "background": 1.0}
    wrong = score_clips([clip.flip(1) for clip in clips], data, features)
    assert wrong["direction"] == 0 and wrong["top5"] == 1.0
    other = score_clips(clips[::-1], data, features)
    assert other["top1"] == 0


def test_a_pipeline_and_a_tokenizer_are_measured(features):
    torch.manual_seed(0)
    words = studio.CaptionTokenizer.train(["red apple moving left"] * 9, 300, max_length=40)
    pipe = toys.video_pipeline(words)
    report = evaluate_motion(pipe, features=features, count=3, batch_size=2, temperature=0.5)
    assert set(report) == {"note", "count", "generated", "coded", "real"}
    assert report["real"]["direction"] == 1.0 and report["count"] == 3
    lines = layer_quality(pipe.tokenizer, count=3, batch_size=2, features=features)
    assert [line["tokens"] for line in lines] == [4, 20, 28]
    assert all(
        {"psnr", "ssim", "bits_per_pixel", "direction", "top5"} <= set(line) for line in lines
    )
