"""The bodies of requests and answers: one model each, which checks a request and documents it."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from pathors_agent.server.http.problems import bad_request
from pathors_agent.stores.texts import MAX_TITLE
from pathors_agent.stores.values import MAX_SESSION_ID, session_id_problem

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
# The most entries of a page of a list.
DEFAULT_PAGE_SIZE = 20
# SQLite and PostgreSQL count rows in 64 bits.
MAX_OFFSET = 2**53
MAX_PAGE = MAX_OFFSET // MAX_LIMIT
MAX_PROVIDER = 255
# The time of a search grows with the length of its text, and a database cannot interrupt it.
MAX_SEARCHED = 1_000

# Visible ASCII characters, without the space.
VISIBLE = "^[!-~]+$"
ID_SCHEMA: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_SESSION_ID,
    "pattern": VISIBLE,
}

BodyT = TypeVar("BodyT", bound="RequestBody")

# - checks of a request -


class RequestBody(BaseModel):
    """A request's body. Unknown fields are ignored, and a field that is null counts as absent."""

    model_config = ConfigDict(strict=True, frozen=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, object]]:
        """Yield nothing: a body contains texts of users."""
        yield from ()

    @classmethod
    def read(cls: type[BodyT], fields: Mapping[str, JsonValue], context: object = None) -> BodyT:
        """Check a body's fields. Raise the 400 `Problem` that names each bad one."""
        given = {name: value for name, value in fields.items() if value is not None}
        try:
            return cls.model_validate(given, context=context)
        except ValidationError as error:
            errors = error.errors()
            is_missing = errors[0]["loc"] == ("session_id",) and not fields.get("session_id")
            if is_missing and cls.model_fields["session_id"].is_required():
                raise bad_request("session_id is required", param="session_id") from None
            is_id = errors[0]["type"] == SESSION_ID
            details = [text for each in errors for text in _details(each, cls)]
            about = "Invalid session id" if is_id else "Invalid request body"
            raise bad_request(about, *details) from None


def _details(error: ErrorDetails, model: type[BaseModel]) -> list[str]:
    """Return the problems of a field in the words of the API."""
    context = error.get("ctx", {})
    if error["type"] == SEVERAL:
        return list(context["details"])
    place = ".".join(map(str, error["loc"]))
    match error["type"]:
        case "missing":
            text = _REQUIRED.get(place, "is required")
        case "literal_error":
            text = f"must be {context['expected']}"
        case "string_too_long":
            text = f"is over {context['max_length']} characters"
        case "greater_than_equal" | "less_than_equal":
            text = _range(model, place)
        case kind:
            text = _KINDS.get(kind, error["msg"])
    return [f"{place}: {text}"]


def _range(model: type[BaseModel], name: str) -> str:
    """Return the documented range of a field's numbers."""
    schema = model.model_json_schema()["properties"][name]
    number = next(iter(schema.get("anyOf", ())), schema)
    if "maximum" not in number:
        return f"must be at least {number['minimum']}"
    return f"must be between {number['minimum']} and {number['maximum']}"


SESSION_ID = "session_id"
SEVERAL = "several"
"""The type of a validator's error that has its own `details`."""

_REQUIRED = {
    "messages": "is required, a list that is not empty",
    "search_string": "is required, a string",
}
_KINDS = {
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "string_unicode": "must not hold half a character",
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "list_type": "must be a list",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
}


def in_words(text: str, kind: type = object) -> WrapValidator:
    """Return a validator that has one text for all errors of a value."""

    def check(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValidationError:
            if not isinstance(value, kind):
                raise
            raise PydanticCustomError("in_words", "{text}", {"text": text}) from None

    return WrapValidator(check)


def whole(value: object) -> object:
    """Return 50 for 50.0, as in JSON Schema: some languages write all numbers with a fraction."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _checked_session_id(text: str) -> str:
    if problem := session_id_problem(text):
        raise PydanticCustomError(SESSION_ID, "{text}", {"text": problem})
    return text


SessionId = Annotated[str, AfterValidator(_checked_session_id), WithJsonSchema(ID_SCHEMA)]
"""The id of a session, which the client chooses."""


# - errors -


class ErrorDetail(BaseModel):
    """The error; `details` names each bad field."""

    message: str
    type: str
    param: str | None
    code: str | None
    details: list[str]


class ErrorBody(BaseModel):
    """The body of every answer with an error status."""

    error: ErrorDetail


# - a completion -


class CalledFunction(BaseModel):
    """The function of a call. The arguments are a JSON text."""

    name: str
    arguments: str


class CallBody(BaseModel):
    """A tool call; it has an `approval` if it waits for a person's approval."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: Literal["function"]
    function: CalledFunction
    approval: dict[str, str] | None = None


FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class AnswerMessage(BaseModel):
    """The model's message."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | None = None
    tool_calls: list[CallBody] | None = None
    function_call: CalledFunction | None = None


class CompletionChoice(BaseModel):
    """The one choice of a completion."""

    index: Literal[0]
    message: AnswerMessage
    logprobs: None
    finish_reason: FinishReason


class PromptCounts(BaseModel):
    """Tokens of the prompt, by kind."""

    cached_tokens: int


class CompletionCounts(BaseModel):
    """Tokens of the completion, by kind."""

    reasoning_tokens: int


class TokenCounts(BaseModel):
    """Tokens: -1 for an unknown count, and no details if the provider reported none."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptCounts | None = None
    completion_tokens_details: CompletionCounts | None = None


class CompletionAnswer(BaseModel):
    """A whole completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokenCounts
    session_id: str


class CallPart(CallBody):
    """A whole tool call, and its place among the calls of the answer."""

    index: int


class DeltaBody(BaseModel):
    """The part that a chunk adds to the message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallPart] | None = None
    function_call: CalledFunction | None = None


