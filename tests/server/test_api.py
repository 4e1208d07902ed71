"""The REST API through a real HTTP server: the whole way, refusals, limits, events."""

import contextlib
import hashlib
import http.client
import io
import json
import socket
import threading
import time

import pytest
from PIL import Image

from studio.media.metadata import read_request
from studio.server.job_queue import MAX_OWNED
from studio.server.jobs import Job

uvicorn = pytest.importorskip("uvicorn")


@pytest.fixture
def server(place):
    """The address of a server over the studio."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from studio.server.api import make_api

    config = uvicorn.Config(
        Starlette(routes=[Mount("/api", make_api(place))]), log_level="error", lifespan="off"
    )
    made = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=made.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not made.started:
        time.sleep(0.01)
    yield listener.getsockname()
    made.should_exit = True
    thread.join(20)


@pytest.fixture
def call(server, place):
    """`call("GET", "/jobs")` is the status and the answer, parsed where it is JSON."""

    own = place.workspace.token()

    def send(method, path, body=None, *, token=own, headers=None, raw=False):
        line = http.client.HTTPConnection(*server, timeout=60)
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        line.request(method, f"/api/v1{path}", data, sent)
        answer = line.getresponse()
        found = answer.read()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, (json.loads(found) if is_json and not raw else found)

    return send


def wait(call, job, timeout=60):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        status, job = call("GET", f"/jobs/{job['id']}")
        assert status == 200
        if job["state"] in ("done", "failed", "cancelled"):
            return job
        time.sleep(0.05)
    raise AssertionError(job)


def test_the_whole_way(call, place, tmp_path):
    status, job = call(
        "POST", "/jobs", {"model": "tiny", "prompt": "red apple", "seed": 3, "count": 2}
    )
    assert status == 202 and job["title"] == "red apple × 2"
    job = wait(call, job)
    assert job["state"] == "done" and job["progress"] == 1 and len(job["results"]) == 2
    path = job["results"][1]["url"].removeprefix("/api/v1")
    status, data = call("GET", path)
    assert status == 200
    (tmp_path / "x.png").write_bytes(data)
    inside = read_request(tmp_path / "x.png")
    assert (inside["seed"], inside["prompt"]) == (4, "red apple")
    # What was written is a request again, and makes the same bytes.
    again = wait(call, call("POST", "/jobs", inside)[1])
    assert call("GET", again["results"][0]["url"].removeprefix("/api/v1"))[1] == data
    assert [j["id"] for j in call("GET", "/jobs")[1]["jobs"]] == [again["id"], job["id"]]
    place.gallery.delete(job["results"][1]["id"])
    assert call("GET", path)[0] == 410


def test_several_requests_are_one_job(call):
    rows = [{"model": "tiny", "prompt": "rocket", "seed": s} for s in (1, 2)]
    job = wait(call, call("POST", "/jobs", {"requests": rows})[1])
    assert len(job["results"]) == 2


def test_an_uploaded_picture_is_varied(call):
    file = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(file, "PNG")
    status, kept = call("POST", "/inputs", file.getvalue())
    assert (status, kept) == (201, {"input": hashlib.sha256(file.getvalue()).hexdigest()})
    body = {"model": "tiny", "prompt": "rocket", "input": kept["input"], "strength": 0.5}
    assert wait(call, call("POST", "/jobs", body)[1])["state"] == "done"


def test_events_tell_every_change_until_the_end(call):
    job = call("POST", "/jobs", {"model": "grid", "prompt": "rocket", "seed": 1})[1]
    status, text = call("GET", f"/jobs/{job['id']}/events")
    events = [json.loads(line[6:]) for line in text.decode().splitlines() if line[:5] == "data:"]
    shares = [event["progress"] for event in events]
    assert status == 200 and events[-1]["state"] == "done" and shares == sorted(shares)
    assert len(events) > 2


def test_cancelling(call, place):
    job = call("POST", "/jobs", {"model": "grid", "prompt": "rocket", "count": 100})[1]
    while place.queue.get(job["id"]).state == "queued":
        time.sleep(0.01)
    assert call("DELETE", f"/jobs/{job['id']}")[0] == 200
    assert wait(call, job, 20)["state"] == "cancelled"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/models"), ("GET", "/jobs"), ("POST", "/jobs"), ("POST", "/inputs"),
        ("GET", "/jobs/x"), ("DELETE", "/jobs/x"), ("GET", "/jobs/x/events"),
        ("GET", "/jobs/x/results/0"),
    ],
)  # fmt: skip
def test_everything_wants_the_token(call, method, path):
    for token in (None, "", "wrong", "é"):
        headers = None if token is None else {"Authorization": f"Bearer {token}".encode()}
        status, answer = call(method, path, token=None, headers=headers)
        assert status == 401 and "token" in answer["error"]
    assert call("GET", "/health", token=None)[0] == 200
    assert call("GET", "/openapi.json", token=None)[0] == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no valid JSON"),
        (b"\xff", "no valid JSON"),
        (b"[" * 100_000, "no valid JSON"),
        (b'{"seed": NaN}', "no valid JSON"),
        ([1], "must be a JSON object"),
        ({"requests": []}, "a list of 1 to 100"),
        ({"requests": [{}] * 101}, "a list of 1 to 100"),
        ({"model": "tiny", "prompt": ""}, "prompt of 0 characters"),
        ({"model": "../tiny", "prompt": "x"}, "model"),
        ({"model": "models/tiny", "prompt": "x"}, "is not here"),
        ({"model": "tiny", "prompt": "x", "count": 1024}, "between 1 and 100"),
        ({"model": "tiny", "prompt": "x", "seed": -1}, "seed -1"),
        ({"model": "tiny", "prompt": "x", "command": "ls"}, "unknown key 'command'"),
        ({"model": "tiny", "prompt": "x", "input": "0" * 64}, "upload the picture first"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(call, place, body, message):
    status, answer = call("POST", "/jobs", body)
    assert status == 400 and message in answer["error"] and "\n" not in answer["error"]
    assert "Traceback" not in answer["error"] and place.queue.jobs() == []


def test_limits(call, place):
    assert call("POST", "/jobs", b" " * (2 << 20))[0] == 413
    with contextlib.suppress(OSError):  # far too long: the server ends the connection at once
        assert call("POST", "/jobs", b" " * (32 << 20))[0] == 413
    assert call("POST", "/inputs", b"x" * 100)[0] == 400
    opened = threading.Event()
    place.queue.submit(Job(lambda job: opened.wait(60), kind="gate", title="gate"))
    body, answers = {"model": "tiny", "prompt": "x"}, []
    for _ in range(MAX_OWNED + 2):
        answers.append(call("POST", "/jobs", body)[0])
    opened.set()
    assert answers.count(202) in (MAX_OWNED, MAX_OWNED + 1) and answers[-1] == 429


@pytest.mark.parametrize(
    "path",
    ["/jobs/x", "/jobs/../../etc/passwd", "/jobs/%2e%2e%2fetc", "/jobs/x/results/0", "/nothing",
     "/jobs/x/events", "/../../v1"],
)  # fmt: skip
def test_what_is_not_there(call, path):
    assert call("GET", path)[0] == 404


def test_results_that_are_not_there(call):
    job = wait(call, call("POST", "/jobs", {"model": "tiny", "prompt": "x"})[1])
    for index in ("1", "-1", "x", "99999999999", "٣"):
        quoted = index if index.isascii() else "%D9%A3"
        assert call("GET", f"/jobs/{job['id']}/results/{quoted}")[0] == 404
    assert call("PUT", f"/jobs/{job['id']}")[0] == 405


def test_models_and_description(call):
    models = {row["name"]: row for row in call("GET", "/models")[1]["models"]}
    assert models["tiny"]["generators"] == ["autoregressive", "masked"]
    description = call("GET", "/openapi.json")[1]
    assert description["openapi"] == "3.1.0" and "/jobs/{id}/events" in description["paths"]
    from studio.pipelines.request import Request

    known = set(description["components"]["schemas"]["Request"]["properties"])
    assert known == set(Request.__dataclass_fields__)


def test_a_long_queue_is_listed_at_once(call, place):
    opened = threading.Event()
    place.queue.submit(Job(lambda job: opened.wait(60), kind="gate", title="gate"))
    for i in range(200):
        place.queue.submit(Job(lambda job: None, kind="test", title="x", owner=f"owner {i % 5}"))
    start = time.monotonic()
    status, answer = call("GET", "/jobs")
    assert status == 200 and time.monotonic() - start < 1
    assert [job["ahead"] for job in answer["jobs"]] == list(range(200, 100, -1))
    opened.set()
