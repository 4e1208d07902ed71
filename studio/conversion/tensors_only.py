"""A pickle reader for torch files that makes tensors and plain containers, and nothing else.

Trainers such as Lightning put objects of their own beside the weights, for which
`torch.load(weights_only=True)` refuses the whole file. Given to `torch.load` as `pickle_module`,
this one reads on: every name that isn't on the list becomes an empty stand-in that takes what it
is given and does nothing, so that no code of the file is run and nothing of it is imported. Left
out on purpose: pickles that are not torch's zip files.
"""

import collections
import pickle
from typing import Any

import torch

_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


class StandIn:
    """What stands for an object that is not made."""

    def __new__(cls, *_, **__):
        return super().__new__(cls)

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)

    def append(self, value: Any) -> None:
        """Takes an item and drops it."""

    def extend(self, values: Any) -> None:
        """Takes items and drops them."""


class Unpickler(pickle.Unpickler):
    """Finds the names on the list, torch's storages and dtypes, and a `StandIn` for all others."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for."""
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        found = getattr(torch, name, None) if module == "torch" and name.isidentifier() else None
        if isinstance(found, torch.dtype) or (isinstance(found, type) and name.endswith("Storage")):
            return found
        return StandIn


def load(*_, **__) -> Any:
    """Refuses torch's old format, whose reader would run more of the file."""
    raise pickle.UnpicklingError("it is of torch's old format")
