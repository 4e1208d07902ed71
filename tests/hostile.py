"""Hostile input made up by hypothesis, as the tests of the server and of the command line share it.

Forty inputs of each kind; STUDIO_FUZZ=400 in the environment makes it four hundred."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as some

from studio.pipelines.request import Request

SECONDS = 10  # that any answer may take
quiet = settings(
    max_examples=int(os.environ.get("STUDIO_FUZZ", "40")),
    deadline=SECONDS * 1000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
plain = some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=40)
values = some.recursive(
    plain,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(), inner, max_size=4),
    max_leaves=12,
)
names = some.sampled_from([*Request.__dataclass_fields__, "requests", "__class__", "path"])
bodies = some.dictionaries(names | some.text(max_size=10), values, max_size=6)
