"""The REST API: submit, look, listen, fetch, cancel, on the queue that the app uses.

Every call but the description and the health check wants `Authorization: Bearer TOKEN`; the token
is in the workspace's `api-token`. Errors are `{"error": "one line"}`. Leaves out on purpose:
cookies, so that no page on the web can speak for a visitor, and a page of documentation, whose
scripts would come from the net.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as Call
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from studio import __version__
from studio.pipelines.request import MAX_TEXT, Request
from studio.server.job_queue import QueueFull
from studio.server.jobs import Job
from studio.server.making import MAX_SAMPLES
from studio.server.openapi import description
from studio.server.studio import Studio, current
from studio.server.workspace import MAX_PICTURE

logger = logging.getLogger(__name__)
MAX_BODY = 16 * MAX_TEXT
_POLL, _BEAT = 0.1, 15.0  # seconds between looks at a job, and between signs of life
_DRAINED = 4 << 20  # bytes of too long a body that are read all the same
_OWNER = "api"

Handler = Callable[[Call, Studio], Awaitable[Response]]


def make_api(studio: Studio | None = None) -> Starlette:
    """The API as an ASGI application, to be mounted.

    Args:
        studio: whose queue it is; the process's when None.
    """

    def guarded(handler: Handler) -> Callable[[Call], Awaitable[Response]]:
        async def handle(call: Call) -> Response:
            place = studio or current()
            _check_token(call, place.workspace.token())
            try:
                return await handler(call, place)
            except QueueFull as error:
                raise HTTPException(429, str(error), {"Retry-After": "5"}) from None
            except ValueError as error:
                raise HTTPException(400, str(error)) from None

        return handle

    routes = [
        Route("/health", _health),
        Route("/openapi.json", _openapi),
        Route("/models", guarded(_models)),
        Route("/inputs", guarded(_inputs), methods=["POST"]),
        Route("/jobs", guarded(_list), methods=["GET"]),
        Route("/jobs", guarded(_submit), methods=["POST"]),
        Route("/jobs/{id}", guarded(_status), methods=["GET"]),
        Route("/jobs/{id}", guarded(_cancel), methods=["DELETE"]),
        Route("/jobs/{id}/events", guarded(_events)),
        Route("/jobs/{id}/results/{index}", guarded(_result)),
    ]
    return Starlette(
        routes=[Mount("/v1", routes=routes)],
        exception_handlers={HTTPException: _failed, Exception: _broken},
    )


def _check_token(call: Call, token: str) -> None:
    kind, _, given = call.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise HTTPException(
            401, "the token is missing or wrong: Authorization: Bearer TOKEN",
            {"WWW-Authenticate": "Bearer"},
        )  # fmt: skip


async def _failed(call: Call, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = " ".join(str(error.detail).split())[:600]
    return JSONResponse({"error": text}, error.status_code, error.headers)


async def _broken(call: Call, error: Exception) -> Response:
    return JSONResponse({"error": "something went wrong here; the log says more"}, 500)


async def _body(call: Call, limit: int) -> bytes:
    """A call's body. Raises 413 when it is too long; what is not far too long is read to its end,
    as many clients read no answer before they have sent all."""
    length = call.headers.get("content-length", "0")
    found, size = [], int(length) if length.isdigit() else 0
    if size <= limit + _DRAINED:
        size = 0
        async for piece in call.stream():
            size += len(piece)
            if size <= limit:
                found.append(piece)
            elif size > limit + _DRAINED:
                break
    if size > limit:
        # There may be a rest that is not read; the connection can't be used again.
        raise HTTPException(413, f"body is more than {limit} bytes", {"Connection": "close"})
    return b"".join(found)


def _job(call: Call, studio: Studio) -> Job:
    job = studio.queue.get(call.path_params["id"])
    if job is None:
        raise HTTPException(404, "there is no such job")
    return job


def _shown(job: Job, studio: Studio) -> dict[str, Any]:
    """A job as answers have it: with how many come before it, and where its results are."""
    snapshot = job.snapshot()
    place = f"/api/v1/jobs/{job.id}"
    shown = snapshot.to_dict() | {"ahead": studio.queue.ahead(job.id)}
    shown["results"] = [
        {"id": name, "url": f"{place}/results/{i}"}
        for i, name in enumerate(snapshot.results)
        if name
    ]
    return shown


# --- routes --------------------------------------------------------------------------------------


async def _health(call: Call) -> Response:
    return JSONResponse({"status": "ok", "version": __version__})


async def _openapi(call: Call) -> Response:
    return JSONResponse(description())


async def _models(call: Call, studio: Studio) -> Response:
    entries = await asyncio.to_thread(studio.keeper.entries)
    rows = [
        {
            "name": entry.name,
            "medium": entry.medium,
            "pipeline": entry.pipeline or None,
            "tokenizer": entry.tokenizer,
            "generators": list(entry.generators),
            "bytes": entry.bytes,
        }
        for entry in entries
    ]
    return JSONResponse({"models": rows})


async def _inputs(call: Call, studio: Studio) -> Response:
    data = await _body(call, MAX_PICTURE)
    name = await asyncio.to_thread(studio.workspace.keep_input, data)
    return JSONResponse({"input": name}, 201)


async def _list(call: Call, studio: Studio) -> Response:
    return JSONResponse({"jobs": [_shown(job, studio) for job in studio.queue.jobs()[:100]]})


async def _submit(call: Call, studio: Studio) -> Response:
    requests = read_requests(await _body(call, MAX_BODY))
    job = await asyncio.to_thread(studio.generate, requests, owner=_OWNER)
    place = {"Location": f"/api/v1/jobs/{job.id}"}
    return JSONResponse(_shown(job, studio), 202, place)


async def _status(call: Call, studio: Studio) -> Response:
    return JSONResponse(_shown(_job(call, studio), studio))


async def _cancel(call: Call, studio: Studio) -> Response:
    job = _job(call, studio)
    studio.queue.cancel(job.id)
    return JSONResponse(_shown(job, studio))


async def _result(call: Call, studio: Studio) -> Response:
    results, index = _job(call, studio).snapshot().results, call.path_params["index"]
    number = int(index) if index.isascii() and index.isdigit() and len(index) < 6 else len(results)
    if number >= len(results) or not results[number]:
        there = sum(1 for name in results if name)
        raise HTTPException(404, f"the job has {there} results so far, and not this one")
    item = studio.gallery.get(results[number])
    path = None if item is None else studio.gallery.path(item)
    if item is None or path is None or not path.is_file():
        raise HTTPException(410, "that result was deleted")
    headers = {"X-Content-Type-Options": "nosniff"}
    return FileResponse(path, media_type=item.mime, headers=headers)


async def _events(call: Call, studio: Studio) -> Response:
    job = _job(call, studio)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_told(job, studio), media_type="text/event-stream", headers=headers)


async def _told(job: Job, studio: Studio) -> AsyncIterator[str]:
    """A job's changes as server-sent events, until it is over."""
    version, quiet = -1, 0.0
    while True:
        snapshot = job.snapshot()
        if snapshot.version != version:
            version, quiet = snapshot.version, 0.0
            yield f"event: job\ndata: {json.dumps(_shown(job, studio))}\n\n"
            if snapshot.finished:
                return
        elif quiet > _BEAT:
            quiet = 0.0
            yield ": still there\n\n"
        await asyncio.sleep(_POLL)
        quiet += _POLL


def read_requests(body: bytes) -> list[Request]:
    """The requests of a body: one object, or `{"requests": [...]}`.

    Raises:
        ValueError: one line.
    """
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise ValueError("body is no valid JSON in UTF-8") from None
    if isinstance(data, dict) and set(data) == {"requests"}:
        rows = data["requests"]
        if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_SAMPLES:
            raise ValueError(f"requests must be a list of 1 to {MAX_SAMPLES}")
        return [Request.from_dict(row) for row in rows]
    return [Request.from_dict(data)]


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not allowed")
