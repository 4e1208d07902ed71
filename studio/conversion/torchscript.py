"""The tensors of a TorchScript archive (`.jit`), read without running the program in it.

`torch.jit.load` compiles what the file brings. Here only its pickle is read, with
`conversion.tensors_only`: modules become plain trees of named tensors. Left out on purpose:
constants outside modules, and archives of big-endian machines.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from studio.conversion.tensors_only import Unpickler

# What reading a damaged archive raises.
_BROKEN = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    RuntimeError,
)

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class ScriptTree:
    """A module of the archive: its attributes by name."""

    def __init__(self):
        self.entries: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.entries = dict(state) if isinstance(state, dict) else {}


class _Reader(Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return ScriptTree
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """The numbers of one storage, flat."""
        _, kind, key, _, count = pid
        raw = self.archive.read(f"{self.root}/data/{int(key)}")
        dtype = _DTYPES[kind.__name__]
        if not count:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(raw), dtype=dtype, count=count)


def _tensor(storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_: Any):
    return storage.as_strided(size, stride, offset)


def read_torchscript(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of the modules, named by their path. Raises ValueError for what can't be read."""
    try:
        with zipfile.ZipFile(file) as archive:
            root = next(n.split("/")[0] for n in archive.namelist() if n.endswith("/data.pkl"))
            tree = _Reader(archive, root).load()
    except StopIteration:
        raise ValueError(f"file {file} is no TorchScript archive: it holds no modules") from None
    except _BROKEN as error:
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise ValueError(f"file {file} is cut short or no TorchScript: {reason}") from None
    found: dict[str, torch.Tensor] = {}
    _gather(tree, "", found, ())
    return found


def _gather(node: Any, path: str, found: dict[str, torch.Tensor], above: tuple) -> None:
    if not isinstance(node, ScriptTree) or node in above:
        return
    for name, value in node.entries.items():
        place = f"{path}.{name}" if path else str(name)
        if isinstance(value, torch.Tensor):
            found[place] = value
        _gather(value, place, found, (*above, node))
