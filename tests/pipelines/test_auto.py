import pytest

import studio


def test_the_front_door_is_not_made():
    with pytest.raises(TypeError, match="Pipeline is not made"):
        studio.Pipeline()


@pytest.mark.parametrize(
    "name",
    ["nothing", "", ".", "..", "/nowhere/at/all", "a/b/c", "./x", "x y", "http://x/y", "a\\b"],
)
def test_an_unknown_name_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        studio.Pipeline.from_pretrained(name, local_files_only=True)
    text = str(error.value)
    assert "\n" not in text
    if name not in (".", ".."):
        assert "bundled name, folder or Hub id" in text and "bundled: " in text
    assert list(tmp_path.iterdir()) == []


def test_a_hub_id_that_can_not_be_had(tmp_path):
    with pytest.raises(ValueError, match="as a Hub id it can't be had") as error:
        studio.Pipeline.from_pretrained(
            "nobody/nothing", local_files_only=True, cache_dir=tmp_path / "cache"
        )
    assert "\n" not in str(error.value) and "bundled: " in str(error.value)


def test_a_class_folder(class_pipe, tmp_path, seeded):
    class_pipe.save_pretrained(tmp_path / "m")
    again = studio.Pipeline.from_pretrained(tmp_path / "m")
    assert type(again) is studio.ClassToImagePipeline
    want = class_pipe(2, generator=seeded(1)).tokens
    assert (again(2, generator=seeded(1)).tokens == want).all()


def test_a_hub_snapshot(saved, tmp_path, monkeypatch):
    """A repository in the local cache opens offline, with its second generator."""
    import shutil

    commit = "0" * 40
    repo = tmp_path / "models--someone--toy"
    shutil.copytree(saved / "prefix", repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    options = {"cache_dir": tmp_path, "local_files_only": True}
    pipe = studio.Pipeline.from_pretrained("someone/toy", generator="masked", **options)
    assert type(pipe.generator).__name__ == "MaskedTransformer"
    assert pipe.config._name_or_path == "someone/toy"
