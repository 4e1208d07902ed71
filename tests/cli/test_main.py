"""The command as a whole: help, version, and how errors are said."""

import os
import subprocess
import sys

import pytest

VERBS = ["demo", "generate", "reconstruct", "render", "evaluate", "bench", "train", "convert"]
VERBS += ["verify", "models", "doctor"]


def test_help_lists_every_verb(call):
    done = call("--help")
    assert done.returncode == 0 and done.stderr == ""
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(call, verb):
    done = call(verb, "--help")
    assert done.returncode == 0 and f"Usage: studio {verb}" in done.stdout


def test_no_verb_is_answered_with_the_help(call):
    for arguments in ((), ("bench",)):
        done = call(*arguments)
        assert done.returncode == 0 and "Usage" in done.stdout and len(done.stdout.splitlines()) > 5


def test_version(call):
    import studio

    assert call("--version").stdout == f"{studio.__version__}\n"


def test_waiting_threads_leave_busy_cores_alone():
    """What the user has set stays; else it stands before torch is loaded."""
    shown = "os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules"
    code = f"import os, sys, studio.cli.main; print({shown})"
    for given, expected in (({}, "3000 False"), ({"GOMP_SPINCOUNT": "5"}, "5 False")):
        free = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
        done = subprocess.run(
            [sys.executable, "-c", code], env={**free, **given}, capture_output=True, text=True
        )
        assert done.stdout.strip() == expected, done.stderr


def test_wrong_verbs_and_arguments(fails):
    fails("nope", message="No such command 'nope'")
    fails("verify", message="Missing argument 'DIR'")
    fails("--nope", message="No such option")


def test_the_installed_process_says_one_line(fails, run_studio):
    fails("reconstruct", "nope.png", message="picture 'nope.png' does not exist", run=run_studio)


def test_faults_of_ours_are_not_hidden(monkeypatch):
    from studio.cli.main import run

    monkeypatch.setattr("studio.hub.list_models", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(["models"])


def test_tracebacks_on_request(monkeypatch, tmp_path):
    from studio.cli.main import run

    monkeypatch.setenv("STUDIO_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        run(["reconstruct", str(tmp_path / "nope.png")])


def test_long_messages_are_cut():
    from studio.cli.main import one_line

    assert one_line(ValueError("a\n  b")) == "a b" and one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 10_000))) < 700
