"""A studio with two toy models in its workspace."""

import os

import pytest

from tests.studios import make_grid, make_tiny, studio_over


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """A folder of two models, "tiny" and "grid"."""
    folder = tmp_path_factory.mktemp("models")
    make_tiny(folder / "tiny")
    make_grid(folder / "grid")
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What passes cost is not kept in the user's folder."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["XDG_CACHE_HOME"]
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture
def place(tmp_path, tiny_models):
    """A studio over the toy models, in a workspace of its own."""
    made = studio_over(tmp_path / "workspace", tiny_models)
    yield made
    made.close()
