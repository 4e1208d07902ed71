"""The list of models, and what stays in memory."""

import gc
import shutil

import pytest

from studio import hub
from studio.server.keeper import Keeper, collect
from studio.server.workspace import Workspace


@pytest.fixture
def keeper(tmp_path):
    (tmp_path / "workspace" / "models").mkdir(parents=True)
    return Keeper(Workspace(tmp_path / "workspace"), folders=[tmp_path / "mine"])


def test_the_list_is_read_again_when_a_model_comes_or_goes(keeper, tmp_path, monkeypatch, bundled):
    source, times = bundled("emoji-1d"), []
    read = hub.list_models
    monkeypatch.setattr(hub, "list_models", lambda *a: times.append(a) or read(*a))
    before = {entry.name for entry in keeper.entries()}
    looked = len(times)
    assert {entry.name for entry in keeper.entries()} == before and len(times) == looked
    for folder in (tmp_path / "workspace" / "models", tmp_path / "mine"):
        shutil.copytree(source / "tokenizer", folder / "new")
        assert {entry.name for entry in keeper.entries()} == before | {"new"}
        shutil.rmtree(folder / "new")
        assert {entry.name for entry in keeper.entries()} == before


def test_what_is_there_costs_later_collections_nothing():
    collect()
    try:
        assert gc.get_freeze_count() > 10_000 and len(gc.get_objects()) < 10_000
    finally:
        gc.unfreeze()
