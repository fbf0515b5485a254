"""What the OpenAPI document says of each endpoint. The values are checked elsewhere."""

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from pathors_agent.server.completion_request import MAX_SESSION_ID
from pathors_agent.server.sessions import (
    DEFAULT_LIMIT,
    DEFAULT_PAGE_SIZE,
    MAX_LIMIT,
    MAX_OFFSET,
    MAX_PAGE,
    MAX_PROVIDER,
    MAX_SEARCHED,
)

# Visible ASCII characters, without the space.
_VISIBLE = "^[!-~]+$"


class ErrorDetail(BaseModel):
    """What was wrong; `details` names each bad field."""

    message: str
    type: str
    param: str | None
    code: str | None
    details: list[str]


class ErrorBody(BaseModel):
    """The body of every answer with an error status."""

    error: ErrorDetail


class FunctionBody(BaseModel):
    """A tool's function."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class ToolBody(BaseModel):
    """A tool that the client runs."""

    type: str = Field("function", pattern="^function$")
    function: FunctionBody


class CalledFunction(BaseModel):
    """What a call is of; the arguments are a JSON text."""

    name: str
    arguments: str


class CallBody(BaseModel):
    """A tool call; `approval` is there when it waits for a person's yes."""

    id: str
    type: str
    function: CalledFunction
    approval: dict[str, str] | None = None


class MessageBody(BaseModel):
    """A message of the conversation."""

    model_config = ConfigDict(extra="allow")

    role: str = Field(pattern="^(system|developer|user|assistant|tool)$")
    content: str | list[dict[str, JsonValue]] | None = None
    tool_calls: list[CallBody] | None = None
    tool_call_id: str | None = None


class CompletionBody(BaseModel):
    """A request for a chat completion; OpenAI's other fields go to the model."""

    model_config = ConfigDict(extra="allow")

    messages: list[MessageBody] = Field(min_length=1)
    stream: bool = False
    session_id: str | None = Field(None, min_length=1, max_length=MAX_SESSION_ID, pattern=_VISIBLE)
    tools: list[ToolBody] | None = None
    model: str | None = None


class AnswerMessage(BaseModel):
    """The model's message."""

    role: str
    content: str | None
    refusal: str | None
    tool_calls: list[CallBody] | None = None


class Choice(BaseModel):
    """The one choice of a completion."""

    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: str


class Counts(BaseModel):
    """Tokens; -1 for what is unknown."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionAnswer(BaseModel):
    """A whole completion."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Choice]
    usage: Counts
    session_id: str


class CallPart(CallBody):
    """A tool call whole, and its place among those of the answer."""

    index: int


class DeltaBody(BaseModel):
    """What a chunk adds to the message."""

    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[CallPart] | None = None


class ChunkChoice(BaseModel):
    """The one choice of a chunk; the last has the reason."""

    index: int
    delta: DeltaBody
    logprobs: None
    finish_reason: str | None


class CompletionChunk(BaseModel):
    """A piece of a streamed completion; one with the usage has no choice."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Counts | None = None
    tool_activity: dict[str, JsonValue] | None = None
    session_id: str


class CreateBody(BaseModel):
    """A session to create."""

    session_id: str = Field(min_length=1, max_length=MAX_SESSION_ID, pattern=_VISIBLE)
    variables: dict[str, JsonValue] | None = None
    provider: str | None = Field(None, max_length=MAX_PROVIDER)


class Created(BaseModel):
    """A session that was created; `pathwayId` is the project's id."""

    sessionId: str  # noqa: N815  (the API's name)
    pathwayId: str  # noqa: N815


class SessionData(BaseModel):
    """What a session holds."""

    variables: dict[str, JsonValue]
    messages: list[dict[str, JsonValue]]


class SessionAnswer(BaseModel):
    """A session whole; `state` and `data` are the same."""

    sessionId: str  # noqa: N815
    state: SessionData
    data: SessionData
    createdAt: str  # noqa: N815
    updatedAt: str  # noqa: N815


class SearchBody(BaseModel):
    """What to look for; case counts."""

    search_string: str = Field(max_length=MAX_SEARCHED)
    limit: int | None = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)
    offset: int | None = Field(0, ge=0, le=MAX_OFFSET)


class Found(BaseModel):
    """A session that was found."""

    sessionId: str  # noqa: N815
    data: SessionData
    createdAt: str  # noqa: N815
    updatedAt: str  # noqa: N815


class SearchPages(BaseModel):
    """Which of the results these are."""

    limit: int
    offset: int
    total: int


