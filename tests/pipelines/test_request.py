"""The request as untrusted text: what is allowed comes back the same, all else is one line."""

import json
import random
import subprocess
import sys

import pytest

from studio.pipelines.request import MAX_SEED, Request

FULL = dict(
    model="owner/some-model",
    revision="v1.0",
    generator="masked",
    prompt="красное яблоко 🍎",
    input="ab" * 32,
    seed=MAX_SEED,
    count=3,
    guidance_scale=3.5,
    temperature=0.9,
    top_k=10,
    top_p=0.95,
    num_tokens=32,
    num_inference_steps=8,
    strength=0.5,
    decoding="Masked",
    decoding_options={"schedule": "cosine", "guidance_interval": [0, 3], "softmax_annealing": True},
)


def test_there_and_back():
    request = Request(**FULL)
    text = request.to_json()
    assert "\n" not in text and Request.from_json(text) == request
    assert Request.from_json(text.encode()) == request
    assert Request.from_dict(json.loads(text)).to_json() == text
    assert Request().to_dict().keys() == {"model", "seed", "count", "schema"}


def test_values_are_normalised():
    request = Request(prompt="  rocket\n", guidance_scale=3)
    assert request.prompt == "rocket" and isinstance(request.guidance_scale, float)
    with pytest.raises(AttributeError):
        request.seed = 1


def test_seeds_count_up_and_around():
    assert Request(seed=5, count=3).seeds() == [5, 6, 7]
    assert Request(seed=MAX_SEED, count=2).seeds() == [MAX_SEED, 0]
    assert [g.initial_seed() for g in Request(seed=9, count=2).generators()] == [9, 10]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": ""}, "prompt of 0 characters must have 1 to 1000"),
        ({"prompt": "x" * 10_000}, "prompt of 10000 characters"),
        ({"prompt": 7}, "prompt 7 must be text"),
        ({"prompt": "\ud800"}, "no text"),
        ({"prompt": "a", "class_label": 1}, "exclude each other"),
        ({"seed": -1}, "seed -1 must be a whole number from 0 to 9223372036854775807"),
        ({"seed": 2**63}, "seed 9223372036854775808 must"),
        ({"seed": "x"}, "seed 'x' must"),
        ({"seed": None}, "seed None must"),
        ({"seed": 1.0}, "seed 1.0 must"),
        ({"seed": True}, "seed True must"),
        ({"count": 0}, "count 0 must be a whole number from 1 to 1024"),
        ({"count": 10**6}, "count 1000000"),
        ({"class_label": -1}, "class_label -1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": "hot"}, "temperature 'hot' must be a number from 0 to 100"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"model": "../secret"}, "model '../secret' must be a name or a Hub id"),
        ({"model": "/etc/passwd"}, "model"),
        ({"model": "a/b/c"}, "model"),
        ({"model": "C:\\models"}, "model"),
        ({"model": ""}, "model"),
        ({"model": ["emoji-1d"]}, "model"),
        ({"revision": "a b"}, "revision"),
        ({"input": "me.png"}, "input 'me.png' must be 64 hex digits"),
        ({"generator": "fast"}, "generator 'fast' must be one of autoregressive, masked"),
        ({"decoding": "os.system"}, "decoding 'os.system' must be one of Autoregressive, Masked"),
        ({"decoding": "TextToImagePipeline"}, "decoding"),
        ({"decoding_options": []}, "decoding_options"),
        ({"decoding_options": {"__init__": 1}}, "which is no option"),
        ({"decoding_options": {"a": {"b": 1}}}, "must be a plain value"),
        ({"decoding_options": {"a": "x" * 100}}, "must be a plain value"),
        ({"decoding_options": {"a": float("inf")}}, "must be a plain value"),
        ({"schema": 2}, "schema 2 must be 1"),
        ({"schema": True}, "schema True must be 1"),
        ({"output": "x.png"}, "unknown key 'output'"),
        ({"__class__": "x"}, "unknown key '__class__'"),
    ],
)
def test_what_is_not_allowed_is_one_line(values, message):
    with pytest.raises(ValueError, match=message) as error:
        Request.from_dict(values)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "5", '"x"', '{"seed": NaN}', "[" * 30_000, " " * 70_000, b"\xff\xfe{"],
)
def test_broken_text_is_one_line(text):
    with pytest.raises(ValueError, match="request") as error:
        Request.from_json(text)
    assert "\n" not in str(error.value)


def test_fuzz():
    """A Request or a ValueError comes out, and a Request survives the way back."""
    rng = random.Random(0)
    values = [
        None,
        True,
        -1,
        0,
        1,
        2**63,
        1e308,
        "",
        "x",
        "a/b",
        "../x",
        [],
        {},
        [[]],
        "\ud83d",
        0.5,
    ]
    keys = [*FULL, "extra", "", "schema"]
    made = 0
    for _ in range(3000):
        data = {rng.choice(keys): rng.choice([*values, *FULL.values()]) for _ in range(3)}
        try:
            request = Request.from_dict(data)
        except ValueError:
            continue
        made += 1
        assert Request.from_json(request.to_json()) == request
    assert made > 20
    text = Request(**FULL).to_json()
    for _ in range(1000):
        cut = list(text)
        for _ in range(rng.randint(1, 3)):
            cut[rng.randrange(len(cut))] = rng.choice('{}[]",:0xe\\ \x00é')
        try:
            Request.from_json("".join(cut))
        except ValueError:
            continue


def test_arguments_make_the_call(pipes, class_pipe):
    pipe = pipes["prefix", "masked"]
    request = Request(
        prompt="rocket",
        seed=4,
        count=2,
        temperature=0.7,
        num_inference_steps=3,
        decoding_options={"schedule": "linear"},
    )
    out = pipe(**request.arguments(pipe))
    assert out.tokens.shape == (2, 8) and out.stats.steps == 3
    again = pipe(**Request.from_json(request.to_json()).arguments(pipe))
    assert (again.tokens == out.tokens).all()
    one = pipe(**Request(**{**request.to_dict(), "seed": 5, "count": 1}).arguments(pipe))
    assert (one.tokens[0] == out.tokens[1]).all()
    with pytest.raises(ValueError, match="prompt is missing: model 'emoji-1d' needs one"):
        Request().arguments(pipe)
    with pytest.raises(ValueError, match="class_label is missing"):
        Request(prompt="x").arguments(class_pipe)
    with pytest.raises(ValueError, match="speed is no option of Masked"):
        Request(prompt="x", decoding_options={"speed": 1}).arguments(pipe)
    assert len(class_pipe(**Request(class_label=3).arguments(class_pipe)).images) == 1


def test_the_request_is_light():
    code = (
        "import studio; studio.Request()\n"
        "import sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
