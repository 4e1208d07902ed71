"""From prompts to pictures, whole: determinism, batches, callbacks, cancelling, edits."""

import numpy as np
import pytest
import torch
from PIL import Image

import studio

SIZE = 16


def same(a, b):
    return [np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True)]


def one_a_step(pipe):
    """Options that make a step of an ordered generator a single token."""
    return {"decoding": "plain"} if pipe.decoding.kind == "ordered" else {}


def picture(seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((SIZE, SIZE))


def test_prompts_become_pictures(pipe, seeded):
    out = pipe(["red apple", "rocket"], num_images_per_prompt=2, generator=seeded(1, 2, 3, 4))
    assert [p.size for p in out.images] == [(SIZE, SIZE)] * 4
    n = pipe.tokenizer.layout.num_tokens
    assert out.tokens.shape == (4, n) and out.tokens.dtype == torch.int64
    assert out.stats.tokens == n and 4 * n >= out.stats.accepted > 0
    assert out.stats.proposed >= out.stats.accepted and 0 < out.stats.passes <= out.stats.steps <= n
    assert not torch.equal(out.tokens[0], out.tokens[1])


def test_same_seed_same_bytes(pipe, seeded):
    first, second = (pipe("red apple", generator=seeded(7)) for _ in range(2))
    assert same(first.images, second.images) == [True]
    other = pipe("red apple", generator=seeded(8))
    assert not torch.equal(first.tokens, other.tokens)


def test_alone_equals_in_a_batch(pipe, seeded):
    """The same sample alone, among other seeds, and among other prompts, to the bit."""
    three = pipe("red apple", num_images_per_prompt=3, generator=seeded(5, 6, 7), output_type="pt")
    mixed = pipe(["blue apple on yellow", "red apple"], generator=seeded(1, 6), output_type="pt")
    alone = pipe("red apple", generator=seeded(6), output_type="pt")
    assert torch.equal(alone.tokens[0], three.tokens[1])
    assert torch.equal(alone.images[0], three.images[1])
    assert torch.equal(alone.images[0], mixed.images[1])


def test_one_generator_for_all_samples(pipe, seeded):
    (one,) = seeded(3)
    three = pipe("rocket", num_images_per_prompt=3, generator=one)
    (again,) = seeded(3)
    assert torch.equal(pipe("rocket", generator=again).tokens[0], three.tokens[0])
    assert not torch.equal(three.tokens[0], three.tokens[1])


def test_global_random_state_is_left_alone(pipe, seeded):
    before = torch.get_rng_state()
    pipe("rocket", generator=seeded(1))
    pipe("rocket")
    assert torch.equal(before, torch.get_rng_state())


def test_temperature_zero_needs_no_seed(pipe):
    greedy = {"temperature": 0.0}
    if pipe.decoding.kind == "unordered":
        greedy["decoding"] = studio.Masked.from_config(pipe.decoding.config, confidence_noise=0.0)
    assert torch.equal(pipe("rocket", **greedy).tokens, pipe("rocket", **greedy).tokens)
    assert pipe.decoding.config.temperature == 1.0


def test_overrides_hold_for_one_call(pipes, seeded):
    pipe = pipes["grid", "masked"]
    assert pipe("rocket", generator=seeded(1), num_inference_steps=2).stats.steps == 2
    assert pipe("rocket", generator=seeded(1)).stats.steps == 4
    plain = pipe("rocket", generator=seeded(1), guidance_scale=40.0)
    assert not torch.equal(plain.tokens, pipe("rocket", generator=seeded(1)).tokens)


def test_output_types(pipe, seeded):
    pil, np_, pt, tokens = (
        pipe("rocket", generator=seeded(1), output_type=kind)
        for kind in ("pil", "np", "pt", "tokens")
    )
    assert np_.images.shape == (1, SIZE, SIZE, 3) and pt.images.shape == (1, 3, SIZE, SIZE)
    assert np_.images.min() >= 0 and np_.images.max() <= 1
    assert np.array_equal(np_.images[0], pt.images[0].permute(1, 2, 0).numpy())
    assert np.array_equal(np.asarray(pil.images[0]), (np_.images[0] * 255).round().astype(np.uint8))
    assert tokens.images is None and torch.equal(tokens.tokens, pil.tokens)
    images, ids, _ = pipe("rocket", generator=seeded(1), return_dict=False)
    assert same(images, pil.images) == [True] and torch.equal(ids, pil.tokens)
    (ids, _) = pipe("rocket", generator=seeded(1), output_type="tokens", return_dict=False)
    assert torch.equal(ids, pil.tokens)


def test_num_tokens_is_the_prefix(pipes, seeded):
    pipe = pipes["prefix", "autoregressive"]
    whole = pipe("rocket", generator=seeded(2))
    part = pipe("rocket", generator=seeded(2), num_tokens=3, output_type="pt")
    assert part.stats.passes <= 3 and part.stats.tokens == part.stats.steps == 3
    assert torch.equal(part.tokens, whole.tokens[:, :3])
    want = pipe.tokenizer.decode(whole.tokens, num_tokens=3).clamp(-1, 1) / 2 + 0.5
    assert torch.equal(part.images, want)
    masked = pipes["prefix", "masked"]("rocket", generator=seeded(2), num_tokens=3)
    assert masked.tokens.shape == (1, 3)


def test_callback_sees_every_step(pipe, seeded):
    seen = []

    def look(self, step, timestep, tensors):
        assert self is pipe and step == timestep
        seen.append((step, int(tensors["known"].sum()), tensors["tokens"].shape))
        return tensors

    names = ["tokens", "known"]
    out = pipe(
        "rocket",
        generator=seeded(1),
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=names,
        **one_a_step(pipe),
    )
    n = pipe.tokenizer.layout.num_tokens
    assert [s[0] for s in seen] == list(range(out.stats.steps))
    assert seen[-1][1] == n and seen[0][2] == (1, n)


def test_interrupt_ends_after_the_step(pipe, seeded):
    def stop(self, step, timestep, tensors):
        self._interrupt = step == 1

    out = pipe("rocket", generator=seeded(1), callback_on_step_end=stop, **one_a_step(pipe))
    assert out.stats.steps == 2 and len(out.images) == 1
    assert pipe("rocket", generator=seeded(1)).stats.steps > 2


def test_stream_previews_and_ends_with_the_same_picture(pipe, seeded):
    options = {"generator": seeded(1), **one_a_step(pipe)}
    *previews, out = pipe.stream("rocket", preview_interval=2, **options)
    assert [p.step for p in previews] == list(range(2, out.stats.steps + 1, 2))
    for preview in previews:
        assert preview.images[0].size == (SIZE, SIZE)
        assert (preview.tokens == out.tokens)[preview.known].all()
    assert previews[0].known.sum() < previews[-1].known.sum()
    assert same(out.images, pipe("rocket", generator=seeded(1)).images) == [True]
    (only,) = pipe.stream("rocket", generator=seeded(1), preview_interval=0)
    assert torch.equal(only.tokens, out.tokens)


def test_stream_is_checked_at_once_and_cancelled_by_closing(pipe, seeded):
    with pytest.raises(ValueError, match="prompt of 0 characters"):
        pipe.stream(" ")
    calls = []
    stream = pipe.stream(
        "rocket", preview_interval=1, callback_on_step_end=lambda *args: calls.append(args[1])
    )
    next(stream)
    stream.close()
    assert len(calls) == 1
    assert torch.is_grad_enabled()


def test_a_prefix_preview_is_the_prefix_decoded(pipes, seeded):
    pipe = pipes["prefix", "autoregressive"]
    first, *_ = pipe.stream("rocket", generator=seeded(1), preview_interval=3, output_type="pt")
    assert first.step >= 3
    want = pipe.tokenizer.decode(first.tokens, num_tokens=first.step).clamp(-1, 1) / 2 + 0.5
    assert torch.equal(first.images, want)


def test_inpainting_keeps_the_tokens_outside_of_the_mask(pipes, seeded):
    pipe = pipes["grid", "masked"]
    given = pipe.tokenizer.encode(studio_tensor(picture())).tokens
    mask = Image.new("L", (SIZE, SIZE), 0)
    mask.paste(255, (0, 0, 8, 8))  # the upper left quarter: 2 x 2 of 4 x 4 cells
    options = {"image": picture(), "mask_image": mask, "num_images_per_prompt": 3}
    out = pipe("rocket", generator=seeded(1, 2, 3), **options)
    inside = torch.zeros(4, 4, dtype=torch.bool)
    inside[:2, :2] = True
    kept = ~inside.flatten()
    assert torch.equal(out.tokens[:, kept], given[:, kept].expand(3, -1))
    assert (out.tokens[:, ~kept] != given[:, ~kept]).any()
    alone = pipe("rocket", generator=seeded(2), image=picture(), mask_image=mask)
    assert torch.equal(alone.tokens[0], out.tokens[1])
    assert same(alone.images, out.images[1:2]) == [True]


def studio_tensor(image):
    values = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()
    return values[None] / 127.5 - 1


def test_variation_of_a_grid_keeps_some_tokens_at_random(pipes, seeded):
    pipe = pipes["grid", "masked"]
    given = pipe.tokenizer.encode(studio_tensor(picture())).tokens
    job = pipe.prepare("rocket", image=picture(), strength=0.25, generator=seeded(1))
    assert int(job.keep.sum()) == 12
    assert torch.equal(job.given, given)
    out = pipe("rocket", image=picture(), strength=0.25, generator=seeded(1))
    assert torch.equal(out.tokens[job.keep], given[job.keep])


@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_variation_of_a_prefix_keeps_the_first_tokens(pipes, seeded, kind):
    pipe = pipes["prefix", kind]
    given = pipe.tokenizer.encode(studio_tensor(picture())).tokens
    out = pipe("rocket", image=[picture()] * 2, num_images_per_prompt=2, strength=0.5)
    assert torch.equal(out.tokens[:, :4], given[:, :4].expand(2, -1))
    whole = pipe("rocket", image=studio_tensor(picture()), strength=1, generator=seeded(4))
    other = pipe("rocket", image=picture(1), strength=1.0, generator=seeded(4))
    assert torch.equal(whole.tokens, other.tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ""}, "prompt of 0 characters must have 1 to 1000"),
        ({"prompt": "  \n "}, "prompt of 0 characters"),
        ({"prompt": "x" * 10_000}, "prompt of 10000 characters"),
        ({"prompt": ["ok", ""]}, "prompt of 0 characters"),
        ({"prompt": []}, "prompt must be text or a list"),
        ({"prompt": 5}, "prompt must be text or a list"),
        ({"prompt": "a\x00b"}, "prompt holds a character that is no text"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt 0 must be a whole number from 1 to"),
        ({"num_images_per_prompt": 10**6}, "num_images_per_prompt 1000000"),
        ({"output_type": "latent"}, "output_type 'latent' must be one of pil, np, pt, tokens"),
        (
            {"generator": [torch.Generator()] * 2},
            "generator must be one torch.Generator or a list of 1",
        ),
        ({"generator": 5}, "generator must be one torch.Generator"),
        ({"temperature": -1.0}, "temperature -1.0 must be a number >= 0"),
        ({"guidance_scale": float("inf")}, "guidance_scale inf"),
        ({"top_p": 2.0}, "top_p 2.0"),
        ({"num_tokens": 3}, "num_tokens 3: GridTokenizer decodes all 16 tokens only"),
        ({"num_tokens": 0}, "num_tokens 0 must be a whole number from 1 to 16"),
        ({"decoding": "fast"}, "decoding 'fast' must be one of plain, seed, "),
        ({"decoding": 5}, "decoding must be a DecodingStrategy, but is a int"),
        (
            {"decoding": studio.Autoregressive()},
            "is for ordered generators, but MaskedTransformer is",
        ),
        (
            {"callback_on_step_end_tensor_inputs": ["latents"]},
            "'latents' must be one of tokens, known",
        ),
        ({"strength": 0.5}, "mask_image and strength need an image"),
        ({"image": picture(), "strength": 0}, "strength 0 must be a number above 0 and at most 1"),
        ({"image": picture(), "strength": "x"}, "strength 'x'"),
        ({"image": "a.png"}, "image must be a PIL image or a tensor, not str"),
        ({"image": torch.zeros(3, 8, 8)}, r"image of shape \(1, 3, 8, 8\) must be"),
        ({"image": torch.full((3, 16, 16), 255.0)}, "finite values from -1 to 1"),
        ({"image": [picture()] * 2}, "image: 2 pictures for 1 samples"),
        ({"image": picture(), "mask_image": Image.new("L", (16, 16))}, "has no white pixel"),
        (
            {"image": picture(), "mask_image": picture(), "strength": 0.5},
            "can't go with mask_image",
        ),
    ],
)
def test_bad_arguments_are_one_line(pipes, options, message):
    options = {"prompt": "rocket", **options}
    with pytest.raises(ValueError, match=message) as error:
        pipes["grid", "masked"](**options)
    assert "\n" not in str(error.value)


