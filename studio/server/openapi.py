"""The description of the REST API, OpenAPI 3.1: what `/api/v1/openapi.json` answers."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from studio import __version__
from studio.decoding.modes import MODES
from studio.hub import KINDS
from studio.pipelines.request import MAX_PROMPT, SCHEMA, Request, number_fields
from studio.server.jobs import STATES
from studio.server.making import MAX_SAMPLES

_PATTERNS = {
    "model": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95})?$",
    "revision": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$",
    "input": "^[0-9a-f]{64}$",
    "voice": "^[A-Za-z0-9_-]{1,40}$",
}
_NOTES = {
    "seed": "sample i has seed + i",
    "input": "SHA-256 that POST /inputs answered, of the picture to begin with",
    "strength": "share of the input's tokens that are made anew",
    "num_tokens": "make only so many leading tokens",
}


def request_schema() -> dict[str, Any]:
    """The JSON schema of a `Request`."""
    numbers = number_fields()
    properties: dict[str, Any] = {}
    for field in fields(Request):
        name = field.name
        if name in numbers:
            kind, low, high = numbers[name]
            word = "integer" if kind is int else "number"
            schema: dict[str, Any] = {"type": word, "minimum": low, "maximum": high}
            if name == "count":
                schema["maximum"] = MAX_SAMPLES
        elif name == "schema":
            schema = {"const": SCHEMA}
        elif name == "decoding_options":
            schema = {"type": "object", "maxProperties": 32}
        elif name == "generator":
            schema = {"enum": list(KINDS)}
        elif name == "decoding":
            schema = {"enum": ["Autoregressive", "Masked", "Speculative", *MODES]}
        elif name == "prompt":
            schema = {"type": "string", "minLength": 1, "maxLength": MAX_PROMPT}
        else:
            schema = {"type": "string", "pattern": _PATTERNS[name]}
        if name in _NOTES:
            schema["description"] = _NOTES[name]
        properties[name] = schema
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _job_schema() -> dict[str, Any]:
    result = {
        "type": "object",
        "properties": {"id": {"type": "string"}, "url": {"type": "string"}},
        "required": ["id", "url"],
    }
    number = {"type": "number", "minimum": 0}
    properties = {
        "id": {"type": "string"},
        "kind": {"type": "string"},
        "title": {"type": "string"},
        "state": {"enum": list(STATES)},
        "progress": {**number, "maximum": 1},
        "note": {"type": "string"},
        "seconds": number,
        "seconds_left": {"type": ["number", "null"]},
        "ahead": {"type": "integer", "minimum": 0},
        "results": {"type": "array", "items": result},
        "error": {"type": ["string", "null"]},
        "created": number,
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


def _answer(text: str, schema: dict | None = None, kind: str = "application/json") -> dict:
    if schema is None:
        return {"description": text}
    return {"description": text, "content": {kind: {"schema": schema}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _operation(name: str, summary: str, answers: dict[str, dict], *errors: str, **more) -> dict:
    texts = {
        "400": "not allowed; one line says what",
        "401": "the token is missing or wrong",
        "404": "there is no such thing",
        "410": "it was deleted",
        "413": "the body is too long",
        "429": "too many jobs wait",
    }
    found = {code: _answer(texts[code], _reference("Error")) for code in ("401", *errors)}
    return {"operationId": name, "summary": summary, "responses": answers | found, **more}


def _job_paths() -> dict[str, Any]:
    """The calls about jobs."""
    job = _reference("Job")
    several = {
        "type": "object",
        "additionalProperties": False,
        "required": ["requests"],
        "properties": {
            "requests": {
                "type": "array",
                "items": _reference("Request"),
                "minItems": 1,
                "maxItems": MAX_SAMPLES,
            }
        },
    }
    body = {
        "content": {"application/json": {"schema": {"anyOf": [_reference("Request"), several]}}}
    }
    jobs = {"type": "object", "properties": {"jobs": {"type": "array", "items": job}}}
    identity = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    index = {
        "name": "index",
        "in": "path",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    }
    media = {kind: {"schema": {}} for kind in ("image/png", "image/webp", "audio/wav", "video/mp4")}
    result = {"description": "the file, with its request inside", "content": media}
    return {
        "/jobs": {
            "get": _operation("jobs", "The last 100 jobs", {"200": _answer("jobs", jobs)}),
            "post": _operation(
                "submit", "Make something", {"202": _answer("in the queue", job)},
                "400", "413", "429", requestBody={"required": True, **body},
            ),
        },
        "/jobs/{id}": {
            "parameters": [identity],
            "get": _operation("status", "How a job stands", {"200": _answer("it", job)}, "404"),
            "delete": _operation(
                "cancel", "End a job within a step; results that are there stay",
                {"200": _answer("it", job)}, "404",
            ),
        },
        "/jobs/{id}/events": {
            "parameters": [identity],
            "get": _operation(
                "events", "Server-sent events named job, until the job is over",
                {"200": _answer("events", {"type": "string"}, "text/event-stream")}, "404",
            ),
        },
        "/jobs/{id}/results/{index}": {
            "parameters": [identity, index],
            "get": _operation("result", "One result", {"200": result}, "404", "410"),
        },
    }  # fmt: skip


def _other_paths() -> dict[str, Any]:
    """All other calls."""
    binary = {"content": {"application/octet-stream": {"schema": {}}}}
    kept = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    return {
        "/health": {"get": _open("health", "Whether it is up", {"type": "object"})},
        "/openapi.json": {"get": _open("describe", "This description", {"type": "object"})},
        "/models": {
            "get": _operation("models", "What can be used", {"200": _answer("models", {})})
        },
        "/inputs": {
            "post": _operation(
                "input", "Upload a picture to begin with", {"201": _answer("kept", kept)},
                "400", "413", requestBody=binary,
            )
        },
    }  # fmt: skip


def description() -> dict[str, Any]:
    """The whole description."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "studio", "version": __version__},
        "servers": [{"url": "/api/v1"}],
        "security": [{"token": []}],
        "paths": _other_paths() | _job_paths(),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Request": request_schema(),
                "Job": _job_schema(),
                "Error": {
                    "type": "object",
                    "properties": {"error": {"type": "string"}},
                    "required": ["error"],
                },
            },
        },
    }


def _open(name: str, summary: str, schema: dict) -> dict:
    """An operation that wants no token."""
    answers = {"200": _answer("yes", schema)}
    return {"operationId": name, "summary": summary, "responses": answers, "security": []}
