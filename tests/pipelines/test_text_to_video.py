"""From prompts to clips: layers, previews, a given first frame, long clips in parts, saving."""

import numpy as np
import pytest
import torch
from PIL import Image

import studio
from studio.pipelines.text_to_video import VideoOutput, VideoPreview
from tests import toys


@pytest.fixture(scope="module")
def video(words):
    torch.manual_seed(0)
    pipe = toys.video_pipeline(words)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_prompts_become_clips(video, seeded):
    out = video(["red apple", "rocket"], num_videos_per_prompt=2, generator=seeded(1, 2, 3, 4))
    assert [len(clip) for clip in out.frames] == [8] * 4
    assert {frame.size for clip in out.frames for frame in clip} == {(16, 16)}
    total = video.tokenizer.layout.num_tokens
    assert out.tokens.shape == (4, total) and out.stats.tokens == total and out.fps == 8
    alone = video("rocket", generator=seeded(4), output_type="pt")
    assert torch.equal(alone.tokens[0], out.tokens[3])
    assert alone.frames.shape == (1, 8, 3, 16, 16)
    pixels = np.asarray(out.frames[3][5]).transpose(2, 0, 1) / 255
    assert np.abs(alone.frames[0, 5].numpy() - pixels).max() < 1 / 255
    arrays = video("rocket", generator=seeded(4), output_type="np").frames
    assert arrays.shape == (1, 8, 16, 16, 3)


def test_coarse_layers_first(video, seeded):
    """Previews are whole clips from the layers that are there, and cost the result nothing."""
    items = list(video.stream("rocket", generator=seeded(1), preview_interval=1000))
    *previews, last = items
    assert isinstance(last, VideoOutput)
    assert all(isinstance(p, VideoPreview) for p in previews)
    assert sorted({p.layers for p in previews}) == [1, 2, 3]
    assert all(len(p.frames[0]) == 8 for p in previews)
    plain = video("rocket", generator=seeded(1))
    assert torch.equal(plain.tokens, last.tokens)
    coarse = video("rocket", generator=seeded(1), num_layers=1)
    assert torch.equal(coarse.tokens, plain.tokens[:, :4])
    first = next(p for p in previews if p.layers == 1)
    assert np.array_equal(np.asarray(first.frames[0][3]), np.asarray(coarse.frames[0][3]))
    early = next(video.stream("rocket", preview_interval=1, decoding="plain"))
    assert early.layers == 0 and early.frames is None


def test_a_given_first_frame(video, seeded):
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(values)
    out = video("rocket", image=picture, generator=seeded(1))
    still = studio.media.image.to_tensor(picture)[None, :, None].expand(-1, -1, 8, -1, -1)
    encoded = video.tokenizer.encode(still).tokens
    parts = video.tokenizer.layout.split(out.tokens)
    wanted = video.tokenizer.layout.split(encoded)
    assert torch.equal(parts["fine"][:, 0], wanted["fine"][:, 0])
    assert not torch.equal(parts["fine"][:, 1:], wanted["fine"][:, 1:])
    assert not torch.equal(parts["coarse"], wanted["coarse"])  # stands for four frames, not two


def test_long_clips_come_in_parts(video, seeded):
    assert [video.num_parts(n) for n in (1, 8, 9, 14, 15)] == [1, 1, 2, 2, 3]
    out = video(["rocket", "red apple"], num_frames=17, generator=seeded(1, 2))
    assert [len(clip) for clip in out.frames] == [17, 17]
    total = video.tokenizer.layout.num_tokens
    assert out.tokens.shape == (2, 3 * total)
    first, second, _ = (video.tokenizer.layout.split(t) for t in out.tokens.split(total, 1))
    assert torch.equal(first["fine"][:, -1], second["fine"][:, 0])
    short = video("rocket", num_frames=5, generator=seeded(1))
    assert len(short.frames[0]) == 5 and torch.equal(short.tokens[0], out.tokens[0, :total])
    array = video("rocket", num_frames=17, generator=seeded(1), output_type="np").frames
    assert array.shape == (1, 17, 16, 16, 3)
    assert np.array_equal((array[0, 11] * 255).round(), np.asarray(out.frames[0][11]))


def test_a_masked_generator_fills_layer_by_layer(video, words, seeded):
    """With three-dimensional rotary positions; previews are sharper from layer to layer."""
    torch.manual_seed(0)
    network = toys.text_generator("masked", video.tokenizer, words, rope="3d")
    pipe = studio.TextToVideoPipeline(
        video.tokenizer, network, words, studio.Masked(num_steps=6, layer_by_layer=True)
    )
    pipe.set_progress_bar_config(disable=True)
    *previews, last = pipe.stream("rocket", generator=seeded(1), preview_interval=2)
    assert [(p.step, p.layers) for p in previews] == [(2, 1), (4, 2), (6, 3)]
    coarse = pipe("rocket", generator=seeded(1), num_layers=1)
    assert torch.equal(coarse.tokens, last.tokens[:, :4]) and coarse.stats.passes == 2
    long = pipe("rocket", num_frames=17, generator=seeded(1), output_type="np")
    assert long.frames.shape == (1, 17, 16, 16, 3)
    layout = studio.TokenLayout((studio.TokenSegment("a", (2, 2), 12),)).to_dict()
    with pytest.raises(ValueError, match="rope '3d' needs grids of"):
        studio.MaskedTransformer(layout=layout, dim=16, num_layers=1, num_heads=2, rope="3d")


def test_bad_calls(video):
    for options, words in (
        ({"num_frames": 0}, "num_frames 0 must be a whole number from 1"),
        ({"num_layers": 4}, "num_layers 4 must be a whole number from 1 to 3"),
        ({"num_tokens": 5}, "num_tokens 5 must be whole layers"),
        ({"num_layers": 1, "num_tokens": 4}, "exclude each other"),
        ({"image": "x.png"}, "image must be a PIL image or a tensor"),
        ({"output_type": "gif"}, "output_type 'gif' must be one of"),
    ):
        with pytest.raises(ValueError, match=words):
            video("rocket", **options)


def test_saved_and_asked_by_request(video, seeded, tmp_path):
    video.save_pretrained(tmp_path / "toy")
    loaded = studio.Pipeline.from_pretrained(tmp_path / "toy")
    loaded.set_progress_bar_config(disable=True)
    request = studio.Request(model="toy", prompt="rocket", seed=5, count=2, num_frames=10)
    out = loaded(**request.arguments(loaded))
    alone = video("rocket", num_frames=10, generator=seeded(6))
    assert [len(clip) for clip in out.frames] == [10, 10]
    assert torch.equal(out.tokens[1:], alone.tokens)
    assert studio.Request.from_json(request.to_json()) == request
    with pytest.raises(ValueError, match="strength 0.5 is no option of model 'toy'"):
        studio.Request(model="toy", prompt="rocket", strength=0.5).arguments(loaded)
