"""Values of the command line as people write them, refused in one line that names them."""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import typer

# What the library calls an argument -> what it is called here.
_OPTIONS = {
    r"\bnum_inference_steps\b": "--steps",
    r"\bnum_tokens\b": "--tokens",
    r"\bguidance_scale\b": "--guidance",
    r"\bclass_label\b": "--class",
    r"\bload the model with generator=\"(\w+)\"": r"add --generator \1",
}


@contextlib.contextmanager
def in_options() -> Iterator[None]:
    """A context whose errors name arguments as the command line does."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        for name, option in _OPTIONS.items():
            text = re.sub(name, option, text)
        raise ValueError(text) from error


def whole(text: str) -> int:
    """A whole number. Raises typer's usage error otherwise."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text[:60]!r} must be a whole number") from None


def number(text: str) -> float:
    """A number. Raises typer's usage error otherwise."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text[:60]!r} must be a number") from None


def whole_option(help: str, *names: str) -> Any:
    """An option that is a whole number."""
    return typer.Option(*names, parser=whole, metavar="<int>", help=help)


def number_option(help: str, *names: str) -> Any:
    """An option that is a number."""
    return typer.Option(*names, parser=number, metavar="<number>", help=help)


def parse_options(settings: list[str]) -> dict[str, Any]:
    """`["min_p=0.1", "schedule=cosine"]` as a dict; values are JSON, or else words.

    Raises:
        ValueError: a setting without `=`.
    """
    found = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key.strip():
            raise ValueError(f"--option {setting!r} must look like key=value")
        try:
            found[key.strip()] = json.loads(value)
        except ValueError:
            found[key.strip()] = value
    return found
