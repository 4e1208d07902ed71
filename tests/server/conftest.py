"""A studio with two toy models in its workspace."""

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
def apart(own_cache):
    """All tests here are away from the user's cache."""


@pytest.fixture
def place(tmp_path, tiny_models):
    """A studio over the toy models, in a workspace of its own."""
    made = studio_over(tmp_path / "workspace", tiny_models)
    yield made
    made.close()
