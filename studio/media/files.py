"""Files that are there whole or not at all.

A write goes to a temporary file in the same folder and is renamed when it is complete, so that a
full disk or a kill leaves the old file, or none. Every error is one line that names the file.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def _described(error: OSError, path: Path) -> OSError:
    """The same kind of error, with a message of one line that names the file."""
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
        handle, name = tempfile.mkstemp(prefix=".studio-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _described(error, path) from error
    finally:
        if temporary is not None:
            with suppress(FileNotFoundError):
                temporary.unlink()


def atomic_write(path: str | Path, data: bytes | str) -> Path:
    """Write `data` (text as UTF-8) to `path`, whole or not at all. Returns the path."""
    raw = data.encode("utf-8") if isinstance(data, str) else data
    with atomic_path(path) as temporary:
        temporary.write_bytes(raw)
    return Path(path)


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
            with tempfile.NamedTemporaryFile(prefix=".studio-", dir=nearest):
                pass
    except OSError as error:
        raise _described(error, path) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
