"""Read a chat completion's request: the messages, the tools and how the model is to answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from pathors_agent.errors import ToolDefinitionError, UnreadableDefinition
from pathors_agent.messages import JSONValue, Message
from pathors_agent.server.functions import as_tool_choice, as_tool_messages, as_tools
from pathors_agent.server.problems import bad_request
from pathors_agent.server.settings import ServerSettings
from pathors_agent.tools.registry import ToolRegistry, read_definition
from pathors_agent.tools.tool import Tool
from pathors_agent.wire.chat_completions import ModelOptions
from pathors_agent.wire.messages import read_client_messages

MAX_SESSION_ID = 255

_Fields = Mapping[str, JSONValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """What a client asks for.

    `tools` are external: only the client can run them. `options` go to the model, over those of
    the project. `include_tool_activity` asks to be told of the project's own tools while they run,
    `include_reasoning` for the model's reasoning. With `answers_functions` the client reads calls in
    the older form.
    """

    messages: tuple[Message, ...] = field(repr=False)
    tools: ToolRegistry
    options: _Fields = field(repr=False)
    model: str | None = None
    session_id: str | None = None
    stream: bool = False
    include_usage: bool = False
    include_tool_activity: bool = False
    include_reasoning: bool = False
    answers_functions: bool = False

    def model_options(self, base: ModelOptions) -> ModelOptions:
        """Lay what the client asks for over what the project does."""
        if not self.options:
            return base
        known = {k: v for k, v in self.options.items() if k in _OPTIONS.values()}
        extra = {k: v for k, v in self.options.items() if k not in known}
        options: dict[str, Any] = {**known, "extra": {**base.extra, **extra}}
        return replace(base, **options)


def read_request(
    body: _Fields, header_session: str | None, settings: ServerSettings
) -> CompletionRequest:
    """Read a request's fields, or raise the `Problem` that names each bad one."""
    reading = _Reading(body)
    messages = _messages(reading, settings)
    tools = _tools(reading, settings)
    stream_options = reading.value("stream_options", dict) or {}
    told = _Reading(stream_options, "stream_options.", reading.problems)
    request = CompletionRequest(
        messages=tuple(messages),
        tools=tools,
        options=_options(reading),
        model=reading.value("model", str),
        session_id=_session_id(reading, header_session),
        stream=bool(reading.value("stream", bool)),
        include_usage=bool(told.value("include_usage", bool)),
        include_tool_activity=bool(told.value("include_tool_activity", bool)),
        include_reasoning=bool(
            reading.value("include_reasoning", bool) or told.value("include_reasoning", bool)
        ),
        answers_functions=bool(body.get("functions")),
    )
    if reading.problems:
        raise bad_request("Invalid request body", *reading.problems)
    return request


class _Reading:
    """The fields of an object at a place, and what was found to be wrong with them."""

    def __init__(self, body: _Fields, place: str = "", problems: list[str] | None = None) -> None:
        self.body = body
        self.place = place
        self.problems: list[str] = [] if problems is None else problems

    def value(self, name: str, kind: type | tuple[type, ...]) -> Any:
        """Give a field of that kind; None where it is absent, null or wrong."""
        value = self.body.get(name)
        if value is None:
            return None
        if kind is int:
            value = whole_number(value)
        is_number = kind in (int, _NUMBER) and isinstance(value, bool)
        if isinstance(value, kind) and not is_number:
            return value
        self.problems.append(f"{self.place}{name}: must be {_KINDS[kind]}")
        return None


