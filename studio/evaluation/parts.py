"""Long measurements in parts that are kept: a killed run goes on where it was, and processes share
the parts.

A part is some media of a set, measured by one process. Its result, tensors by name, is one
safetensors file whose name holds a digest of everything that decides it, `FORMAT` and the version
of studio among it, so that a rerun with the same settings finds it and any other run does not.
Processes (`accelerate launch`) take every n-th part and wait for each other; which process made a
part changes nothing. They must see the same folder: one machine, or a shared disk. Left out on
purpose: splitting a part.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

import studio
from studio.media.files import atomic_write

FORMAT = 1  # raised by hand when code measures otherwise: older parts are not used any more
Record = dict[str, torch.Tensor]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Shard:
    """Which process this is, of how many, its number on this machine, and how they wait for each
    other."""

    index: int = 0
    count: int = 1
    local_index: int = 0
    wait: Callable[[], None] = lambda: None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes the report."""
        return self.index == 0


def this_shard(device: str = "cpu") -> Shard:
    """The shard of this process: one of several when it was started by `accelerate launch`.

    Args:
        device: "cpu" keeps processes that talk to each other off GPUs.
    """
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    return Shard(
        state.process_index,
        state.num_processes,
        state.local_process_index,
        state.wait_for_everyone,
    )


def digest(facts: Any) -> str:
    """Sixteen hex digits of plain JSON values."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def measure_parts(
    parts: Sequence[Any],
    measure: Callable[[int], Record],
    *,
    folder: Path,
    facts: Any,
    shard: Shard | None = None,
    progress: Progress | None = None,
) -> list[Record]:
    """Measures what is not there yet and gives all records in order; on the main process only.

    Args:
        parts: for each part what decides it beside `facts`, as plain JSON values: its first place
            in the whole, names and sizes of its files, for example.
        measure: called with a part's number, gives its record: tensors on the CPU.
        folder: where records are kept.
        facts: what decides all parts: model and settings. Plain JSON values. `FORMAT` and studio's
            version are added.
        shard: which parts are this process's.
        progress: called as progress(parts done, parts); those of this process.

    Returns:
        A record a part; an empty list on all processes but the main one.

    Raises:
        RuntimeError: a part of another process is not seen here: the folder is not shared.
    """
    shard = shard or Shard()
    known = digest([FORMAT, studio.__version__, facts])
    paths = [folder / f"{known}-{digest(part)}.safetensors" for part in parts]
    mine = range(shard.index, len(parts), shard.count)
    for done, number in enumerate(mine):
        if read_record(paths[number]) is None:
            record = {k: v.clone().contiguous() for k, v in measure(number).items()}
            atomic_write(paths[number], save(record))
        if progress:
            progress(done + 1, len(mine))
    shard.wait()
    return [_seen(path) for path in paths] if shard.is_main else []


def read_record(path: Path) -> Record | None:
    """A record that is there and whole; None otherwise."""
    if not path.is_file():
        return None
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError):
        return None


def _seen(path: Path) -> Record:
    record = read_record(path)
    if record is None:
        raise RuntimeError(
            f"part {path.name} of another process is not in {str(path.parent)!r}: all processes "
            "need the same folder"
        )
    return record


def joined(records: list[Record]) -> Record:
    """Records of parts as one: every tensor is joined along its first axis."""
    names = {name: None for record in records for name in record}
    return {name: torch.cat([r[name] for r in records if name in r]) for name in names}
