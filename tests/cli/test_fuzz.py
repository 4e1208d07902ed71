"""Hostile input of the command line: any options, any jobs file, any broken media. The answer is
one line and an exit code, in time, and nothing is written but what was asked for."""

import inspect
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as some

from studio.decoding.masked import Masked
from studio.decoding.modes import MODES
from studio.decoding.speculative import Speculative
from tests import toys
from tests.hostile import SECONDS, bodies, broken_file, media, quiet, values

SOUNDS, STILLS = ("wav", "flac", "ogg"), ("png", "jpg", "webp", "gif", "bmp", "tiff")
VERBS = ("generate", "reconstruct", "render", "convert", "verify", "train", "models")
# What a shell can hand over; without separators, so that no output lands elsewhere.
words = some.text(
    some.characters(exclude_characters="\0/\\", exclude_categories=["Cs"]), max_size=20
)
numbers = some.sampled_from([-1, 0, 1, 2, 10**9, 2**63, 10**40]) | some.integers()
amounts = numbers | some.floats() | some.sampled_from(["1e999", "nan", "-inf", "0x10", "1_0", ""])


def options_of(verb):
    """Every option of a command, by its longest name, and whether it takes a value."""
    import typer

    from studio.cli.main import app

    command = typer.main.get_command(app).commands[verb]
    found = [p for p in command.params if p.param_type_name == "option"]
    return [(max(p.opts, key=len), not getattr(p, "is_flag", False)) for p in found]


DECODING = sorted(
    {*inspect.signature(Speculative).parameters, *inspect.signature(Masked).parameters}
)
OPTIONS = {verb: options_of(verb) for verb in VERBS}


@some.composite
def command_lines(draw):
    verb = draw(some.sampled_from(VERBS))
    line = [verb]
    for _ in range(draw(some.integers(0, 3))):
        line.append(draw(words))
    for name, valued in draw(some.lists(some.sampled_from(OPTIONS[verb]), max_size=5)):
        if name != "--help":
            line += [name, str(draw(words | amounts))] if valued else [name]
    return line


@pytest.fixture
def answer(call, tmp_path):
    """Runs a command inside a folder of its own and checks how it answers."""

    def run(*line):
        inside = tmp_path / "outer" / "inner"
        inside.mkdir(parents=True, exist_ok=True)
        before = files(tmp_path, without=inside)
        started = time.monotonic()
        done = call(*line, cwd=inside)
        assert time.monotonic() - started < SECONDS
        assert done.returncode in (0, 1, 2), done.stderr
        assert "Traceback" not in done.stderr + done.stdout
        if done.returncode:
            errors = [row for row in done.stderr.splitlines() if row.startswith("error: ")]
            assert len(errors) == 1 and len(errors[0]) < 4000, done.stderr
            assert errors[0].isprintable()
        assert files(tmp_path, without=inside) == before
        return done

    return run


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """A folder of two toy tokenizers, "codec" of sounds and "clips"."""
    folder = tmp_path_factory.mktemp("tokenizers")
    toys.speech_codec().save_pretrained(folder / "codec")
    toys.video_tokenizer().save_pretrained(folder / "clips")
    return folder


def files(folder, *, without):
    return sorted(p for p in folder.rglob("*") if p.is_file() and without not in p.parents)


@quiet
@given(line=command_lines())
def test_any_command_line(answer, line):
    answer(*line)


@quiet
@given(line=command_lines(), prompt=words)
def test_any_options_of_a_model_that_is_there(answer, tiny_model, line, prompt):
    options = line[next((i for i, word in enumerate(line) if word.startswith("--")), len(line)) :]
    answer("generate", *options, "-m", tiny_model, "--", prompt)


@quiet
@given(
    mode=some.sampled_from([*MODES, "masked"]),
    found=some.lists(some.tuples(some.sampled_from(DECODING), values.map(json.dumps) | words)),
)
def test_any_options_of_decoding(answer, tiny_model, mode, found):
    more = ["--generator", mode] if mode == "masked" else ["--decoding", mode]
    for name, value in found[:4]:
        more += ["--option", f"{name}={value}"]
    answer("generate", *more, "-m", tiny_model, "-o", "a.png", "--", "red apple")


@quiet
@given(rows=some.lists(bodies | values, max_size=4))
def test_any_rows_as_jobs(answer, tiny_model, tmp_path, rows):
    path = tmp_path / "jobs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer("render", path, "--out", "out", "-m", tiny_model, "--dry-run")


@quiet
@given(data=some.binary(max_size=300), ending=some.sampled_from(["jsonl", "csv", "json"]))
def test_any_bytes_as_jobs(answer, tiny_model, tmp_path, data, ending):
    path = tmp_path / f"jobs.{ending}"
    path.write_bytes(data)
    answer("render", path, "--out", "out", "-m", tiny_model, "--dry-run")


@quiet
@given(found=broken_file(media()), named=some.sampled_from(["", *media()]))
def test_any_broken_file(answer, tiny_model, tmp_path, found, named):
    kind, data = found
    path = tmp_path / f"in.{named or kind}"
    path.write_bytes(data)
    answer("reconstruct", path, "-m", tiny_model, "-o", "out.png")
    answer("generate", "--from", path, "-m", tiny_model, "-o", "again.png")


@quiet
@given(found=broken_file(kind for kind in media() if kind not in STILLS))
def test_any_broken_clip_or_sound(answer, tokenizers, tmp_path, found):
    kind, data = found
    path = tmp_path / f"in.{kind}"
    path.write_bytes(data)
    model, out = ("codec", "out.wav") if kind in SOUNDS else ("clips", "out.mp4")
    answer("reconstruct", path, "-m", tokenizers / model, "-o", out)
