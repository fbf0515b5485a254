"""Transports that answer by rules, in the bytes that a real endpoint would send.

An answer calls the tools that the last prompt asks for, or words their results.
"""

import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import anyio

from pathors_agent.json_text import call_arguments, read_json
from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from pathors_agent.offline.planning import OfferedTool, PlannedCall, plan
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.wire.completion_bytes import error_body, plain_body, stream_events
from pathors_agent.wire.messages import RESULT_ORIGIN, read_client_messages

MODEL = "offline-rules"
_I_AM = "I am a stand-in that works by rules, no language model"

# Nothing on the wire marks an error: its wording does.
_FAILED = re.compile(
    r"(?:[A-Za-z]*Error|error)\b|The arguments of |There is no tool "
    r"|[^.]*\b(?:cannot|could not|not found)\b"
)
_WORD = re.compile(r"\s*\S+|\s+$")
_LAST_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)(?:\s*[^\d\s]+)?$")


class InvalidRequest(Exception):
    """The body is not a chat-completions request; `details` name each bad field."""

    def __init__(self, *details: str) -> None:
        super().__init__("the request body is invalid")
        self.details = details


class ChatRequest(NamedTuple):
    """The fields of a request that the stand-in reads."""

    messages: Sequence[Message]
    tools: Sequence[OfferedTool]
    model: str
    stream: bool
    include_usage: bool


def read_request(body: bytes) -> ChatRequest:
    """Read a request body; raise `InvalidRequest` if it has no valid messages."""
    value = read_json(body)
    if not isinstance(value, dict):
        raise InvalidRequest("body: must be a JSON object")
    sent = value.get("messages")
    if not isinstance(sent, list) or not sent:
        raise InvalidRequest("messages: a list with at least one message is required")
    messages, problems = read_client_messages(sent)
    if problems:
        raise InvalidRequest(*problems)
    return ChatRequest(
        messages=[message for message in messages if not _carries_result(message)],
        tools=_offered(value.get("tools") or (), value.get("tool_choice")),
        model=value.get("model") or MODEL,
        stream=bool(value.get("stream")),
        include_usage=bool((value.get("stream_options") or {}).get("include_usage")),
    )


def _carries_result(message: Message) -> bool:
    """Return True if a user message holds the images of a tool's result instead of a prompt."""
    if not isinstance(message, UserMessage) or isinstance(message.content, str):
        return False
    return not message.text or message.text.startswith(RESULT_ORIGIN)


def _offered(tools: Sequence[Any], choice: JSONValue) -> list[OfferedTool]:
    """Return the tools that `tool_choice` allows; raise `InvalidRequest` for one without a name."""
    offered = []
    for index, tool in enumerate(tools):
        match tool:
            case {"function": {"name": str() as name} as function} if name:
                about = (function.get("description") or "").strip()
                offered.append(OfferedTool(name, about, function.get("parameters") or {}))
            case _:
                raise InvalidRequest(f"tools[{index}].function.name: Field required")
    match choice:
        case "none":
            return []
        case {"function": {"name": only}}:
            return [tool for tool in offered if tool.name == only]
        case _:
            return offered


def respond(request: ChatRequest) -> AssistantMessage:
    """Call the tools that the last prompt asks for, or answer from their results."""
    messages = request.messages
    prompts = [i for i, message in enumerate(messages, 1) if isinstance(message, UserMessage)]
    turn = prompts[-1] if prompts else len(messages)
    earlier, made = _results(messages[:turn]), _results(messages[turn:])
    numbers = [found[1] for _, text in earlier if (found := _LAST_NUMBER.search(text.strip(" .")))]
    planned = plan(
        messages[turn - 1].text if prompts else "",
        request.tools,
        previous=earlier[-1][0] if earlier else None,
        last_number=numbers[-1] if numbers else None,
    )
    done = [call for call, _ in made]
    answers = [message for message in messages if isinstance(message, AssistantMessage)]
    first = 1 + sum(len(answer.tool_calls) for answer in answers)
    calls = tuple(
        ToolCall(id=f"call_{number}", name=name, arguments=json.dumps(given, ensure_ascii=False))
        for number, (name, given) in enumerate((c for c in planned if c not in done), first)
    )
    text = None if calls else _sentences(request.tools, made)
    # Usage counts words: rules have no tokens.
    prompt = sum(len(message.text.split()) for message in messages)
    size = len((text or "").split()) + sum(len(c.arguments.split()) + 1 for c in calls)
    return AssistantMessage(
        id=f"chatcmpl-{len(answers) + 1}",
        model=request.model,
        content=text,
        tool_calls=calls,
        finish_reason="tool_calls" if calls else "stop",
        usage=Usage(prompt_tokens=prompt, completion_tokens=size, total_tokens=prompt + size),
    )


