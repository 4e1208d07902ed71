"""The API against its own description: whatever schemathesis makes up from it."""

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed")

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks

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


@pytest.fixture(scope="module")
def described(served):
    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", served[1])


schema = schemathesis.pytest.from_fixture("described")


@schema.include(method="POST", path="/jobs").parametrize()
@settings(max_examples=400, deadline=10_000, suppress_health_check=list(HealthCheck))
def test_submitting_what_the_description_allows_and_forbids(case, served):
    check(case, served)


@schema.exclude(path_regex="events$|^/jobs$").parametrize()
@settings(max_examples=60, deadline=10_000, suppress_health_check=list(HealthCheck))
def test_every_other_call(case, served):
    check(case, served)


def check(case, served):
    """A call and its answer: no fault of ours, and nothing but what the description says."""
    checks.load_all_checks()
    studio, _ = served
    headers = {"Authorization": f"Bearer {studio.workspace.token()}"}
    answer = case.call(headers=headers)
    case.validate_response(answer, checks=[checks.CHECKS.get_one(name) for name in CHECKS])
    for job in studio.queue.jobs():
        studio.queue.cancel(job.id)
