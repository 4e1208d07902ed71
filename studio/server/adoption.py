"""Results of batches in the gallery: each file once, whoever made it.

A batch's folder holds a note of what the gallery was given, so that what is deleted there stays
away. The note bears the time of the last result that it knows of: whether a batch made more since,
by a studio that was killed or by the command line, is told without a look at its results.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path

from studio.media.files import atomic_write
from studio.rendering.store import HIDDEN, last_change
from studio.server.gallery import Gallery, adopted_id
from studio.server.jobs import one_line
from studio.server.keeper import Keeper
from studio.server.media import MIMES, kind_of_file, read_request

logger = logging.getLogger(__name__)
_GIVEN = "in-gallery.json"  # ids of what the gallery was given


class Adoption:
    """Gives a gallery what batches made.

    Args:
        gallery: whose it becomes.
        keeper: knows what models make.
    """

    def __init__(self, gallery: Gallery, keeper: Keeper):
        self._gallery, self._keeper = gallery, keeper
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def soon(self, *folders: Path) -> None:
        """Gives what the folders of batches hold and the gallery has not, in a thread; cheap when
        there is nothing."""
        busy = self._thread is not None and self._thread.is_alive()
        if not busy and any(map(_is_behind, folders)):
            self._thread = threading.Thread(target=self._work, args=(folders,), daemon=True)
            self._thread.start()

    def now(self, folder: Path) -> None:
        """Gives what a batch's folder holds and the gallery has not.

        Raises:
            OSError, ValueError: the note can't be read or written.
        """
        with self._lock:
            changed, path = last_change(folder / "out"), folder / _GIVEN
            entries = {entry.name: entry for entry in self._keeper.entries()}
            given = set(json.loads(path.read_text())) if path.is_file() else set()
            for result in made(folder / "out"):
                if self._closing.is_set():
                    changed = 0  # the rest is for another time
                    break
                try:
                    if (name := adopted_id(result)) in given:
                        continue
                    entry = entries.get(str(read_request(result).get("model")))
                    medium = entry.medium if entry else kind_of_file(result.name).name
                    self._gallery.adopt(result, medium=medium)
                    given.add(name)
                except Exception as problem:  # readers of media raise what they like
                    reason = one_line(problem)
                    logger.warning("%s of a batch is not in the gallery: %s", result.name, reason)
            atomic_write(path, json.dumps(sorted(given)))
            os.utime(path, ns=(changed, changed))

    def close(self, *, timeout: float = 0.0) -> None:
        """Ends what goes on here, and waits for that."""
        self._closing.set()
        if timeout and self._thread is not None:
            self._thread.join(timeout)

    def _work(self, folders: tuple[Path, ...]) -> None:
        for folder in filter(_is_behind, folders):
            try:
                self.now(folder)
            except Exception:
                logger.exception("results of batch %s are not in the gallery", folder.name)


def made(out: Path) -> list[Path]:
    """All results in an output folder, the newest first."""
    found = [p for p in out.rglob("*") if p.suffix.lower() in MIMES and HIDDEN not in p.parts]
    return sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)


def _is_behind(folder: Path) -> bool:
    """Whether a batch has results of which the note does not know."""
    changed, path = last_change(folder / "out"), folder / _GIVEN
    return changed > 0 and (not path.is_file() or path.stat().st_mtime_ns != changed)
