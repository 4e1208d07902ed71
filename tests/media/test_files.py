"""Whole or not at all."""

import os
import stat

import pytest
from safetensors import SafetensorError

from studio.media.files import (
    atomic_folder,
    atomic_path,
    atomic_write,
    check_writable,
    remove_leftovers,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_write_text_and_bytes(tmp_path):
    assert atomic_write(tmp_path / "new" / "a.txt", "κ").read_bytes() == "κ".encode()
    assert atomic_write(tmp_path / "b", b"\0").read_bytes() == b"\0"


def test_mode_follows_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        path = atomic_write(tmp_path / "a", b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_an_error_inside_leaves_the_old_file(tmp_path):
    atomic_write(tmp_path / "a", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


def test_a_kill_half_way_leaves_the_old_file(tmp_path):
    atomic_write(tmp_path / "a", "old")
    child = os.fork()
    if child == 0:
        with atomic_path(tmp_path / "a") as temporary:
            temporary.write_text("half")
            os._exit(9)
    os.waitpid(child, 0)
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("write", [lambda path: atomic_write(path, "x"), check_writable])
def test_places_that_can_not_be_written(tmp_path, write):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        OSError, match=r"cannot write '.*below.png': a file stands where a folder is needed"
    ):
        write(tmp_path / "file" / "below.png")
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        write(tmp_path / "folder")
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("write", [lambda path: atomic_write(path, "x"), check_writable])
def test_unwritable_folder(tmp_path, write):
    """A folder without the right to write; for root, who has it everywhere, one of the kernel's."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    if os.geteuid() == 0:
        folder = type(folder)("/proc/self")
    with pytest.raises(OSError, match=r"cannot write '.*a.png': "):
        write(folder / "a.png")
    assert list((tmp_path / "locked").iterdir()) == []


def test_check_writable_makes_nothing(tmp_path):
    check_writable(tmp_path / "new" / "deeper" / "a.png")
    assert names(tmp_path) == []


def test_a_folder_is_replaced_whole(tmp_path):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "deep" / "a") as temporary:
            (temporary / text).write_text(text)
        assert names(tmp_path / "deep") == ["a"] and names(tmp_path / "deep" / "a") == [text]
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "deep" / "a") as temporary:
        (temporary / "half").write_text("half")
        raise RuntimeError
    assert names(tmp_path / "deep") == ["a"] and names(tmp_path / "deep" / "a") == ["new"]


def test_a_folder_does_not_replace_a_file(tmp_path):
    (tmp_path / "a").write_text("x")
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        refused = pytest.raises(FileExistsError, match="cannot write '.*': a file stands where")
        with refused, atomic_folder(path):
            pass
    assert names(tmp_path) == ["a"]


def close_after_a_failed_write():
    """What `torch.save` into an open file does on a full disk."""
    try:
        raise OSError(28, "No space left on device")
    finally:
        raise RuntimeError("unexpected pos")


def write_safetensors():
    raise SafetensorError("Error while serializing: I/O error: No space (os error 28)")


@pytest.mark.parametrize("write", [close_after_a_failed_write, write_safetensors])
@pytest.mark.parametrize("place", [atomic_path, atomic_folder])
def test_errors_of_the_disk_that_libraries_wrap(tmp_path, write, place):
    refused = pytest.raises(OSError, match="cannot write '.*a': No space left on device$")
    with refused, place(tmp_path / "a"):
        write()
    assert names(tmp_path) == []


def test_other_errors_of_libraries_stay(tmp_path):
    with pytest.raises(SafetensorError), atomic_path(tmp_path / "a"):
        raise SafetensorError("a tensor is shared")


def test_leftovers_of_killed_writers_go(tmp_path):
    child = os.fork()
    if child == 0:
        with atomic_path(tmp_path / "run" / "a.pt"), atomic_folder(tmp_path / "run" / "final"):
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    atomic_write(tmp_path / "run" / "kept", "whole")
    assert len(names(tmp_path / "run")) == 3
    remove_leftovers(tmp_path / "run")
    assert names(tmp_path / "run") == ["kept"]
