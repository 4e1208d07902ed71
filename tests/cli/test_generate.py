"""`studio generate`: same bytes, own requests, one clear line for what is wrong."""

import os
import resource
import signal
import struct

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from studio.media.image import write_image
from studio.media.metadata import read_request

WEIGHTS = "generator/diffusion_pytorch_model.safetensors"
KINDS = ["autoregressive", "masked"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bytes_and_made_again_from_the_picture(
    run_studio, call, tiny_model, tmp_path, kind
):
    args = ["generate", "red apple", "-m", tiny_model, "--generator", kind, "--seed", 7]
    done = run_studio(*args, "-o", "a.png", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert call(*args, "-o", "b.png").returncode == 0
    again = call("generate", "--from", "a.png", "-m", tiny_model, "-o", "c.png")
    assert again.returncode == 0 and again.stderr == "", again.stderr
    first = (tmp_path / "a.png").read_bytes()
    assert first == (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    request = read_request(tmp_path / "a.png")
    assert request["prompt"] == "red apple" and request["seed"] == 7
    assert request["model"] == "tiny" and len(request["revision"]) == 12
    assert str(tmp_path) not in str(request)
    assert names(tmp_path) == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_several_pictures_can_be_made_alone(call, tiny_model, tmp_path, kind):
    args = ["generate", "rocket", "-m", tiny_model, "--generator", kind]
    done = call(*args, "--seed", 3, "-n", 3, "-o", "x.png", "--batch", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == ["x-0.png", "x-1.png", "x-2.png"]
    pictures = [(tmp_path / name).read_bytes() for name in names(tmp_path)]
    assert len(set(pictures)) == 3
    assert read_request(tmp_path / "x-2.png")["seed"] == 5
    call("generate", "--from", "x-2.png", "-m", tiny_model, "-o", "y.png", cwd=tmp_path)
    call(*args, "--seed", 4, "-o", "z.png", cwd=tmp_path)
    assert (tmp_path / "y.png").read_bytes() == pictures[2]
    assert (tmp_path / "z.png").read_bytes() == pictures[1]


@pytest.mark.parametrize("suffix", ["webp", "jpg"])
def test_other_formats_are_made_again_too(call, tiny_model, tmp_path, suffix):
    args = ["generate", "rocket", "-m", tiny_model, "--seed", 1, "-o", f"a.{suffix}"]
    assert call(*args, cwd=tmp_path).returncode == 0
    call("generate", "--from", f"a.{suffix}", "-m", tiny_model, "-o", f"b.{suffix}", cwd=tmp_path)
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_all_options_reach_the_request(call, tiny_model, tmp_path):
    done = call(
        *["generate", "rocket", "-m", tiny_model, "--seed", 2**63 - 1, "-o", "deep/a.png"],
        *["--guidance", 2, "--temperature", 0.5, "--top-k", 5, "--top-p", 0.9, "--tokens", 4],
        *["--decoding", "Autoregressive", "--option", "min_p=0.01"],
        *["--option", "guidance_schedule=linear"],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "4 tokens" in done.stdout
    request = read_request(tmp_path / "deep" / "a.png")
    assert request["decoding_options"] == {"min_p": 0.01, "guidance_schedule": "linear"}
    expected = {
        "guidance_scale": 2.0,
        "temperature": 0.5,
        "top_k": 5,
        "top_p": 0.9,
        "num_tokens": 4,
    }
    assert expected.items() <= request.items() and request["seed"] == 2**63 - 1


def test_options_change_what_the_picture_holds(call, tiny_model, tmp_path):
    call("generate", "rocket", "-m", tiny_model, "--seed", 1, "-o", "a.png", cwd=tmp_path)
    args = ["generate", "--from", "a.png", "-m", tiny_model, "--seed", 2, "--tokens", 4]
    assert call(*args, "-o", "b.png", cwd=tmp_path).returncode == 0
    first, second = (read_request(tmp_path / name) for name in ("a.png", "b.png"))
    assert second == {**first, "seed": 2, "num_tokens": 4}


def test_a_changed_model_is_said(call, tiny_model, tiny_copy, tmp_path, caplog):
    call("generate", "rocket", "-m", tiny_model, "--seed", 1, "-o", "a.png", cwd=tmp_path)
    weights = load_file(tiny_copy / WEIGHTS)
    save_file({key: value * 1.5 for key, value in weights.items()}, tiny_copy / WEIGHTS)
    done = call("generate", "--from", "a.png", "-m", tiny_copy, "-o", "b.png", cwd=tmp_path)
    assert done.returncode == 0 and "it will not be the same" in caplog.text


def test_variation_of_a_picture(call, tiny_model, tmp_path):
    Image.new("RGB", (20, 30), (200, 30, 30)).save(tmp_path / "in.png")
    args = ["--image", "in.png", "-m", tiny_model]
    done = call(
        "generate", "rocket", *args, "--strength", 0.5, "--seed", 1, "-o", "a.png", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert len(read_request(tmp_path / "a.png")["input"]) == 64
    call("generate", "--from", "a.png", *args, "-o", "b.png", cwd=tmp_path)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    lost = call("generate", "--from", "a.png", "-m", tiny_model, "-o", "c.png", cwd=tmp_path)
    assert lost.returncode == 2 and "--image is missing" in lost.stderr


@pytest.mark.parametrize(
    "prompt", ["苹果", "κόκκινο μήλο", "🍎🍏", "a\tb\nc", "x" * 1000, "' OR 1=1; --"]
)
def test_any_script_makes_a_picture(call, tiny_model, tmp_path, prompt):
    done = call("generate", prompt, "-m", tiny_model, "--seed", 1, "-o", "a.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_request(tmp_path / "a.png")["prompt"] == prompt
    assert Image.open(tmp_path / "a.png").size == (16, 16)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([""], "prompt of 0 characters must have 1 to 1000"),
        (["   "], "prompt of 0 characters"),
        (["x" * 10_000], "prompt of 10000 characters must have 1 to 1000"),
        ([], "PROMPT is missing"),
        (["a", "--seed", "-1"], "seed -1 must be a whole number from 0 to 9223372036854775807"),
        (["a", "--seed", str(2**63)], "seed 9223372036854775808 must be"),
        (["a", "--seed", "x"], "'--seed': 'x' must be a whole number"),
        (["a", "--seed", "1.5"], "'--seed': '1.5' must be a whole number"),
        (["a", "--guidance", "much"], "'--guidance': 'much' must be a number"),
        (["a", "--batch", "0"], "--batch 0 must be"),
        (["a", "-n", "0"], "count 0 must be a whole number from 1 to 1024"),
        (["a", "-n", "1000000"], "count 1000000 must be a whole number from 1 to 1024"),
        (["a", "--top-p", "2"], "top_p 2.0 must be a number from 0 to 1"),
        (["a", "--temperature", "nan"], "temperature nan must be"),
        (["a", "--tokens", "9"], "--tokens 9 must be a whole number from 1 to 8"),
        (["a", "--steps", "3"], "--steps 3: Autoregressive makes a token a step; use --tokens"),
        (["a", "--generator", "diffusion"], "generator 'diffusion' must be one of"),
        (["a", "--decoding", "Masked"], "is ordered; add --generator masked"),
        (["a", "--decoding", "nope"], "decoding 'nope' must be one of"),
        (["a", "--option", "min_p"], "--option 'min_p' must look like key=value"),
        (["a", "--option", "nope=1"], "nope is no option of Autoregressive"),
        (["a", "--strength", "0.5"], "--strength 0.5 needs --image"),
        (["a", "--image", "nope.png"], "picture 'nope.png' does not exist"),
        (["a", "--device", "tpu"], "--device 'tpu' must be one of auto, cpu, cuda, mps"),
        (["a", "-o", "a.gif"], "output 'a.gif' must end in one of"),
        (["a", "-o", "noending"], "output 'noending' must end in one of"),
        (["--from", "nope.png"], "picture 'nope.png' does not exist"),
        (["a", "--nope"], "No such option: --nope"),
        (["a", "b"], "unexpected extra argument"),
    ],
)
def test_wrong_calls(fails, tiny_model, args, message):
    fails("generate", *args, "-m", tiny_model, message=message)


@pytest.mark.parametrize("model", ["nope", "no/such/folder", "../nope"])
def test_unknown_models(fails, model):
    fails(
        "generate",
        "a",
        "-m",
        model,
        message=f"model {model!r} is no bundled name, folder or Hub id",
    )


def test_an_unreachable_hub_id(fails):
    fails("generate", "a", "-m", "nobody/nothing", message="as a Hub id it can't be had")


def test_broken_model_folders(fails, tiny_copy):
    index = tiny_copy / "model_index.json"
    good = index.read_text()
    for text, message in [
        ("{", "model_index.json is not readable JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "names no pipeline class"),
        ('{"_class_name": "os.system"}', "names os.system, which is none of"),
    ]:
        index.write_text(text)
        fails("generate", "a", "-m", tiny_copy, message=message)
    index.unlink()
    fails("generate", "a", "-m", tiny_copy, message="copy/model_index.json is missing")
    index.write_text(good)
    (tiny_copy / "tokenizer" / "config.json").write_text("null")
    fails("generate", "a", "-m", tiny_copy, message="tokenizer/config.json must hold a JSON object")


def test_weights_that_do_not_fit(fails, tiny_copy):
    path = tiny_copy / WEIGHTS
    good = path.read_bytes()
    tensors = {key: value.clone() for key, value in load_file(path).items()}  # not the mapped file
    first = min(tensors)
    path.write_bytes(good[: len(good) // 2])
    fails("generate", "a", "-m", tiny_copy, message="is cut short")
    path.write_bytes(b"")
    fails("generate", "a", "-m", tiny_copy, message="is cut short or is not safetensors (0 bytes)")
    save_file({key: value for key, value in tensors.items() if key != first}, path)
    fails("generate", "a", "-m", tiny_copy, message=f"the weight file lacks {first}")
    save_file({**tensors, "extra": tensors[first].clone()}, path)
    fails("generate", "a", "-m", tiny_copy, message="the weight file has unexpected extra")
    save_file({**tensors, first: tensors[first][..., :1].contiguous()}, path)
    fails("generate", "a", "-m", tiny_copy, message=f"{first} has shape")
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    fails("generate", "a", "-m", tiny_copy, message="is cut short or is not safetensors")
    path.unlink()
    fails("generate", "a", "-m", tiny_copy, message="model.safetensors is missing")


def test_a_pickle_is_never_read(fails, tiny_copy, tmp_path):
    import torch

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    path = tiny_copy / WEIGHTS
    torch.save({"a": Trap()}, path)
    fails("generate", "a", "-m", tiny_copy, message="is a pickle, not safetensors")
    path.rename(path.with_name("diffusion_pytorch_model.bin"))
    fails("generate", "a", "-m", tiny_copy, message="diffusion_pytorch_model.bin is a pickle")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("request_in_file", "message"),
    [
        ({"prompt": "a", "seed": -5}, "seed -5 must be"),
        ({"prompt": "a", "shell": "rm"}, "unknown key 'shell'"),
        ({"prompt": "a", "model": "../../secret"}, "model '../../secret' must be"),
        ({"prompt": "a", "count": 10**9}, "count 1000000000 must be"),
        ({"prompt": ["a"]}, "prompt ['a'] must be text"),
        ({"prompt": "a", "schema": 99}, "schema 99 must be 1"),
    ],
)
def test_hostile_requests(fails, tiny_model, tmp_path, request_in_file, message):
    path = write_image(tmp_path / "evil.png", Image.new("RGB", (4, 4)), request_in_file)
    fails("generate", "--from", path, "-m", tiny_model, message=message)


def test_a_picture_without_a_request(fails, tiny_model, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    fails("generate", "--from", tmp_path / "plain.png", "-m", tiny_model, message="holds no studio")


def test_unwritable_places(fails, tiny_model, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    args = ["generate", "a", "-m", tiny_model, "-o"]
    fails(*args, tmp_path / "file" / "a.png", message="a file stands where a folder is needed")
    fails(*args, tmp_path / "folder.png", message="it is a folder")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    # root may write everywhere but into the kernel's own folders
    target = "/proc/self" if os.geteuid() == 0 else locked
    fails(*args, f"{target}/a.png", message="cannot write")
    assert names(locked) == names(tmp_path / "folder.png") == []


def full_disk():
    """Writes of more than 100 bytes to one file fail from here on."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def test_a_full_disk(fails, run_studio, tiny_model):
    fails(
        *["generate", "a", "-m", tiny_model, "-o", "a.png"],
        message="cannot write 'a.png': File too large",
        code=1,
        run=run_studio,
        preexec_fn=full_disk,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
    )


@pytest.mark.parametrize("model", ["emoji-1d", "emoji-grid"])
def test_bundled_models_give_the_same_bytes(forks, bundled, tmp_path, model):
    bundled(model)
    args = ["generate", "red apple", "-m", model, "--seed", 7]
    for name in ("a.png", "b.png"):
        done = forks.run(*args, "-o", name, cwd=tmp_path)
        assert done.returncode == 0 and done.stderr == "", done.stderr
    forks.run(*args, "-n", 3, "-o", "c.png", "--batch", 3, cwd=tmp_path)
    forks.run("generate", "--from", "c-0.png", "-o", "d.png", cwd=tmp_path)
    first = (tmp_path / "a.png").read_bytes()
    assert all(first == (tmp_path / f"{name}.png").read_bytes() for name in ("b", "c-0", "d"))
    red, green, blue = Image.open(tmp_path / "a.png").resize((1, 1)).getpixel((0, 0))
    assert red > green and red > blue
