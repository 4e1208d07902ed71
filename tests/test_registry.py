"""Names that stand for classes, and what is known of them without importing them."""

import pytest

from studio.generators.base import Generator
from studio.registry import CLASSES, GENERATORS, find_class


@pytest.mark.parametrize("name", CLASSES)
def test_every_name_finds_its_class(name):
    assert find_class(name).__name__ == name


def test_the_kind_of_every_generator_is_known():
    networks = [cls for name in CLASSES if _is_network(cls := find_class(name))]
    assert {cls.__name__: cls.kind for cls in networks} == GENERATORS


def test_an_unknown_name_is_named():
    with pytest.raises(KeyError, match="class 'Nothing' is not one of ours; known: "):
        find_class("Nothing")


def _is_network(cls):
    return isinstance(cls, type) and issubclass(cls, Generator)
