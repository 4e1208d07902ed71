"""Files and folders that are there whole or not at all.

A write goes to a temporary place in the same folder and is renamed when it is complete, so that a
full disk or a kill leaves the old one, or none. Every error of the disk is one line that names the
place, those too that safetensors and torch wrap in an error of their own.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = ".studio-"  # of everything that is not complete yet


def _of_disk(error: Exception) -> OSError | None:
    """The error of the disk in or behind an error; None for anything else.

    safetensors writes "(os error 28)" into a message of its own. torch, given an open file, raises
    a RuntimeError on closing while the OSError of the write is on its way.
    """
    if isinstance(error, OSError):
        return error
    if type(error).__name__ == "SafetensorError":
        number = re.search(r"\(os error (\d+)\)", str(error))
        return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None
    behind = error.__context__ if isinstance(error, RuntimeError) else None
    return behind if isinstance(behind, OSError) else None


def _described(error: OSError, path: Path) -> OSError:
    """The same kind of error, with a message of one line that names the place."""
    reason = error.strerror or str(error)
    if isinstance(error, FileExistsError):
        reason = "a file stands where a folder is needed"
    return type(error)(f"cannot write {str(path)!r}: {reason}")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, renamed to `path` when the block ends well.

    Missing folders are made. When the block raises, the temporary file is removed and `path` is as
    it was.

    Raises:
        OSError: one line with the path: no permission, a full disk, a folder of that name.
    """
    path = Path(path)
    temporary = None
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        if (of_disk := _of_disk(error)) is None:
            raise
        raise _described(of_disk, path) from error
    finally:
        if temporary is not None:
            with suppress(FileNotFoundError):
                temporary.unlink()


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path`, put in its place when the block ends well.

    An older folder there is replaced. When the block raises, all that it wrote is removed and
    `path` is as it was.

    Raises:
        OSError: one line with the path: no permission, a full disk, a file of that name.
    """
    path = Path(path)
    temporary = None
    try:
        if path.exists() and not path.is_dir():
            raise FileExistsError
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=path.parent))
        os.chmod(temporary, 0o777 & ~_umask())
        yield temporary
        _put_folder(temporary, path.resolve())
    except Exception as error:
        if (of_disk := _of_disk(error)) is None:
            raise
        raise _described(of_disk, path) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _put_folder(temporary: Path, path: Path) -> None:
    """Renames a folder; an older one steps aside first, as a folder replaces an empty one only."""
    aside = temporary.with_name(f"{temporary.name}.old")
    if path.exists():
        os.replace(path, aside)
    try:
        os.replace(temporary, path)
    except OSError:
        if aside.exists():
            os.replace(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def atomic_write(path: str | Path, data: bytes | str) -> Path:
    """Write `data` (text as UTF-8) to `path`, whole or not at all. Returns the path."""
    raw = data.encode("utf-8") if isinstance(data, str) else data
    with atomic_path(path) as temporary:
        temporary.write_bytes(raw)
    return Path(path)


def remove_leftovers(folder: str | Path) -> None:
    """Removes what writers killed half way left under `folder`. For a folder that belongs to one
    process, which is not writing: another's half-written file would go with them."""
    for path in list(Path(folder).rglob(f"{_PREFIX}*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Raises OSError in one line when `path` could not be written: asked before long work, not
    after it.
    """
    path = Path(path)
    nearest = next((p for p in path.parents if p.exists()), None)
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        if nearest is not None and not nearest.is_dir():
            raise FileExistsError
        if nearest is not None:
            with tempfile.NamedTemporaryFile(prefix=_PREFIX, dir=nearest):
                pass
    except OSError as error:
        raise _described(error, path) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
