"""Nothing outside of the workspace is reached; uploads leave nothing; the token is private."""

import io
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from studio.server import workspace as module
from studio.server.workspace import Workspace, without_path


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "w")


def png(size=4):
    file = io.BytesIO()
    Image.new("RGB", (size, size), "red").save(file, "PNG")
    return file.getvalue()


def test_folders_are_made(workspace):
    assert {p.name for p in workspace.folder.iterdir()} == {
        "results", "inputs", "batches", "models", "uploads",
    }  # fmt: skip


@pytest.mark.parametrize(
    "parts",
    [
        ("..",), ("models", ".."), ("/etc",), ("a/b",), ("",), (".hidden",), ("a\x00b",), ("a\\b",),
        ("a" * 65,), ("models", "../../x"), ("~",), ("-x",), ("é",),
    ],
)  # fmt: skip
def test_names_that_leave_are_refused(workspace, parts):
    with pytest.raises(ValueError, match="must be letters"):
        workspace.place(*parts)


def test_symbolic_links_that_leave_are_refused(workspace, tmp_path):
    (workspace.folder / "models" / "far").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads out of"):
        workspace.place("models", "far")
    assert workspace.place("models", "near").parent == workspace.folder / "models"


@settings(max_examples=100, deadline=None)
@given(some.lists(some.text(max_size=80), min_size=1, max_size=4))
def test_no_text_at_all_leads_out(parts):
    place = Workspace.__new__(Workspace)
    place.folder = module.Path("/some/where")
    try:
        found = place.place(*parts)
    except ValueError:
        return
    assert found.is_relative_to("/some/where") and ".." not in found.parts


def test_inputs_are_kept_by_their_hash(workspace):
    name = workspace.keep_input(png())
    assert workspace.keep_input(png()) == name
    assert workspace.input_path(name).read_bytes() == png()
    assert list((workspace.folder / "uploads").iterdir()) == []
    for bad in ("0" * 64, "../models", "x"):
        with pytest.raises(ValueError, match="upload the picture first"):
            workspace.input_path(bad)


@pytest.mark.parametrize("data", [b"", b"no picture", png()[:40]])
def test_what_is_no_picture_is_not_kept(workspace, data):
    with pytest.raises(ValueError) as caught:
        workspace.keep_input(data)
    assert str(workspace.folder) not in str(caught.value)
    assert list((workspace.folder / "inputs").iterdir()) == []
    assert list((workspace.folder / "uploads").iterdir()) == []


def test_uploads_keep_no_name_and_leave_nothing(workspace, monkeypatch):
    for name in ("../../evil.png", "C:\\x\\a.PNG", "a.png/../b.png"):
        with workspace.uploaded(name, b"data") as path:
            assert path.parent == workspace.folder / "uploads" and path.suffix == ".png"
            assert path.read_bytes() == b"data"
        assert not path.exists()
    with workspace.uploaded("a.p!ng", b"data") as path:
        assert path.suffix == ""
    monkeypatch.setattr(module, "MAX_UPLOAD", 3)
    with (
        pytest.raises(ValueError, match="4 bytes must have 1 to 3"),
        workspace.uploaded("a", b"1234"),
    ):
        pass


def test_errors_tell_no_path(workspace):
    path = workspace.folder / "uploads" / "abc.png"
    assert without_path(f"picture {str(path)!r} is empty", path) == "picture is empty"


def test_the_token_is_made_once_and_private(workspace):
    token = workspace.token()
    assert len(token) >= 40 and workspace.token() == token
    assert os.stat(workspace.folder / "api-token").st_mode & 0o077 == 0


def test_json_files(workspace):
    assert workspace.read_json("presets.json", []) == []
    workspace.write_json("presets.json", [{"name": "é"}])
    assert workspace.read_json("presets.json", []) == [{"name": "é"}]
    (workspace.folder / "presets.json").write_text("[" * 100_000)
    assert workspace.read_json("presets.json", None) is None


def test_a_workspace_has_one_server(workspace, tmp_path):
    workspace.lock()
    other = Workspace(tmp_path / "w")
    with pytest.raises(ValueError, match="in use by another"):
        other.lock()
    workspace.unlock()
    (workspace.folder / "uploads" / "left.png").write_bytes(b"by a server that was killed")
    other.lock()
    assert list((workspace.folder / "uploads").iterdir()) == []
    other.unlock()


def test_a_folder_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        Workspace(tmp_path / "file")
