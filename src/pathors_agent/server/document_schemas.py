"""The shapes of bodies in the OpenAPI document, and nothing else: values are checked elsewhere."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from pathors_agent.server.completion_request import MAX_SESSION_ID
from pathors_agent.server.sessions import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    MAX_OFFSET,
    MAX_PROVIDER,
    MAX_SEARCHED,
)

# Visible ASCII characters, without the space.
VISIBLE = "^[!-~]+$"
ID_SCHEMA: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_SESSION_ID,
    "pattern": VISIBLE,
}

_SessionId = Annotated[str, Field(min_length=1, max_length=MAX_SESSION_ID, pattern=VISIBLE)]


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


# - a request for a completion -


class FunctionBody(BaseModel):
    """A tool's function; `parameters` is a JSON Schema of an object."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class ToolBody(BaseModel):
    """A tool that the client runs."""

    type: Literal["function"]
    function: FunctionBody


class TextPart(BaseModel):
    """A text in a list of parts."""

    type: Literal["text"]
    text: str


class OtherPart(BaseModel):
    """Of another type, as "image_url": passed on to the model as it is."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(min_length=1, json_schema_extra={"not": {"const": "text"}})


_Content = str | list[TextPart | OtherPart] | None


class CalledFunction(BaseModel):
    """What a call is of; the arguments are a JSON text."""

    name: str
    arguments: str


class SentCall(BaseModel):
    """A call that the client sends back as it came."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(min_length=1)
    function: CalledFunction


class SystemBody(BaseModel):
    """Instructions."""

    role: Literal["system", "developer"]
    content: _Content = None
    name: str | None = None


class UserBody(BaseModel):
    """What the user says."""

    role: Literal["user"]
    content: _Content = None
    name: str | None = None


class AssistantBody(BaseModel):
    """What the model said before."""

    role: Literal["assistant"]
    content: _Content = None
    refusal: str | None = None
    tool_calls: list[SentCall] | None = None
    function_call: CalledFunction | None = None


class ToolResultBody(BaseModel):
    """The result of a call."""

    role: Literal["tool"]
    content: _Content = None
    tool_call_id: str = Field(min_length=1)


class FunctionResultBody(BaseModel):
    """The result of a function, for clients that send `functions`."""

    role: Literal["function"]
    content: _Content = None
    name: str


class StreamOptions(BaseModel):
    """What a stream holds beside the answer."""

    include_usage: bool | None = None
    include_reasoning: bool | None = None
    include_tool_activity: bool | None = None


class CompletionBody(BaseModel):
    """A request for a chat completion; other fields of OpenAI's are ignored."""

    model_config = ConfigDict(extra="allow")

    messages: list[SystemBody | UserBody | AssistantBody | ToolResultBody | FunctionResultBody] = (
        Field(min_length=1)
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    session_id: _SessionId | None = None
    include_reasoning: bool | None = None
    tools: list[ToolBody] | None = None
    functions: list[FunctionBody] | None = None
    function_call: Literal["none", "auto"] | dict[str, JsonValue] | None = None
    model: str | None = None
    n: Literal[1] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: str | Annotated[list[str], Field(min_length=1)] | None = None
    tool_choice: Literal["none", "auto", "required", "any"] | dict[str, JsonValue] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    response_format: dict[str, JsonValue] | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    service_tier: str | None = None
    user: str | None = None
    verbosity: str | None = None


# - a completion -


class CallBody(BaseModel):
    """A tool call; `approval` is there when it waits for a person's yes."""

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


class Choice(BaseModel):
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


class Counts(BaseModel):
    """Tokens: -1 for an unknown count, and no details where the provider reported none."""

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
    choices: list[Choice]
    usage: Counts
    session_id: str


class CallPart(CallBody):
    """A tool call whole, and its place among those of the answer."""

    index: int


class DeltaBody(BaseModel):
    """What a chunk adds to the message."""

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
    usage: Counts | None = None
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


class CreateBody(BaseModel):
    """A session to create."""

    session_id: _SessionId
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
    """Which of the results these are.

    `count` is the number of results in this page: a page also ends before it is too large. The next
    page begins at `offset` + `count`.
    """

    limit: int
    offset: int
    count: int
    total: int


class SearchAnswer(BaseModel):
    """The sessions found, newest update first."""

    results: list[Found]
    pagination: SearchPages


class EndBody(BaseModel):
    """The session to end."""

    session_id: _SessionId


class Ended(BaseModel):
    """A session that is gone."""

    success: Literal[True]
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
