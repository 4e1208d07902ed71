"""Long clips: part after part, at a memory that does not grow, under a plan or not."""

import gc

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


def held_now():
    """The bytes of all tensors together, and how many objects there are."""
    gc.collect()
    objects = gc.get_objects()
    storages = [item.untyped_storage() for item in objects if type(item) is torch.Tensor]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values()), len(objects)


def test_memory_does_not_grow_with_the_frames(video, seeded):
    """After 66 frames and after 252 tensors hold the same, and there is no more of anything.

    Other threads and first imports make objects too, but not in every attempt; a leak does.
    """
    more = []
    while len(more) < 3 and (not more or more[-1] >= 100):
        options = {"num_layers": 1, "decoding": "plain", "output_type": "pt"}
        stream = video.stream_blocks("rocket", num_frames=257, generator=seeded(1), **options)
        frames, held = 0, []
        for part in stream:
            frames += part.frames.shape[1]
            if frames in (66, 252):
                del part
                held.append(held_now())
        assert frames == 257
        assert held[0][0] == held[1][0] > 0
        more.append(held[1][1] - held[0][1])
    assert more[-1] < 100, more


def test_frames_that_two_parts_show_are_blended():
    first, second = torch.zeros(1, 3, 3, 1, 1), torch.ones(1, 3, 3, 1, 1)
    assert blended(first, second)[0, :, 0, 0, 0].tolist() == [0.25, 0.5, 0.75]
