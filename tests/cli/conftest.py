"""A complete model of real parts at toy size, so that every command runs in seconds."""

import shutil
from types import SimpleNamespace

import pytest
import torch


def make_tiny(folder):
    """A text-to-image folder with both generators over eight tokens of 16 x 16 pictures."""
    import studio

    torch.manual_seed(0)
    tokenizer = studio.PrefixTokenizer(
        image_size=16,
        num_tokens=8,
        levels=[4, 4],
        dim=16,
        heads=2,
        encoder_layers=1,
        decoder_layers=1,
        patch_size=8,
        refiner_channels=8,
        refiner_blocks=1,
        refined=0,
    )
    tokenizer.components.normal_(std=0.05)
    words = studio.CaptionTokenizer.train(["red apple", "blue apple on yellow", "rocket"] * 9, 300)
    common = {
        "layout": tokenizer.layout.to_dict(),
        "dim": 16,
        "num_layers": 1,
        "num_heads": 2,
        "condition": "text",
        "num_condition_tokens": words.max_length,
        "text_vocab_size": words.vocab_size,
        "text_layers": 1,
    }
    ordered = studio.AutoregressiveTransformer(**common, rope="1d")
    pipe = studio.TextToImagePipeline(tokenizer, ordered, words, studio.Autoregressive())
    pipe.save_pretrained(folder)
    masked = studio.MaskedTransformer(**common)
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
