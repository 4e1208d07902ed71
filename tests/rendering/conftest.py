"""A store over some jobs that are plain texts, and the toy model of the command line's tests."""

import json

import pytest

from studio.rendering.store import Store
from tests.rendering.texts import text_jobs


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a toy text-to-image model; not to be changed."""
    import torch

    import studio
    from tests import toys

    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    tokenizer = toys.prefix_tokenizer()
    words = studio.CaptionTokenizer.train(["red apple", "blue apple on yellow", "rocket"] * 9, 300)
    network = toys.text_generator("autoregressive", tokenizer, words, rope="1d")
    pipe = studio.TextToImagePipeline(tokenizer, network, words, studio.Autoregressive())
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def apart(own_cache):
    """All tests here are away from the user's cache."""


@pytest.fixture
def store_of(tmp_path):
    """`store_of(5)` opens a store over five jobs in the test's folder, as a process would."""
    opened = []

    def open_store(count=3, **options):
        store = Store(tmp_path / "out", text_jobs(count), **options)
        store.open()
        store.refresh()
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.close()


@pytest.fixture
def jobs_file(tmp_path):
    """`jobs_file([{...}, ...])` is a JSONL file of these lines."""

    def write(lines, name="jobs.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write
