"""A complete model of real parts at toy size, so that every command runs in seconds."""

import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

SIZES = {"image_size": 16, "num_tokens": 4, "levels": [4, 4], "dim": 16, "heads": 2}
SIZES |= {"encoder_layers": 1, "decoder_layers": 1, "refiner_channels": 8, "refiner_blocks": 1}


def make_tiny(folder):
    """A text-to-image folder with both generators over eight tokens of 16 x 16 pictures."""
    import studio
    from tests import toys

    torch.manual_seed(0)
    tokenizer = toys.prefix_tokenizer()
    words = studio.CaptionTokenizer.train(["red apple", "blue apple on yellow", "rocket"] * 9, 300)
    ordered = toys.text_generator("autoregressive", tokenizer, words, rope="1d")
    pipe = studio.TextToImagePipeline(tokenizer, ordered, words, studio.Autoregressive())
    pipe.save_pretrained(folder)
    masked = toys.text_generator("masked", tokenizer, words)
    masked.save_pretrained(folder / "generator_masked")
    studio.Masked(num_steps=4).save_pretrained(folder / "decoding_masked")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a toy model; not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny(folder)
    return folder


@pytest.fixture
def tiny_copy(tiny_model, tmp_path):
    """A copy of the toy model that a test may break."""
    return shutil.copytree(tiny_model, tmp_path / "copy")


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """`call("generate", ..., cwd=...)` runs a command in this process: the code of a process of
    its own from `main` on, without importing torch anew. Gives code, out and err."""

    def run(*args, cwd=tmp_path):
        from studio.cli.main import run as run_command

        monkeypatch.chdir(cwd)
        capsys.readouterr()
        code = run_command([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return run


@pytest.fixture
def fails(call, tmp_path):
    """`fails("generate", ..., message=...)`: one `error:` line with it, nothing on the disk."""

    def check(*args, message, code=2, run=call, **options):
        folder = tmp_path / "empty"
        folder.mkdir(exist_ok=True)
        done = run(*args, cwd=folder, **options)
        assert done.returncode == code, done.stderr
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
        assert message in lines[0], lines[0]
        assert done.stdout == "" and list(folder.iterdir()) == []

    return check


@pytest.fixture
def recipe(tmp_path):
    """A recipe file: three steps of a toy tokenizer over noise."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(48):
        Image.effect_noise((20, 20), 5 * i + 5).convert("RGB").save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text(f"noise {i}")
    values = {
        "name": "toy",
        "task": "tokenizer",
        "model": {"class": "PrefixTokenizer", "config": SIZES},
        "data": {"kind": "folder", "path": str(pictures), "size": 16},
        "loss": {"fit": 32},
        "steps": 3,
        "batch_size": 2,
        "save_every": 2,
        "sample_every": 100,
        "log_every": 1,
    }
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(autouse=True)
def own_costs(monkeypatch, tmp_path_factory):
    """What passes cost is not kept in the user's folder."""
    folder = tmp_path_factory.mktemp("costs")
    monkeypatch.setattr("studio.decoding.costs._cache_folder", lambda: folder)
