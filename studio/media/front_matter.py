"""The front matter of a text: YAML between lines of `---`, as model cards have it.

What is read is treated as hostile: bounded in length, without aliases, which a few lines of turn
into gigabytes, and plain short values only; whatever else a card holds is left out.
"""

from __future__ import annotations

from typing import Any

import yaml

MAX_LENGTH = 16 * 1024
MAX_TEXT = 100  # characters of a value
MAX_ITEMS = 20
_MAX_NUMBER = 2**53
_MAX_DEPTH = 8


class _Loader(yaml.SafeLoader):
    """Plain YAML without aliases, and without brackets in brackets in brackets, whose number PyYAML
    squares."""

    def fetch_flow_collection_start(self, *args):
        if self.flow_level >= _MAX_DEPTH:
            raise yaml.YAMLError("brackets are too deep")
        super().fetch_flow_collection_start(*args)

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def split(text: str) -> tuple[str, str]:
    """The front matter and what follows; the front matter is "" where there is none."""
    parts = text.split("---", 2)
    return (parts[1], parts[2]) if len(parts) == 3 and not parts[0].strip() else ("", text)


def read(front: str) -> dict[str, Any]:
    """The values of a front matter: text of at most 100 characters, numbers, and lists of at most
    20 such texts. {} when it does not read."""
    if len(front) > MAX_LENGTH:
        return {}
    try:
        values = yaml.load(front, _Loader)
    except (ValueError, TypeError, yaml.YAMLError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    kept = {name: _plain(value) for name, value in values.items() if isinstance(name, str)}
    return {name: value for name, value in kept.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, int | float):
        return value if abs(value) < _MAX_NUMBER else None
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return [item[:MAX_TEXT] for item in value[:MAX_ITEMS]]
    return None
