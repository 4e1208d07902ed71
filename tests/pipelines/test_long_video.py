"""Long clips: part after part, at a memory that does not grow, under a plan or not."""

import tracemalloc

import numpy as np
import pytest
import torch

from studio.pipelines.video_parts import VideoOutput, VideoPreview, blended
from tests import toys


@pytest.fixture(scope="module")
def video(words):
    torch.manual_seed(0)
    pipe = toys.video_pipeline(words)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_frames_come_part_by_part(video, seeded):
    whole = video("rocket", num_frames=21, generator=seeded(3), output_type="np")
    options = {"num_frames": 21, "generator": seeded(3), "output_type": "np"}
    parts = list(video.stream_blocks("rocket", **options))
    assert all(isinstance(part, VideoOutput) for part in parts)
    assert [part.frames.shape[1] for part in parts] == [6, 6, 6, 3]
    assert np.array_equal(np.concatenate([p.frames for p in parts], 1), whole.frames)
    assert torch.equal(torch.cat([p.tokens for p in parts], 1), whole.tokens)
    assert sum(p.stats.passes for p in parts) == whole.stats.passes
    alone = video("rocket", generator=seeded(3), output_type="np")
    assert np.array_equal(parts[0].frames, alone.frames[:, :6])  # what follows is blended
    assert torch.equal(parts[0].tokens, alone.tokens)
    both = video(["red apple", "rocket"], num_frames=21, generator=seeded(8, 3), output_type="np")
    assert torch.equal(both.tokens[1], whole.tokens[0])


def test_parts_remember_those_before(video, seeded, monkeypatch):
    def tokens():
        return video("rocket", num_frames=20, generator=seeded(3), output_type="tokens").tokens

    with_memory = tokens()
    monkeypatch.setattr(type(video), "_new_memory", lambda self, job: None)
    without = tokens()
    total = video.tokenizer.layout.num_tokens
    assert torch.equal(with_memory[:, :total], without[:, :total])
    assert not torch.equal(with_memory[:, total:], without[:, total:])


def test_a_plan_changes_the_order_and_nothing_else(video, seeded):
    options = {"num_frames": 20, "output_type": "np"}
    wanted = video("rocket", generator=seeded(5), **options)
    items = list(
        video.stream("rocket", generator=seeded(5), plan=True, preview_interval=1000, **options)
    )
    *previews, last = items
    assert torch.equal(last.tokens, wanted.tokens) and np.array_equal(last.frames, wanted.frames)
    assert all(isinstance(p, VideoPreview) for p in previews)
    assert [(p.layers, p.part) for p in previews][:3] == [(1, 0), (1, 1), (1, 2)]
    coarse = video("rocket", generator=seeded(5), num_layers=1, plan=True, **options)
    assert coarse.frames.shape == (1, 20, 16, 16, 3)
    stream = video.stream_blocks("rocket", plan=True, preview_interval=1000, **options)
    next(stream)
    video._interrupt = True
    assert [type(item) for item in stream] == [VideoOutput]


def test_memory_does_not_grow_with_the_frames(video, seeded):
    """64 frames and four times as many peak alike; so do the cache and what parts remember."""
    peaks = []
    for frames in (64, 256):
        stream = video.stream_blocks(
            "rocket",
            num_frames=frames,
            num_layers=1,
            decoding="plain",
            generator=seeded(1),
            output_type="pt",
        )
        count = next(stream).frames.shape[1]
        tracemalloc.start()
        held = 0
        for part in stream:
            count += part.frames.shape[1]
            storage = [t for t in (part.frames, part.tokens) if t is not None]
            held = max(held, sum(t.untyped_storage().nbytes() for t in storage))
        peaks.append((tracemalloc.get_traced_memory()[1], held))
        tracemalloc.stop()
        assert count == frames
    assert peaks[1][0] < 1.2 * peaks[0][0] + 50_000 and peaks[1][1] == peaks[0][1]


def test_frames_that_two_parts_show_are_blended():
    first, second = torch.zeros(1, 3, 3, 1, 1), torch.ones(1, 3, 3, 1, 1)
    assert blended(first, second)[0, :, 0, 0, 0].tolist() == [0.25, 0.5, 0.75]