def test_edits_that_a_model_can_not_do(pipes):
    with pytest.raises(ValueError, match='load the model with generator="masked"'):
        pipes["grid", "autoregressive"]("rocket", image=picture(), strength=0.5)
    with pytest.raises(ValueError, match="not places in the picture; use strength"):
        pipes["prefix", "masked"]("rocket", image=picture(), mask_image=picture())
    with pytest.raises(
        ValueError, match="num_inference_steps 4: Autoregressive makes a token a step"
    ):
        pipes["prefix", "autoregressive"]("rocket", num_inference_steps=4)
    with pytest.raises(TypeError, match="negative_prompt"):
        pipes["prefix", "masked"]("rocket", negative_prompt="x")


def test_other_scripts_are_prompts(pipe):
    assert len(pipe(["красное яблоко", "赤いりんご", "🍎 تفاحة"]).images) == 3


def test_parts_are_checked(pipes, words):
    grid, prefix = pipes["grid", "masked"], pipes["prefix", "autoregressive"]
    make = studio.TextToImagePipeline
    with pytest.raises(ValueError, match="decoding must be a DecodingStrategy, but is a dict"):
        make(grid.tokenizer, grid.generator, words, {})
    with pytest.raises(ValueError, match="tokenizer must be a Tokenizer, but is a MaskedTransf"):
        make(grid.generator, grid.generator, words, grid.decoding)
    with pytest.raises(
        ValueError, match="generator makes 16 tokens of 24, but the tokenizer reads 8"
    ):
        make(prefix.tokenizer, grid.generator, words, grid.decoding)
    with pytest.raises(ValueError, match="Autoregressive is for ordered generators"):
        make(grid.tokenizer, grid.generator, words, prefix.decoding)


def test_a_part_can_be_swapped(words, seeded):
    from tests.pipelines.conftest import make_pipe

    pipe = make_pipe("grid", "masked", words)
    pipe.decoding = studio.Masked.from_config(pipe.decoding.config, num_steps=2)
    assert pipe("rocket", generator=seeded(1)).stats.steps == 2
    pipe.decoding = studio.Autoregressive()
    with pytest.raises(ValueError, match="is for ordered generators"):
        pipe("rocket")
