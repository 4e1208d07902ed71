"""The API against its own description: whatever schemathesis makes up from it."""

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed")

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks

from tests.studios import studio_over

pytestmark = pytest.mark.slow
CHECKS = ("not_a_server_error", "status_code_conformance", "response_schema_conformance")


@pytest.fixture(scope="module")
def served(tmp_path_factory, tiny_models):
    """A studio and the application that serves its API."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from studio.server.api import make_api

    made = studio_over(tmp_path_factory.mktemp("schema") / "workspace", tiny_models)
    yield made, Starlette(routes=[Mount("/api", make_api(made))])
    made.close()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_whatever_the_description_allows_or_forbids(served, mode):
    """400 submissions and 40 of every other call; no fault of ours, and nothing but what is
    described."""
    studio, app = served
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app)
    asked = 0
    for operation in (found.ok() for found in schema.get_all_operations()):
        try:
            asked += ask(operation, mode, studio)
        except Unsatisfiable:  # nothing of this operation can be wrong
            assert mode is GenerationMode.NEGATIVE
    assert asked > 400 and not list((studio.workspace.folder / "uploads").iterdir())


def ask(operation, mode, studio):
    """Many calls of one operation, each answer checked; how many."""
    checks.load_all_checks()
    wanted = [checks.CHECKS.get_one(name) for name in CHECKS]
    headers = {"Authorization": f"Bearer {studio.workspace.token()}"}
    asked = []

    @settings(
        max_examples=400 if operation.label == "POST /jobs" else 40,
        deadline=10_000,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(some.data())
    def call(data):
        case = data.draw(operation.as_strategy(generation_mode=mode))
        case.validate_response(case.call(headers=headers), checks=wanted)
        asked.append(case)
        for job in studio.queue.jobs():
            studio.queue.cancel(job.id)

    call()
    return len(asked)
