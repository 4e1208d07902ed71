"""The one folder that the app and the API read and write, and the guard at its door.

Whatever a visitor names - an id, a model, a batch - becomes a path through `Workspace` alone, which
refuses what would leave the folder, also over a symbolic link. Uploads never keep their names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studio.media.files import atomic_write, check_writable

MAX_UPLOAD = 64 * 2**20
MAX_PICTURE = 32 * 2**20
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")


class Workspace:
    """A workspace folder, made when it is not there.

    Args:
        folder: where everything is kept.

    Raises:
        OSError: one line, when it can't be made or written.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).resolve()
        check_writable(self.folder / "results" / "x")
        for name in ("results", "inputs", "batches", "models", "uploads"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._lock: Any = None

    def place(self, *parts: str) -> Path:
        """The path of something inside. Raises ValueError for one that would be outside."""
        for part in parts:
            if not isinstance(part, str) or not _NAME.fullmatch(part):
                raise ValueError(f"name {ascii(part)[:60]} must be letters, digits and _ . -")
        path = self.folder.joinpath(*parts)
        # A name holds no separator; a symbolic link may still lead anywhere.
        if not path.resolve().is_relative_to(self.folder):
            raise ValueError(f"name {'/'.join(parts)!r} leads out of the workspace")
        return path

    # --- pictures that others are made from ------------------------------------------------------

    def keep_input(self, data: bytes) -> str:
        """Keeps a picture's file under its SHA-256, which it gives.

        Raises:
            ValueError: it is too large, or no picture that can be read.
        """
        from studio.media.image import open_picture

        if len(data) > MAX_PICTURE:
            raise ValueError(f"picture of {len(data)} bytes is more than {MAX_PICTURE}")
        name = hashlib.sha256(data).hexdigest()
        path = self.folder / "inputs" / name
        if not path.exists():
            with self.uploaded("picture", data) as upload:
                open_picture(upload)
            atomic_write(path, data)
        return name

    def input_path(self, name: str) -> Path:
        """Where an input is. Raises ValueError when it is not here."""
        path = self.folder / "inputs" / name
        if not isinstance(name, str) or not _HASH.fullmatch(name) or not path.is_file():
            raise ValueError(f"input {ascii(name)[:70]} is not here: upload the picture first")
        return path

    # --- uploads ---------------------------------------------------------------------------------

    @contextmanager
    def uploaded(self, name: str, data: bytes) -> Iterator[Path]:
        """A file that holds an upload, as long as the block lasts; of its name, only a plain suffix
        is kept. Raises ValueError when it is empty or too large."""
        if not 0 < len(data) <= MAX_UPLOAD:
            raise ValueError(f"file of {len(data)} bytes must have 1 to {MAX_UPLOAD}")
        suffix = Path(name).suffix.lower()
        suffix = suffix if _SUFFIX.fullmatch(suffix) else ""
        path = self.folder / "uploads" / f"{secrets.token_hex(12)}{suffix}"
        atomic_write(path, data)
        try:
            yield path
        except (ValueError, OSError, ImportError) as error:
            raise ValueError(without_path(str(error), path)) from error
        finally:
            for leftover in (path, path.with_name(path.name + ".json")):
                leftover.unlink(missing_ok=True)

    # --- small things ----------------------------------------------------------------------------

    def token(self) -> str:
        """The API's token, made when there is none; readable by this user alone."""
        path = self.folder / "api-token"
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = path.read_text(encoding="ascii").strip()
            if len(text) >= 32:
                return text
        text = secrets.token_urlsafe(32)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text + "\n")
        return text

    def read_json(self, name: str, default: Any) -> Any:
        """A JSON file's value; `default` where there is none that reads."""
        try:
            return json.loads(self.place(name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return default

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file, whole or not at all."""
        atomic_write(self.place(name), json.dumps(value, ensure_ascii=False, indent=1) + "\n")

    def lock(self) -> None:
        """Keeps other servers out for as long as this process lives. Raises ValueError when one is
        at work here."""
        try:
            import fcntl
        except ImportError:  # not a POSIX system
            return
        self._lock = open(self.folder / ".lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"workspace {str(self.folder)!r} is in use by another studio app"
            ) from None
        for leftover in (self.folder / "uploads").iterdir():  # of a server that was killed
            leftover.unlink(missing_ok=True)

    def unlock(self) -> None:
        """Lets others in again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def without_path(text: str, path: Path) -> str:
    """An error's text without the place of an upload."""
    for shown in (repr(str(path)), str(path), path.name):
        text = text.replace(f"{shown} ", "").replace(shown, "it")
    return " ".join(text.split())[:300]