def _results(messages: Sequence[Message]) -> list[tuple[PlannedCall, str]]:
    """Return each finished call with the text of its result."""
    calls: dict[str, PlannedCall] = {}
    results = []
    for message in messages:
        if isinstance(message, AssistantMessage):
            for call in message.tool_calls:
                calls[call.id] = PlannedCall(call.name, call_arguments(call) or {})
        elif isinstance(message, ToolMessage) and message.tool_call_id in calls:
            results.append((calls[message.tool_call_id], message.text))
    return results


def _sentences(tools: Sequence[OfferedTool], made: Sequence[tuple[PlannedCall, str]]) -> str:
    if made:
        return " ".join(_result_sentence(call, text.strip()) for call, text in made)
    if not tools:
        return f"{_I_AM}, and was given no tools."
    about = (re.split(r"(?<=\.)\s", tool.description or "no description")[0] for tool in tools)
    lines = (f"- {tool.name}: {text}" for tool, text in zip(tools, about, strict=True))
    return "\n".join([f"{_I_AM}. I can use these tools:", *lines])


def _result_sentence(call: PlannedCall, result: str) -> str:
    given = ", ".join(map(_spoken, call.arguments.values()))
    named = f"{call.name} ({given})" if given else call.name
    spoken = _spoken(read_json(result, result))
    is_sentence = result[:1].isupper() and " " in result and result[-1] in ".!?"
    if not result:
        said = f"{named} returned nothing"
    elif _FAILED.match(result):
        said = f"{named} failed: {spoken}"
    elif is_sentence or re.fullmatch(r"[^=\n]+ = [^=\n]+", result):
        said = result
    else:
        said = (
            f"{named}: {result}"
            if spoken == result and " " in result
            else f"{named} gives {spoken}"
        )
    return said if said.endswith((".", "!", "?")) else f"{said}."


def _spoken(value: JSONValue) -> str:
    """Return a JSON value as words."""
    match value:
        case dict():
            return ", ".join(f"{name} {_spoken(item)}" for name, item in value.items())
        case list():
            return ", ".join(map(_spoken, value))
        case str():
            return value
        case _:
            return json.dumps(value)


def _reply(body: bytes) -> tuple[int, str, list[bytes]]:
    """Return the status, the content type and the pieces of an answer, each event a piece."""
    try:
        request = read_request(body)
    except InvalidRequest as error:
        refusal = error_body(
            f"Invalid request body: {error.details[0]}",
            type="invalid_request_error",
            details=list(error.details),
        )
        return 400, "application/json", [refusal]
    message = respond(request)
    if not request.stream:
        return 200, "application/json", [plain_body(message)]
    events = stream_events(message, split=_WORD.findall, include_usage=request.include_usage)
    return 200, "text/event-stream; charset=utf-8", events


class OfflineTransport(Transport):
    """A stand-in for a model: rules that pick tools by their words.

    It calls the offered tools whose names and descriptions fit the last prompt, with arguments from
    the prompt, and puts their results into sentences. It needs no language model, network or key, and
    the same requests get the same answers, for demonstrations and tests. `pace` is the number of
    seconds between two pieces of a stream.
    """

    def __init__(self, *, pace: float = 0) -> None:
        self._pace = pace

    @contextmanager
    def send(self, request: Request) -> Iterator[Response]:
        """Answer by rules."""
        status, content_type, pieces = _reply(request.body)
        headers = {"content-type": content_type}
        yield Response(status=status, headers=headers, pieces=self._paced(pieces))

    def _paced(self, pieces: list[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            if self._pace:
                time.sleep(self._pace)
            yield piece


class AsyncOfflineTransport(AsyncTransport):
    """`OfflineTransport` for `AsyncAgent`: rules, no language model."""

    def __init__(self, *, pace: float = 0) -> None:
        self._pace = pace

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        """Answer by rules."""
        status, content_type, pieces = _reply(request.body)
        headers = {"content-type": content_type}
        async with aclosing(self._paced(pieces)) as paced:
            yield AsyncResponse(status=status, headers=headers, pieces=paced)

    async def _paced(self, pieces: list[bytes]) -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            await anyio.sleep(self._pace)
            yield piece
