"""Clips of moving emoji: deterministic, split without leaks, moving as their captions say."""

import numpy as np
import pytest
import torch

from studio.data.datasets import make_dataset
from studio.data.emoji import heldout
from studio.data.motion import (
    DIRECTIONS,
    HELDOUT_MOTIONS,
    MOTIONS,
    PASSING,
    TEXTURES,
    Clip,
    MotionClips,
    draw_clip,
    is_heldout_pair,
)
from studio.env import emoji_font

pytestmark = pytest.mark.skipif(not emoji_font(), reason="Noto Color Emoji is not installed")


def centroids(video):
    """Where the object, what differs from a corner, is in each frame: (T, 2) of x and y."""
    apart = (video - video[:, :, :1, :1]).abs().sum(0)  # (T, H, W)
    weight = apart.flatten(1).sum(1)
    x = (apart.sum(1) * torch.arange(video.shape[-1])).sum(1) / weight
    y = (apart.sum(2) * torch.arange(video.shape[-2])).sum(1) / weight
    return torch.stack((x, y), 1)


def test_an_item_depends_on_its_index_alone():
    clips = MotionClips(split="train", seed=1)
    video, caption = clips[7]
    again, words = MotionClips(split="train", seed=1)[7]
    assert torch.equal(video, again) and caption == words == clips.caption(7)
    assert video.shape == (3, 16, 64, 64) and video.dtype == torch.float32
    assert video.min() >= -1 and video.max() <= 1
    batch, captions = clips.batch(6, 2)
    assert torch.equal(batch[1], video) and captions[1] == caption
    assert MotionClips(split="train", seed=2).caption(7) != caption
    assert make_dataset({"kind": "motion", "size": 32, "num_frames": 4})[0][0].shape[1:] == (
        4,
        32,
        32,
    )


def test_splits_do_not_leak():
    kept = set(heldout()["pictures"])
    for split in ("train", "heldout", "motions", "pairs"):
        for clip in map(MotionClips(split=split).clip, range(150)):
            assert all((name in kept) == (split == "heldout") for name in clip.names)
            assert (clip.motion in HELDOUT_MOTIONS) == (split == "motions")
            if split in ("train", "pairs"):
                pair = is_heldout_pair(clip.names[0], clip.motion)
                assert pair == (split == "pairs") or clip.motion == PASSING
    names, motions = MotionClips().names(), (*MOTIONS, *HELDOUT_MOTIONS)
    share = np.mean([is_heldout_pair(n, m) for n in names for m in motions])
    assert 0.03 < share < 0.1


def test_captions_are_for_generators():
    """All objects, no held-out pair; without jitter a caption says everything; motions weigh."""
    clips = MotionClips(split="captions", jitter=0.0, pairs=0.0, motions=["growing", "growing"])
    assert clips.motions == ("growing", "growing") and hash(clips)
    made = [clips.clip(i) for i in range(60)]
    assert {c.motion for c in made} == {"growing"} and {c.scale for c in made} == {0.72}
    assert {c.middle for c in made} == {(0.5, 0.5)}
    kept = set(heldout()["pictures"])
    clips = [MotionClips(split="captions", pairs=0.0).clip(i) for i in range(300)]
    assert any(c.names[0] in kept for c in clips)
    assert not any(is_heldout_pair(c.names[0], c.motion) for c in clips)


def test_every_kind_of_clip_comes_up():
    clips = [MotionClips(split="train").clip(i) for i in range(400)]
    assert {clip.motion for clip in clips} == {*MOTIONS, PASSING}
    assert {clip.texture for clip in clips} == {*TEXTURES, None}
    assert any(clip.tint for clip in clips) and any(len(c.background) == 2 for c in clips)


@pytest.mark.parametrize("word", DIRECTIONS)
def test_objects_move_as_the_caption_says(word):
    clip = Clip(("red apple",), f"moving {word}", background=("white",))
    assert clip.caption == f"red apple moving {word}"
    path = centroids(draw_clip(clip, 48, 5))
    step = path.diff(dim=0)
    across, along = (1, 0) if DIRECTIONS[word][0] else (0, 1)
    assert (step[:, along] * sum(DIRECTIONS[word]) > 2).all()
    assert step[:, across].abs().max() < 0.5


def test_other_motions():
    def made(motion, names=("red apple",), frames=5):
        return draw_clip(Clip(names, motion, background=("blue",)), 48, frames)

    size = [
        (made(m) - made(m)[:, :, :1, :1]).abs().sum((0, 2, 3)) for m in ("growing", "shrinking")
    ]
    assert size[0][-1] > 3 * size[0][0] and size[1][0] > 3 * size[1][-1]
    still, turning = made("standing still"), made("turning")
    torch.testing.assert_close(still[:, 0], still[:, -1])
    torch.testing.assert_close(turning[:, 0], still[:, 0])
    assert (turning[:, 0] - turning[:, 2]).abs().mean() > 0.01
    bounce = centroids(made("bouncing", frames=9))[:, 1]
    assert bounce[0] > bounce[2] + 5 and bounce[4] > bounce[2] + 5 and bounce[4] > bounce[6] + 5
    ring = centroids(made("circling", frames=5))
    torch.testing.assert_close(ring[0], ring[4], atol=0.2, rtol=0)
    assert made("passing", ("red apple", "dog")).shape == (3, 5, 48, 48)
    assert made("turning", frames=1).shape == (3, 1, 48, 48)


def test_captions():
    clip = Clip(("dog", "cat"), PASSING, "red", ("blue", "teal"), "stripes")
    assert clip.caption == "red dog passing cat on blue and teal stripes"
    assert (
        Clip(("dog",), "growing", None, ("blue", "teal")).caption == "dog growing on blue to teal"
    )


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="split 'test' must be one of train, heldout, motions"):
        MotionClips(split="test")
    with pytest.raises(ValueError, match="motion 'flying' must be one of moving left"):
        MotionClips(motions=("flying",))
    with pytest.raises(ValueError, match="num_frames 0 must be at least 1"):
        MotionClips(num_frames=0)
