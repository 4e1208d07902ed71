"""What all tests share: a runner for the command line, bundled models, plain reasons to skip."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRETRAINED = ROOT / "studio" / "pretrained"

# Two workers share two cores: one thread each, also in the processes that they start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing in a test run may reach out, or look different on a wide terminal.
os.environ.update(HF_HUB_OFFLINE="1", NO_COLOR="1", COLUMNS="200", TERM="dumb")


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """Processes of their own that need not load torch anew, see `tests.processes`."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    from tests.processes import Forks

    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def own_cache(tmp_path_factory):
    """What passes cost and what was rendered is not kept in the user's folder from here on."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["XDG_CACHE_HOME"]
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def run_studio():
    """`run_studio("models", cwd=...)` runs the command in an interpreter of its own. Where it does
    not matter how that starts, `forks.run` is seconds faster."""

    def run(*args, cwd=None, timeout=300, env=None, **options):
        command = [sys.executable, "-m", "studio.cli.main", *map(str, args)]
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        env = {**os.environ, **(env or {}), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        return subprocess.run(
            command, cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True, **options
        )

    return run


@pytest.fixture(scope="session")
def bundled():
    """`bundled("emoji-1d")` is the folder of a bundled model; the test is skipped without it."""

    def find(name: str) -> Path:
        folder = PRETRAINED / name
        if not any((folder / mark).is_file() for mark in ("model_index.json", "config.json")):
            pytest.skip(f"the bundled model {name} is not in this checkout")
        return folder

    return find


@pytest.fixture(scope="session")
def emoji_font() -> Path:
    """The path of Noto Color Emoji; the test is skipped without it."""
    from studio.env import emoji_font

    font = emoji_font()
    if font is None:
        pytest.skip("Noto Color Emoji is not installed (Debian: fonts-noto-color-emoji)")
    return font
