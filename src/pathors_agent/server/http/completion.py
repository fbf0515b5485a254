"""The bodies of a chat completion: the request, checked and documented, and the answers."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainValidator,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from pathors_agent.errors import ToolDefinitionError, UnreadableDefinition
from pathors_agent.messages import JSONValue, Message
from pathors_agent.server.http.bodies import (
    SEVERAL,
    CalledFunction,
    RequestBody,
    SessionId,
    in_words,
    whole,
)
from pathors_agent.server.http.problems import bad_request
from pathors_agent.server.settings import ServerSettings
from pathors_agent.stores.values import id_problem, session_id_problem
from pathors_agent.tools.registry import ToolRegistry, read_definition
from pathors_agent.tools.tool import Tool
from pathors_agent.wire.chat_completions import ModelOptions
from pathors_agent.wire.messages import read_client_messages

# - messages, as they are documented -


class TextPart(BaseModel):
    """A text in a list of parts."""

    type: Literal["text"]
    text: str


class OtherPart(BaseModel):
    """A part of another type, such as "image_url"; it is passed to the model unchanged."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(min_length=1, json_schema_extra={"not": {"const": "text"}})


_Content = str | list[TextPart | OtherPart] | None


class SentCall(BaseModel):
    """A call that the client sends back unchanged."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(min_length=1)
    function: CalledFunction


class SystemBody(BaseModel):
    """Instructions."""

    role: Literal["system", "developer"]
    content: _Content = None
    name: str | None = None


class UserBody(BaseModel):
    """A message of the user."""

    role: Literal["user"]
    content: _Content = None
    name: str | None = None


class AssistantBody(BaseModel):
    """An earlier answer of the model."""

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


_Messages = Annotated[
    list[SystemBody | UserBody | AssistantBody | ToolResultBody | FunctionResultBody],
    Field(min_length=1),
]


def _read_messages(given: Any, info: ValidationInfo) -> tuple[Message, ...]:
    settings = _settings(info)
    if not isinstance(given, list):
        raise _several("messages: must be a list")
    if not given:
        raise _several("messages: is required, a list that is not empty")
    if len(given) > settings.max_messages:
        raise _several(f"messages: has {len(given)}, more than {settings.max_messages}")
    messages, problems = read_client_messages(_as_tool_messages(given))
    if problems:
        raise _several(*problems)
    return tuple(messages)


def _settings(info: ValidationInfo) -> ServerSettings:
    assert isinstance(info.context, ServerSettings)  # given by `read_request`
    return info.context


def _several(*details: str) -> PydanticCustomError:
    return PydanticCustomError(SEVERAL, "several", {"details": details})


# - tools -


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


def _read_tools(given: Any, info: ValidationInfo) -> ToolRegistry:
    """Read the definitions of `tools`, or of `functions`, which are the inner part of tools."""
    settings = _settings(info)
    name = str(info.field_name)
    if not isinstance(given, list):
        raise _several(f"{name}: must be a list")
    if len(given) > settings.max_tools:
        raise _several(f"{name}: has {len(given)}, more than {settings.max_tools}")
    within = ".function" if name == "tools" else ""
    known = {tool.name for tool in info.data.get("tools", ())}
    tools: dict[str, Tool] = {}
    problems: list[str] = []
    for index, definition in enumerate(given):
        place = f"{name}[{index}]"
        try:
            tool = read_definition(
                definition if within else {"type": "function", "function": definition}
            )
            ToolRegistry([tool])
        except UnreadableDefinition as error:
            inner = error.place if within else error.place.removeprefix(".function")
            problems.append(f"{place}{inner}: {error.problem}")
        except ToolDefinitionError as error:
            problems.append(f"{place}{within}.{error.path}: {error}")
        else:
            if tool.name in known or tools.setdefault(tool.name, tool) is not tool:
                problems.append(f"{place}{within}.name: {tool.name} is the name of another tool")
    if problems:
        raise _several(*problems)
    return ToolRegistry(tools.values())


# - the request -

_Strings = str | Annotated[list[str], Field(min_length=1)]
_Tokens = Annotated[int, Field(ge=1), BeforeValidator(whole)]
_Bias = Annotated[float, Field(ge=-100, le=100)]
_Object = dict[str, JsonValue]
# "any" is Mistral's word for "required".
_ToolChoice = Literal["none", "auto", "required", "any"] | _Object


class StreamOptions(RequestBody):
    """The optional parts of a stream."""

    include_usage: bool | None = None
    include_reasoning: bool | None = None
    include_tool_activity: bool | None = None


class CompletionRequest(RequestBody):
    """A request for a chat completion; other fields of OpenAI's are ignored.

    `tools` and `functions` are external: only the client can run them.
    """

    messages: Annotated[
        tuple[Message, ...], PlainValidator(_read_messages, json_schema_input_type=_Messages)
    ]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    session_id: SessionId | None = None
    include_reasoning: bool | None = None
    rewind: bool | None = Field(
        None,
        description="Replace the session's first message too, if `messages` has no answer. Without"
        " it such messages are a new turn.",
    )
    tools: Annotated[
        ToolRegistry, PlainValidator(_read_tools, json_schema_input_type=list[ToolBody] | None)
    ] = Field(default_factory=ToolRegistry)
    functions: Annotated[
        ToolRegistry, PlainValidator(_read_tools, json_schema_input_type=list[FunctionBody] | None)
    ] = Field(default_factory=ToolRegistry)
    function_call: Annotated[
        Literal["none", "auto"] | _Object | None,
        in_words("must be one of none, auto, or an object"),
    ] = None
    model: str | None = None
    n: Annotated[
        Literal[1] | None, in_words("must be 1, a session has one answer"), BeforeValidator(whole)
    ] = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), BeforeValidator(whole)] | None = None
    stop: Annotated[
        _Strings | None, in_words("must be a string or a list of strings, and not empty")
    ] = None
    tool_choice: Annotated[
        _ToolChoice | None, in_words("must be one of none, auto, required, any, or an object")
    ] = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    response_format: _Object | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[
        dict[str, _Bias] | None, in_words("must hold numbers between -100 and 100", dict)
    ] = None
    service_tier: str | None = None
    user: str | None = None
    verbosity: str | None = None

    @property
    def external_tools(self) -> ToolRegistry:
        """The client's tools, in both forms."""
        return self.tools + self.functions if self.functions else self.tools

    @property
    def shows_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def shows_tool_activity(self) -> bool:
        """Whether a stream reports the project's own tools while they run."""
        return self.stream_options is not None and bool(self.stream_options.include_tool_activity)

    @property
    def asks_for_reasoning(self) -> bool:
        """Whether the client wants the model's reasoning."""
        options = self.stream_options or StreamOptions()
        return bool(self.include_reasoning or options.include_reasoning)

    def model_options(self, base: ModelOptions) -> ModelOptions:
        """Return the project's options, overridden by the client's."""
        if self.model_fields_set.isdisjoint(_OPTIONS):
            return base
        known = {name: getattr(self, name) for name in _KNOWN}
        known["max_tokens"] = self.max_completion_tokens or self.max_tokens
        if self.function_call is not None and self.tool_choice is None:
            known["tool_choice"] = _as_tool_choice(self.function_call)
        if self.functions and self.parallel_tool_calls is None:
            known["parallel_tool_calls"] = False  # an answer holds one `function_call`
        extra = {name: getattr(self, name) for name in _EXTRA}
        options = {name: value for name, value in known.items() if value is not None}
        extra = {name: value for name, value in extra.items() if value is not None}
        if not options and not extra:
            return base
        return replace(base, **options, extra={**base.extra, **extra})


