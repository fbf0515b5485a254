"""The parts that the protocols of front ends share: requests, events as bytes, and errors."""

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException

from pathors_agent.agents.approvals import Approval, Decision
from pathors_agent.agents.result import RunResult
from pathors_agent.agents.stream import AsyncRunStream
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Status
from pathors_agent.errors import AgentError, ConversationError, ToolDefinitionError, TransportError
from pathors_agent.messages import (
    AssistantMessage,
    Content,
    ContentPart,
    JSONValue,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.server.http.problems import log_bug, of_model
from pathors_agent.tools.registry import ToolRegistry, Tools, registry_of
from pathors_agent.tools.tool import Tool
from pathors_agent.wire.deltas import Delta, ToolCallDelta
from pathors_agent.wire.messages import write_parts

# The client keeps the history. A history that no model could read is a mistake or an attack.
MAX_FRONT_END_MESSAGES = 10_000
_PART_TYPES = frozenset({"text", "image_url", "input_audio", "file"})


class Body(BaseModel):
    """A part of a request's body: camel case names, and unknown fields are ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
        extra="ignore",
    )

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        return []  # they contain texts of people


class FrontEndRequest(Body, ABC):
    """The body of a request of a front end, which holds the client's history."""

    name: ClassVar[str]
    """The name of the protocol, in addresses and in the database."""

    title: ClassVar[str]
    """The name of the protocol for people."""

    headers: ClassVar[Mapping[str, str]] = {}
    """The headers of an answer, in addition to those of all server-sent events."""

    repeats_decisions: ClassVar[bool] = False
    """Whether the decisions of earlier requests come again, as a part of the history."""

    @property
    @abstractmethod
    def session_id(self) -> str:
        """The id of the chat; "" if the client names none."""

    @property
    @abstractmethod
    def sent_messages(self) -> Sequence[Message]:
        """The messages of the history, as the client sent them."""

    @property
    @abstractmethod
    def decisions(self) -> list[Decision]:
        """The approvals and denials, which name the calls that a person saw."""

    @property
    @abstractmethod
    def client_tools(self) -> list[Tool]:
        """The front end's tools, which have no function here: a call of one suspends the run."""

    @property
    @abstractmethod
    def rewinds(self) -> bool:
        """Whether the messages replace those that the server holds, the first one too."""

    @property
    @abstractmethod
    def replay(self) -> bytes:
        """The first events for a client that reconnects; empty if they are those of the run.

        They restore the state of the client that sent the request.
        """

    @cached_property
    def conversation(self) -> Conversation:
        """The client's history.

        Its last calls may be open. A user's message closes the calls that were open before it, unless
        the request has decisions about them: then it follows their results.
        """
        conversation = Conversation()
        sent = self.sent_messages
        last = max((i for i, m in enumerate(sent) if isinstance(m, AssistantMessage)), default=-1)
        for index, message in enumerate(sent):
            if isinstance(message, UserMessage) and conversation.open_calls:
                if self.decisions and index > last:
                    conversation.queue_message(message)
                    continue
                conversation.close_open_calls()
            conversation.append(message)
        return conversation

    def tools_with(self, own: Tools) -> list[Tool]:
        """Return the tools of a run: the server's `own`, then those of the client.

        Raises Starlette's `HTTPException` with the status 422 if a tool of the client has the name
        of one of the server.
        """
        registry = registry_of(own)
        for index, tool in enumerate(self.client_tools):
            if tool.name in registry:
                raise HTTPException(
                    422,
                    f"tools.{index}: {tool.name} is a tool of the server; give yours another name",
                )
        return [*registry, *self.client_tools]

    @model_validator(mode="after")
    def _is_legal(self) -> Self:
        try:
            _ = self.conversation, ToolRegistry(self.client_tools)
        except (ConversationError, ToolDefinitionError, ValidationError) as error:
            raise _refused(error) from None
        return self


def _refused(error: AgentError | ValidationError) -> PydanticCustomError:
    """Build the error for an invalid body."""
    if not isinstance(error, ValidationError):
        return PydanticCustomError("refused", "{text}", {"text": str(error)})
    [first, *_] = error.errors(include_url=False, include_input=False, include_context=False)
    place = ".".join(map(str, first["loc"]))
    text = f"a message or tool call is not valid: {place}: {first['msg']}"
    return PydanticCustomError("refused", "{text}", {"text": text})


# - the stream


Reason = Literal[
    "stop", "length", "content-filter", "tool-calls", "limit_reached", "no_answer", "cancelled"
]
"""Why a run ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run ended: why, the calls that wait for approval, and all calls without a result.

    `error` is the text for a client that cannot continue the run.
    """

    reason: Reason
    approvals: Sequence[Approval] = ()
    open_calls: Sequence[str] = ()
    error: str = ""

    @classmethod
    def of(cls, stream: AsyncRunStream[Any]) -> Self:
        """Return the end of a run whose stream was read to its end."""
        result = stream.result
        return cls(
            reason=_reason(result),
            approvals=result.approvals,
            open_calls=[call.id for call in result.open_calls],
            error=_unanswerable(stream.conversation),
        )


def _reason(result: RunResult[Any]) -> Reason:
    if result.cancelled:
        return "cancelled"
    match result.status:
        case Status.FINISHED:
            return _REASONS.get(result.ended_by or "", "stop")
        case Status.SUSPENDED:
            return "tool-calls"
        case Status.LIMIT_REACHED:
            return "limit_reached"
        case Status.RUNNING | Status.NO_ANSWER:
            return "no_answer"


_REASONS: Mapping[str, Reason] = {
    "length": "length",
    "content_filter": "content-filter",
    "refusal": "content-filter",
}


class Events(ABC):
    """Writes the events of one run. `known` are the ids of the calls in the history."""

    last: ClassVar[bytes] = b""
    """The bytes after the last event of a stream."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._started: dict[int, str] = {}  # the ids of the calls that arrive, by their index
        self._known = set(known)

    @abstractmethod
    def begin(self) -> dict[str, object]:
        """Return the first event."""

    @abstractmethod
    def denied(self, message: ToolMessage) -> dict[str, object]:
        """Return the event of a denial that came with the request."""

    def of(self, items: Iterable[Delta | Message]) -> Iterator[dict[str, object]]:
        """Yield the events of deltas and messages that came together."""
        for item in items:
            yield from self._item(item)

    @abstractmethod
    def _item(self, item: Delta | Message) -> Iterator[dict[str, object]]:
        """Yield the events of a delta or a message."""

    def _call_delta(self, delta: ToolCallDelta) -> Iterator[dict[str, object]]:
        """Yield the next piece of a call's arguments, if the call has its id and its name."""
        call_id, piece = self._started.get(delta.index), delta.arguments
        if call_id is None:
            # An id that is already in the history is replaced when the answer is complete.
            if not delta.id or not delta.name or not piece or delta.id in self._known:
                return
            call_id = self._started[delta.index] = delta.id
            self._known.add(call_id)
            yield from self._start_call(call_id, delta.name)
            piece = "".join(delta.call.parts)
        if piece:
            yield self._arguments(call_id, piece)

    @abstractmethod
    def _start_call(self, call_id: str, name: str) -> Iterator[dict[str, object]]:
        """Yield the events before the arguments of a call."""

    @abstractmethod
    def _arguments(self, call_id: str, piece: str) -> dict[str, object]:
        """Return the event of a piece of a call's arguments."""

    @abstractmethod
    def end(self, end: RunEnd) -> Iterator[dict[str, object]]:
        """Yield the last events of a run."""

    @abstractmethod
    def error(self, text: str) -> Iterator[dict[str, object]]:
        """Yield the last events of a run that failed."""


async def written(stream: AsyncRunStream[Any], events: Events) -> AsyncGenerator[bytes, None]:
    """Enter a stream, and yield its events as bytes until its end."""
    yield frames(events.begin())
    try:
        async with stream:
            if denied := frames(*map(events.denied, denials(stream))):
                yield denied
            async for batch in stream.batches():
                if data := frames(*events.of(batch if isinstance(batch, list) else [batch])):
                    yield data
        yield frames(*events.end(RunEnd.of(stream)))
    except Exception as error:  # noqa: BLE001  (the status is sent: the client reads the last event)
        yield frames(*events.error(_error_text(error)))
    if events.last:
        yield events.last


def frames(*events: Mapping[str, object]) -> bytes:
    """Return server-sent events, each with a JSON object."""
    return b"".join(
        b"data: " + json.dumps(each, separators=(",", ":")).encode() + b"\n\n" for each in events
    )


def shown_content(content: Content) -> JSONValue:
    """Return a result in the client's form: text, or a list of OpenAI's content parts."""
    return content if isinstance(content, str) else write_parts(content)


def read_content(value: JSONValue) -> Content:
    """Read the content of a result that a client sends: text, parts, or any other JSON value."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(map(_is_part, value)):
        return tuple(map(ContentPart.model_validate, value))
    return json.dumps(value, ensure_ascii=False)


def _is_part(value: JSONValue) -> bool:
    return isinstance(value, dict) and value.get("type") in _PART_TYPES


def file_part(url: str, media_type: str, filename: str | None) -> ContentPart:
    """Return the content part of a file that a client sends, as a `data:` URL or an address.

    Raises ValueError for the address of a file that is not an image, because endpoints do not fetch
    it.
    """
    if media_type.startswith("image/"):
        if not url.startswith(("data:", "https:", "http:")):
            raise ValueError("the URL of an image must begin with data: or https:")
        return ContentPart.image(url)
    if not url.startswith("data:"):
        raise ValueError("the URL of a file must begin with data:")
    if media_type.startswith("audio/"):
        return ContentPart.audio(url, media_type=media_type)
    return ContentPart.file(url, filename=filename, media_type=media_type)


def results_first(messages: Iterable[Message]) -> list[Message]:
    """Return messages with the results of calls before the user's messages behind the calls.

    A client that sends a message with its decision about a call gets the result after it.
    """
    ordered: list[Message] = []
    later: list[Message] = []
    for message in messages:
        match message:
            case UserMessage() | SystemMessage():
                later.append(message)
            case ToolMessage():
                ordered.append(message)
            case AssistantMessage():
                ordered += [*later, message]
                later = []
    return ordered + later


class ClientTool(Body):
    """A tool that the front end runs; `parameters` is a JSON Schema of an object."""

    name: str
    description: str = ""
    parameters: dict[str, JSONValue] | None = None

    def read(self) -> Tool:
        """Return the tool."""
        schema = self.parameters or {"type": "object", "properties": {}}
        return Tool(name=self.name, description=self.description, parameters=schema)


def media_parts(
    content: Content | None, extra: Mapping[str, JSONValue] | None = None
) -> list[JSONValue]:
    """Return the parts of a content that is not text alone, and the lists of parts in `extra`."""
    parts = () if content is None or isinstance(content, str) else content
    written = write_parts(parts) if any(part.type != "text" for part in parts) else []
    others = [(extra or {}).get(name) for name in ("content_parts", "images")]
    return [*written, *(part for each in others if isinstance(each, list) for part in each)]


def image_urls(message: AssistantMessage) -> list[str]:
    """Return the URLs of the images that a model made."""
    parts = media_parts(message.content, message.extra)
    images = [part.get("image_url") for part in parts if isinstance(part, dict)]
    urls = [image.get("url") for image in images if isinstance(image, dict)]
    return [url for url in urls if isinstance(url, str)]


def media_type(url: str) -> str:
    """Return the media type of an image's URL, as far as the URL names it."""
    kind = url.removeprefix("data:").partition(";")[0]
    return kind if url.startswith("data:image/") else "image/*"


def joined_parts(parts: Sequence[ContentPart]) -> Content:
    """Return the content of a user's message; a string if it has only text."""
    if all(part.type == "text" for part in parts):
        return "".join(part.text or "" for part in parts)
    return tuple(parts)


def progress_value(value: object) -> tuple[JSONValue, bool]:
    """Return a tool's progress as a JSON value, and whether it has one."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None, False
    return value, True  # type: ignore[return-value]  # json.dumps has checked it


def _error_text(error: Exception) -> str:
    """Return the text of an error that a client may read; log other errors by class and place."""
    if isinstance(error, TransportError):
        return of_model(error).message
    if isinstance(error, ConversationError):
        return str(error)  # its text has calls and decisions, and no content
    log_bug("front_end_stream_failed", error)
    kind = f" ({type(error).__name__})" if isinstance(error, AgentError) else ""
    return f"The server could not finish the answer{kind}"


def _unanswerable(conversation: Conversation) -> str:
    """Return the error of a run that waits for a call inside an agent that runs as a tool."""
    if not any(conversation.suspended(call) for call in conversation.open_calls):
        return ""
    return (
        "An agent that runs as a tool waits for an approval or for a result of the client. "
        "The client's history cannot hold that run: keep the conversation on the server"
    )


def denials(stream: AsyncRunStream[Any]) -> list[ToolMessage]:
    """Return the results of the calls that this request denied, or that its prompt closed."""
    return [each for each in stream.result.messages if isinstance(each, ToolMessage)]


def is_one_of(message: Message, messages: Sequence[Message]) -> bool:
    """Return True if a message itself, not only an equal one, is among messages."""
    return any(message is each for each in messages)


def decision(
    digest: str, *, approved: bool, reason: str = "", arguments: JSONValue = None
) -> Decision:
    """Return a person's decision, with the arguments that replace the model's, if any."""
    changed = json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else None
    return Decision(digest, approved, reason=reason, arguments=changed if approved else None)


def answer_of(
    texts: Sequence[str], reasoning: Sequence[str], calls: Sequence[ToolCall]
) -> AssistantMessage | None:
    """Return the assistant message with these parts, or None if there are none."""
    text, thought = "".join(texts), "".join(reasoning)
    if not (text or calls):
        return None
    return AssistantMessage(
        content=text or None, tool_calls=tuple(calls), reasoning=thought or None
    )