def whole_number(value: JSONValue) -> JSONValue:
    """Give 50 for 50.0, as JSON Schema reads it; some languages write all numbers so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_NUMBER = (int, float)
_KINDS: dict[type | tuple[type, ...], str] = {
    str: "a string",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    int: "an integer",
    _NUMBER: "a number",
    (str, list): "a string or a list of strings",
    (str, dict): "a string or an object",
}

# OpenAI's fields that are passed on to the model, by their kind, and our names for those that we
# know; the others go as they are.
_PASSED: dict[str, type | tuple[type, ...]] = {
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "max_tokens": int,
    "max_completion_tokens": int,
    "seed": int,
    "stop": (str, list),
    "tool_choice": (str, dict),
    "parallel_tool_calls": bool,
    "reasoning_effort": str,
    "response_format": dict,
    "frequency_penalty": _NUMBER,
    "presence_penalty": _NUMBER,
    "logit_bias": dict,
    "service_tier": str,
    "user": str,
    "verbosity": str,
}
_OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "seed": "seed",
    "stop": "stop",
    "tool_choice": "tool_choice",
    "parallel_tool_calls": "parallel_tool_calls",
    "reasoning_effort": "reasoning_effort",
    "response_format": "response_format",
}


# What OpenAI publishes as the ranges of its fields.
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "max_tokens": (1, inf),
    "max_completion_tokens": (1, inf),
    "seed": (-(2**63), 2**63 - 1),
}
_LARGEST_BIAS = 100
# "any" is Mistral's word for "required".
_FUNCTION_CHOICES = ("none", "auto")
_TOOL_CHOICES = ("none", "auto", "required", "any")


def _is_bias(value: JSONValue) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -_LARGEST_BIAS <= value <= _LARGEST_BIAS


def _options(reading: _Reading) -> dict[str, JSONValue]:
    count = reading.value("n", int)
    if count not in (None, 1):
        reading.problems.append("n: must be 1, a session has one answer")
    given = {name: reading.value(name, kind) for name, kind in _PASSED.items()}
    for name, (low, high) in _RANGES.items():
        value = given[name]
        if value is not None and not low <= value <= high:
            said = f"at least {low}" if high == inf else f"between {low} and {high}"
            reading.problems.append(f"{name}: must be {said}")
    stop = given["stop"]
    if isinstance(stop, list) and not (stop and all(isinstance(text, str) for text in stop)):
        reading.problems.append(f"stop: must be {_KINDS[str, list]}, and not empty")
    choice = given["tool_choice"]
    if isinstance(choice, str) and choice not in _TOOL_CHOICES:
        words = ", ".join(_TOOL_CHOICES)
        reading.problems.append(f"tool_choice: must be one of {words}, or an object")
    biases = given["logit_bias"] or {}
    if not all(_is_bias(value) for value in biases.values()):
        reading.problems.append("logit_bias: must hold numbers between -100 and 100")
    given |= _of_functions(reading, given)
    return {_OPTIONS.get(k, k): v for k, v in given.items() if v is not None}


def _of_functions(reading: _Reading, given: _Fields) -> dict[str, JSONValue]:
    """Return the options that `functions` and `function_call` stand for."""
    options: dict[str, JSONValue] = {}
    choice = reading.value("function_call", (str, dict))
    if isinstance(choice, str) and choice not in _FUNCTION_CHOICES:
        words = ", ".join(_FUNCTION_CHOICES)
        reading.problems.append(f"function_call: must be one of {words}, or an object")
    elif choice is not None and given["tool_choice"] is None:
        options["tool_choice"] = as_tool_choice(choice)
    if reading.body.get("functions") and given["parallel_tool_calls"] is None:
        options["parallel_tool_calls"] = False  # an answer holds one `function_call`
    return options


def _messages(reading: _Reading, settings: ServerSettings) -> Sequence[Message]:
    given = reading.value("messages", list)
    if not given:
        reading.problems.append("messages: is required, a list that is not empty")
        return ()
    if len(given) > settings.max_messages:
        reading.problems.append(f"messages: has {len(given)}, more than {settings.max_messages}")
        return ()
    messages, problems = read_client_messages(as_tool_messages(given))
    reading.problems += problems
    return messages


def _tools(reading: _Reading, settings: ServerSettings) -> ToolRegistry:
    tools: dict[str, Tool] = {}
    for name in ("tools", "functions"):
        given = reading.value(name, list) or []
        if len(given) > settings.max_tools:
            reading.problems.append(f"{name}: has {len(given)}, more than {settings.max_tools}")
            return ToolRegistry()
        within = ".function" if name == "tools" else ""
        for index, definition in enumerate(given if name == "tools" else as_tools(given)):
            where = f"{name}[{index}]"
            try:
                tool = read_definition(definition)
                ToolRegistry([tool])
            except UnreadableDefinition as error:
                place = error.place if within else error.place.removeprefix(".function")
                reading.problems.append(f"{where}{place}: {error.problem}")
            except ToolDefinitionError as error:
                reading.problems.append(f"{where}{within}.{error.path}: {error}")
            else:
                if tools.setdefault(tool.name, tool) is not tool:
                    reading.problems.append(f"{where}{within}.name: {tool.name} is there twice")
    return ToolRegistry(tools.values())


def _session_id(reading: _Reading, header: str | None) -> str | None:
    """The header wins over the body's field; neither names a new session."""
    if header is not None:
        return checked_session_id(header, reading.problems.append, "X-Session-ID")
    given: str | None = reading.value("session_id", str)
    if given is None:
        return None
    return checked_session_id(given, reading.problems.append, "session_id")


def checked_session_id(text: str, complain: Callable[[str], object], name: str) -> str:
    """Return the session id; complain if no session can have it.

    URL libraries remove the path segments `.` and `..`, even percent-encoded ones, so that a
    session with one of these ids could not be queried.
    """
    check_id(text, complain, name)
    if text in (".", ".."):
        complain(f"{name}: must not be {text!r}, which URLs cannot hold")
    return text


def check_id(text: str, complain: Callable[[str], object], name: str) -> None:
    """Complain about an id that is not 1 to 255 visible ASCII characters."""
    is_visible = text.isascii() and text.isprintable() and " " not in text
    if not (0 < len(text) <= MAX_SESSION_ID and is_visible):
        complain(f"{name}: must be 1 to {MAX_SESSION_ID} visible ASCII characters without spaces")
