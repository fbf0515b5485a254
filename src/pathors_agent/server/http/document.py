"""The OpenAPI document: the parameters, bodies and answers of each operation."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from pathors_agent.server.http.bodies import (
    DEFAULT_PAGE_SIZE,
    ID_SCHEMA,
    MAX_LIMIT,
    MAX_PAGE,
    MAX_SEARCHED,
    CompletionAnswer,
    CompletionChunk,
    CreateBody,
    Created,
    EndBody,
    Ended,
    ErrorBody,
    Health,
    ListAnswer,
    ModelAnswer,
    ModelsAnswer,
    RenameBody,
    Renamed,
    SearchAnswer,
    SearchBody,
    SessionAnswer,
)
from pathors_agent.server.http.completion import CompletionRequest


def _id_header(name: str, said: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": said, "schema": ID_SCHEMA}


COMPLETION_HEADERS = [
    _id_header("X-Session-ID", "The session to go on with; without it a new one is made."),
    _id_header(
        "Idempotency-Key",
        "A repeat with this key and the same body gets the same answer, for 24 hours, and after a"
        " failure runs no tool of the project again.",
    ),
    {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "With an Idempotency-Key: the id of the last event that the client has. The"
        " events after it are sent; all of them if the id is of another answer.",
        "schema": {"type": "string"},
    },
]


def _count(name: str, default: int, most: int) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return {"name": name, "in": "query", "schema": schema}


_PAGE_PARAMETERS = [
    _count("page", 1, MAX_PAGE),
    _count("pageSize", DEFAULT_PAGE_SIZE, MAX_LIMIT),
    {"name": "search", "in": "query", "schema": {"type": "string", "maxLength": MAX_SEARCHED}},
]
_ERRORS = {
    400: "The body, a header or the query does not fit; `details` name each bad field",
    401: "The key is missing, unknown, revoked, or of another project",
    404: "There is no such session, or nothing at this address",
    408: "The body came too slowly",
    409: "The session or the Idempotency-Key is in use, or the session has other content",
    413: "The body is too large",
    415: "The body is not application/json, or is compressed",
    422: "The Idempotency-Key was used with another body",
    429: "Too many turns at once, here or at the model",
    500: "A fault of the server",
    502: "The model behind failed",
    503: "The server is stopping, or its database is away",
    504: "The model behind did not answer in time",
}
_ALWAYS = (400, 401, 404, 500, 503)
_WITH_BODY = (408, 413, 415)
_RETRY_AFTER = {
    "Retry-After": {
        "description": "The seconds after which to come again, where that is known.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_CHALLENGE = {
    "WWW-Authenticate": {
        "description": "How to authenticate.",
        "schema": {"type": "string", "const": "Bearer"},
    }
}
_ERROR_HEADERS = {401: _CHALLENGE, 409: _RETRY_AFTER, 429: _RETRY_AFTER, 503: _RETRY_AFTER}


def _json_of(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a body by reference: FastAPI would build a validator for each use of a model."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}


def _error(status: int) -> dict[str, Any]:
    headers = {"headers": _ERROR_HEADERS[status]} if status in _ERROR_HEADERS else {}
    return {"description": _ERRORS[status], "content": _json_of(ErrorBody), **headers}


def about(
    summary: str,
    description: str,
    answer: type[BaseModel] | None,
    body: type[BaseModel] | None = None,
    *statuses: int,
) -> dict[str, Any]:
    """Return how an operation is documented; without an `answer`, all but its success."""
    statuses = (*_ALWAYS, *(_WITH_BODY if body else ()), *statuses)
    ok = {"description": answer.__doc__, "model": answer} if answer else {}
    extra: dict[str, Any] = {}
    if body:
        extra["requestBody"] = {"required": True, "content": _json_of(body)}
    return {
        "summary": summary,
        "description": description,
        "responses": {200: ok, **{status: _error(status) for status in sorted(statuses)}},
        "openapi_extra": extra,
        "response_model": None,
    }


# OpenAPI 3.1 cannot describe the items of a stream: this is the schema of each parsed event.
_IN_EVENTS = [{"$ref": f"#/components/schemas/{name}"} for name in ("CompletionChunk", "ErrorBody")]
_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "data": {
            "anyOf": [
                {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": {"anyOf": _IN_EVENTS},
                },
                {"const": "[DONE]"},
            ]
        }
    },
}
COMPLETION = about(
    "Complete a chat",
    "Whole or as a stream. Tools that come with the request are called by the client.",
    CompletionAnswer,
    CompletionRequest,
    *(409, 422, 429, 502, 504),
)
COMPLETION["openapi_extra"]["parameters"] = COMPLETION_HEADERS
SESSION_HEADERS: dict[str, Any] = {
    "X-Session-ID": {"description": "The session.", "required": True, "schema": ID_SCHEMA},
    "X-Session-Rewound": {
        "description": "How many stored messages an edited history replaced; absent without.",
        "schema": {"type": "integer", "minimum": 1},
    },
}
COMPLETION["responses"][200] |= {
    "description": "A completion; with `stream`, events: after the last chunk `[DONE]`, or an error",
    "headers": SESSION_HEADERS,
    "content": {"text/event-stream": {"schema": _EVENT}},
}
MODELS = about("List models", "The project's one model.", ModelsAnswer)
MODEL = about("Query a model", "Whether the project has it.", ModelAnswer)
CREATE = about("Create a session", "With variables for the instructions.", Created, CreateBody, 409)
QUERY = about("Query a session", "Its variables and messages.", SessionAnswer)
SEARCH = about("Search sessions", "By a text in the JSON of their data.", SearchAnswer, SearchBody)
RENAME = about(
    "Rename a session", "A session is named by its first words until then.", Renamed, RenameBody
)
END = about("End a session", "Deletes its variables and messages permanently.", Ended, EndBody)
LIST = about("List sessions", "Newest first, ended ones too.", ListAnswer)
LIST["openapi_extra"]["parameters"] = _PAGE_PARAMETERS


def _about_health(summary: str, *statuses: int) -> dict[str, Any]:
    answers: dict[int, Any] = {200: {"description": Health.__doc__, "model": Health}}
    return {
        "summary": summary,
        "responses": answers | {status: _error(status) for status in statuses},
        "openapi_extra": {"security": []},
        "response_model": None,
    }


HEALTHZ = _about_health("Is the process alive?")
READYZ = _about_health("Can requests be answered now?", 503)

# Models that the operations use in places that FastAPI does not search.
_MORE = (CompletionRequest, CompletionChunk, CreateBody, SearchBody, EndBody, ErrorBody)


def describe(app: FastAPI, bodies: Sequence[type[BaseModel]] = ()) -> None:
    """Complete the document that FastAPI makes: request bodies, and how to authenticate.

    `bodies` are the request bodies of operations that this module does not know.
    """
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            _complete(make(), (*_MORE, *bodies))
        return make()

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this way


def _complete(document: dict[str, Any], bodies: Sequence[type[BaseModel]]) -> None:
    schemas = document["components"]["schemas"]
    for model in bodies:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    for name in _VALIDATION_ERRORS:
        schemas.pop(name, None)
    document["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "A project's key, `sk_...`."}
    }
    document["security"] = [{"key": []}]
    for operations in document["paths"].values():
        for operation in operations.values():
            _complete_operation(operation)


# FastAPI's own answer to invalid values, which it never checks here.
_VALIDATION_ERRORS = ("HTTPValidationError", "ValidationError")
_PATH = {"project_id": {"type": "string"}, "session_id": ID_SCHEMA, "model_id": {"type": "string"}}


def _complete_operation(operation: dict[str, Any]) -> None:
    said = operation["responses"].get("422")
    if said and _VALIDATION_ERRORS[0] in str(said):
        del operation["responses"]["422"]
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter["schema"] = _PATH[parameter["name"]]