class SearchAnswer(BaseModel):
    """The sessions found, newest update first."""

    results: list[Found]
    pagination: SearchPages


class EndBody(BaseModel):
    """The session to end."""

    session_id: str = Field(min_length=1, max_length=MAX_SESSION_ID, pattern=_VISIBLE)


class Ended(BaseModel):
    """A session that is gone."""

    success: bool
    sessionId: str  # noqa: N815
    message: str


class Summary(BaseModel):
    """A line in the list of sessions."""

    sessionId: str  # noqa: N815
    startTime: str  # noqa: N815
    endTime: str | None  # noqa: N815
    provider: str
    messageCount: int  # noqa: N815


class ListPages(BaseModel):
    """Which page this is."""

    page: int
    totalPages: int  # noqa: N815
    total: int


class ListAnswer(BaseModel):
    """A page of sessions, newest first."""

    data: list[Summary]
    pagination: ListPages


class Health(BaseModel):
    """All is well."""

    status: Literal["ok"]


# - what an operation takes and gives -


def _id_header(name: str, said: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1, "maxLength": MAX_SESSION_ID, "pattern": _VISIBLE}
    return {"name": name, "in": "header", "description": said, "schema": schema}


_COMPLETION_HEADERS = [
    _id_header("X-Session-ID", "The session to go on with; without it a new one is made."),
    _id_header(
        "Idempotency-Key",
        "A repeat with this key and the same body gets the same answer, for 24 hours.",
    ),
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
    415: "The body is not application/json",
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


def _error(status: int) -> dict[str, Any]:
    headers = {"headers": _ERROR_HEADERS[status]} if status in _ERROR_HEADERS else {}
    return {"description": _ERRORS[status], "model": ErrorBody, **headers}


def _about(
    summary: str,
    description: str,
    answer: type[BaseModel],
    body: type[BaseModel] | None = None,
    *statuses: int,
) -> dict[str, Any]:
    statuses = (*_ALWAYS, *(_WITH_BODY if body else ()), *statuses)
    ok = {"description": answer.__doc__, "model": answer}
    extra: dict[str, Any] = {}
    if body:
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
        extra["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return {
        "summary": summary,
        "description": description,
        "responses": {200: ok, **{status: _error(status) for status in sorted(statuses)}},
        "openapi_extra": extra,
        "response_model": None,
    }


COMPLETION = _about(
    "Complete a chat",
    "Answer as a stream or whole. Tools that come with the request are called by the client.",
    CompletionAnswer,
    CompletionBody,
    *(409, 422, 429, 502, 504),
)
COMPLETION["openapi_extra"]["parameters"] = _COMPLETION_HEADERS
COMPLETION["responses"][200] |= {
    "description": "A completion; with `stream`, events whose `data` are `CompletionChunk`s, or an "
    "`ErrorBody` as the last, and `[DONE]` after the last chunk",
    "headers": {
        "X-Session-ID": {
            "description": "The session.",
            "required": True,
            "schema": {"type": "string", "maxLength": MAX_SESSION_ID, "pattern": _VISIBLE},
        }
    },
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
CREATE = _about(
    "Create a session", "With variables for the instructions.", Created, CreateBody, 409
)
QUERY = _about("Query a session", "Its variables and messages.", SessionAnswer)
SEARCH = _about("Search sessions", "By a text in the JSON of their data.", SearchAnswer, SearchBody)
END = _about("End a session", "Its variables and messages are gone for good.", Ended, EndBody)
LIST = _about("List sessions", "Newest first, ended ones too.", ListAnswer)
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

# Named by the operations above, and not where FastAPI looks.
_MORE = (CompletionBody, CompletionChunk, CreateBody, SearchBody, EndBody)


def describe(app: FastAPI) -> None:
    """Complete the document that FastAPI makes: request bodies, and how to authenticate."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            _complete(make())
        return make()

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this way


def _complete(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for model in _MORE:
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


# FastAPI's own answer to values that it checks; it checks none here.
_VALIDATION_ERRORS = ("HTTPValidationError", "ValidationError")
_PATH = {
    "project_id": {"type": "string"},
    "session_id": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_SESSION_ID,
        "pattern": _VISIBLE,
    },
}


def _complete_operation(operation: dict[str, Any]) -> None:
    said = operation["responses"].get("422")
    if said and _VALIDATION_ERRORS[0] in str(said):
        del operation["responses"]["422"]
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter["schema"] = _PATH[parameter["name"]]
