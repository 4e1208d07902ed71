"""The bundled clips: what a caption says is seen, in fewer passes and the same tokens."""

import pytest
import torch

from studio.evaluation.motion import direction, layer_quality
from studio.pipelines.auto import Pipeline

WORDS = ("red apple moving left", "rocket moving up", "pizza moving down on teal")


@pytest.fixture(scope="module")
def pipe(bundled):
    made = Pipeline.from_pretrained(str(bundled("emoji-motion")))
    made.set_progress_bar_config(disable=True)
    return made


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_the_object_goes_where_the_caption_says(pipe):
    made = pipe(list(WORDS), generator=seeded(1, 2, 3), output_type="pt").frames
    assert [direction(clip * 2 - 1) for clip in made.transpose(1, 2)] == ["left", "up", "down"]


def test_frames_are_pictures(pipe):
    frames = pipe("red apple moving left", generator=seeded(7)).frames[0]
    assert len(frames) == 16 and {frame.size for frame in frames} == {(64, 64)}


def test_half_the_passes_make_the_same_tokens(pipe):
    plain = pipe(WORDS[0], generator=seeded(7), decoding="plain")
    fast = pipe(WORDS[0], generator=seeded(7), decoding="seed")
    assert torch.equal(plain.tokens, fast.tokens)
    assert plain.stats.passes == 512 and fast.stats.passes <= plain.stats.passes / 2


def test_every_layer_sharpens(pipe, emoji_font):
    lines = layer_quality(pipe.tokenizer, count=8)
    psnrs = [line["psnr"] for line in lines]
    assert [line["tokens"] for line in lines] == [128, 384, 512]
    assert psnrs == sorted(psnrs) and psnrs[0] >= 19 and psnrs[-1] >= 23