class ChunkChoice(BaseModel):
    """The one choice of a chunk; the last has the reason."""

    index: Literal[0]
    delta: DeltaBody
    logprobs: None
    finish_reason: FinishReason | None


class CompletionChunk(BaseModel):
    """A piece of a streamed completion; one with the usage has no choice."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: TokenCounts | None = None
    tool_activity: dict[str, JsonValue] | None = None
    session_id: str


# - models -


class ModelAnswer(BaseModel):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelsAnswer(BaseModel):
    """The models of a project: one."""

    object: Literal["list"]
    data: list[ModelAnswer]


# - sessions -


class NamesSession(RequestBody):
    """A body that must name a session."""

    session_id: SessionId


class EndBody(NamesSession):
    """The session to end."""


class CreateBody(NamesSession):
    """A session to create."""

    variables: dict[str, JsonValue] | None = None
    provider: str | None = Field(None, max_length=MAX_PROVIDER)


class RenameBody(RequestBody):
    """The new title of a session."""

    title: Annotated[str, Field(min_length=1, max_length=MAX_TITLE)]


class Renamed(BaseModel):
    """A session that was renamed."""

    sessionId: str  # noqa: N815
    title: str


class Created(BaseModel):
    """A session that was created; `pathwayId` is the project's id."""

    sessionId: str  # noqa: N815  (the API's name)
    pathwayId: str  # noqa: N815


class SessionData(BaseModel):
    """The data of a session."""

    variables: dict[str, JsonValue]
    messages: list[dict[str, JsonValue]]


class SessionAnswer(BaseModel):
    """A whole session. `state` and `data` are the same."""

    sessionId: str  # noqa: N815
    state: SessionData
    data: SessionData
    createdAt: str  # noqa: N815
    updatedAt: str  # noqa: N815


class SearchBody(RequestBody):
    """The text to search for; case-sensitive."""

    search_string: str = Field(max_length=MAX_SEARCHED)
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT), BeforeValidator(whole)] | None = DEFAULT_LIMIT
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET), BeforeValidator(whole)] | None = 0


class FoundSession(BaseModel):
    """A session that was found."""

    sessionId: str  # noqa: N815
    data: SessionData
    createdAt: str  # noqa: N815
    updatedAt: str  # noqa: N815


class SearchPages(BaseModel):
    """The place of a page in the results.

    `count` is the number of results in this page, which may be below `limit`, because the size of a
    page is bounded. The next page begins at `offset` + `count`.
    """

    limit: int
    offset: int
    count: int
    total: int


class SearchAnswer(BaseModel):
    """The sessions found, newest update first."""

    results: list[FoundSession]
    pagination: SearchPages


class Ended(BaseModel):
    """A session that was deleted."""

    success: Literal[True]
    sessionId: str  # noqa: N815
    message: str


class Summary(BaseModel):
    """A line in the list of sessions; an ended session has no title."""

    sessionId: str  # noqa: N815
    startTime: str  # noqa: N815
    endTime: str | None  # noqa: N815
    provider: str
    messageCount: int  # noqa: N815
    title: str


class ListPages(BaseModel):
    """The place of a page in the list."""

    page: int
    totalPages: int  # noqa: N815
    total: int


class ListAnswer(BaseModel):
    """A page of sessions, newest first."""

    data: list[Summary]
    pagination: ListPages


class Health(BaseModel):
    """The server works."""

    status: Literal["ok"]
