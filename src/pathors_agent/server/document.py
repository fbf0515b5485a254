"""What the OpenAPI document says of each endpoint. The values are checked elsewhere."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, JsonValue


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
    session_id: str | None = Field(None, min_length=1, max_length=255, pattern="^[!-~]+$")
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


class CreateBody(BaseModel):
    """A session to create."""

    session_id: str = Field(min_length=1, max_length=255, pattern="^[!-~]+$")
    variables: dict[str, JsonValue] | None = None
    provider: str | None = Field(None, max_length=255)


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

    search_string: str
    limit: int = Field(50, ge=1, le=200)
    offset: int = Field(0, ge=0)


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

    session_id: str = Field(min_length=1, max_length=255, pattern="^[!-~]+$")


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


_SESSION_HEADER = {
    "name": "X-Session-ID",
    "in": "header",
    "description": "The session to go on with; without it a new one is made.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_IDEMPOTENCY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A repeat with this key and the same body gets the same answer, for 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_ANSWERED_SESSION = {
    "X-Session-ID": {"description": "The session.", "schema": {"type": "string"}},
}
_ERRORS = {
    400: "Invalid request",
    401: "Invalid authentication",
    404: "Session not found",
    405: "Method not allowed",
    408: "The body came too slowly",
    409: "The session or the Idempotency-Key is in use",
    413: "The body is too large",
    415: "Not application/json",
    422: "The Idempotency-Key was used with another body",
    429: "Too many turns at once; see Retry-After",
    500: "Internal server error",
    502: "The model failed",
    503: "The server is stopping, or its database is away; see Retry-After",
    504: "The model did not answer in time",
}
_READING = (400, 401, 500, 503)
_WRITING = (*_READING, 408, 413, 415)


def _responses(answer: type[BaseModel], *statuses: int) -> dict[int | str, Any]:
    errors: dict[int | str, Any] = {
        status: {"description": _ERRORS[status], "model": ErrorBody} for status in sorted(statuses)
    }
    return {200: {"model": answer}, **errors}


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _about(answer: type[BaseModel], body: type[BaseModel] | None, *statuses: int) -> dict[str, Any]:
    extra = {"requestBody": _body(body)} if body else {}
    responses = _responses(answer, *(_WRITING if body else _READING), *statuses)
    return {"responses": responses, "openapi_extra": extra, "response_model": None}


_PAGE_PARAMETERS = [
    {"name": name, "in": "query", "schema": {"type": "integer", "minimum": 1, **more}}
    for name, more in {"page": {"maximum": 10**12}, "pageSize": {"maximum": 200}}.items()
] + [{"name": "search", "in": "query", "schema": {"type": "string"}}]

COMPLETION = _about(CompletionAnswer, CompletionBody, 409, 422, 429, 502, 504)
COMPLETION["openapi_extra"]["parameters"] = [_SESSION_HEADER, _IDEMPOTENCY_HEADER]
COMPLETION["responses"][200] |= {
    "headers": _ANSWERED_SESSION,
    "description": "The completion; with `stream`, server-sent events that end with `[DONE]`",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
CREATE = _about(Created, CreateBody, 409)
QUERY = _about(SessionAnswer, None, 404)
SEARCH = _about(SearchAnswer, SearchBody)
END = _about(Ended, EndBody)
LIST = _about(ListAnswer, None)
LIST["openapi_extra"]["parameters"] = _PAGE_PARAMETERS

_BODIES = (CompletionBody, CreateBody, SearchBody, EndBody)


def describe(app: FastAPI) -> None:
    """Complete the document that FastAPI makes: request bodies, and how to authenticate."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        document = make()
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        for model in _BODIES:
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {})
            schemas[model.__name__] = schema
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this way