# Fields that are passed on to the model: those that `ModelOptions` knows, and others.
_KNOWN = (
    "temperature",
    "top_p",
    "seed",
    "stop",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning_effort",
    "response_format",
)
_EXTRA = (
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "service_tier",
    "user",
    "verbosity",
)
_OPTIONS = {*_KNOWN, *_EXTRA, "max_tokens", "max_completion_tokens", "function_call", "functions"}


def read_request(
    fields: Mapping[str, JSONValue], header_session: str | None, settings: ServerSettings
) -> CompletionRequest:
    """Read a request's fields. Raise the `Problem` that names each bad one.

    The session in the header overrides the session in the body.
    """
    if header_session is not None:
        check_header(header_session, "X-Session-ID", session_id_problem)
        fields = {**fields, "session_id": header_session}
    return CompletionRequest.read(fields, settings)


def check_header(
    text: str, name: str, problem_of: Callable[[str], str | None] = id_problem
) -> None:
    """Raise a 400 `Problem` for a header that cannot be an id."""
    if problem := problem_of(text):
        raise bad_request("Invalid header", f"{name}: {problem}", param=name)


# - clients that send `functions` instead of `tools` -

# Calls of functions have no ids: a result belongs to the last call of that name. Each call gets an
# id here, so that one conversation can use both forms: the id of the session's call, if there is
# one.
FUNCTION_CALL = "function_call_"
_ID_CHARACTERS = 16


def _as_tool_choice(function_call: str | Mapping[str, JSONValue]) -> JSONValue:
    """Return the `tool_choice` for a `function_call`."""
    if isinstance(function_call, str):
        return function_call
    return {"type": "function", "function": dict(function_call)}


def _as_tool_messages(values: Iterable[JSONValue]) -> list[JSONValue]:
    """Return messages with tool calls and tool results instead of function calls and results."""
    open_ids: dict[str, deque[str]] = {}
    return [_as_tool_message(index, value, open_ids) for index, value in enumerate(values)]


def _as_tool_message(index: int, value: JSONValue, open_ids: dict[str, deque[str]]) -> JSONValue:
    if not isinstance(value, dict):
        return value
    call, name = value.get("function_call"), value.get("name")
    if value.get("role") == "assistant" and isinstance(call, dict) and not value.get("tool_calls"):
        call_id = _made_id(index, call)
        open_ids.setdefault(str(call.get("name")), deque()).append(call_id)
        made: dict[str, JSONValue] = {"id": call_id, "type": "function", "function": call}
        return {**value, "tool_calls": [made]}
    if value.get("role") == "function" and isinstance(name, str):
        ids = open_ids.get(name)
        call_id = ids.popleft() if ids else FUNCTION_CALL + name
        return {"role": "tool", "tool_call_id": call_id, "content": value.get("content")}
    return value


def _made_id(index: int, call: Mapping[str, JSONValue]) -> str:
    parts = json.dumps([index, call.get("name"), call.get("arguments")])
    return FUNCTION_CALL + hashlib.sha256(parts.encode()).hexdigest()[:_ID_CHARACTERS]
