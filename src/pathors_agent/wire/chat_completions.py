"""Write requests to a chat-completions endpoint: messages, tools and options as a JSON body.

A body is always legal: the history keeps the messages unchanged, and the writer corrects what an
endpoint would refuse, with the same bytes each time.

The bytes of each message are cached on it, and those of a long history in one piece. So a request costs
the encoding of the new messages and one copy.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from types import MemberDescriptorType
from typing import Any

import msgspec.structs
from msgspec import Struct

from pathors_agent.json_text import write_json
from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    MessageBase,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from pathors_agent.wire.messages import (
    RESULT_ORIGIN,
    carried_parts,
    sent_call_id,
    wire_message,
    write_parts,
)
from pathors_agent.wire.profiles import DEFAULT_PROFILE, EndpointProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Options of the model call, with OpenAI's names; None omits a field.

    `temperature`, `top_p` and `seed` control how an answer is sampled, and `reasoning_effort` how
    long the model reasons. An answer ends after `max_tokens`, or before a text in `stop`.
    `parallel_tool_calls` allows several calls in one answer. `response_format` is OpenAI's
    description of the answer's form; an `output` type may set it. A `tool_choice` that forces a
    call applies to the first answer after a user message. `extra` is added to the request body
    unchanged and overrides the other fields.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    tool_choice: str | Mapping[str, JSONValue] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    response_format: Mapping[str, JSONValue] | None = None
    extra: Mapping[str, JSONValue] = field(default_factory=dict)

    def updated(self, others: "ModelOptions | None") -> "ModelOptions":
        """Return these options with the others that are set in their place."""
        if others is None:
            return self
        values = {f.name: getattr(others, f.name) for f in fields(others)}
        given = {name: value for name, value in values.items() if value is not None}
        return replace(self, **{**given, "extra": {**self.extra, **others.extra}})

    def __post_init__(self) -> None:
        for name, (kinds, wanted) in _OPTION_KINDS.items():
            value: object = getattr(self, name)
            is_right = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
            if isinstance(value, float) and not math.isfinite(value):
                is_right = False  # JSON has no such number
            if not is_right and (value is not None or name == "extra"):
                raise ValueError(f"ModelOptions.{name} must be {wanted}, not {value!r}")
        if "messages" in self.extra:
            raise ValueError("extra['messages'] would replace the conversation; remove it")


_OPTION_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "temperature": ((int, float), "a finite number"),
    "top_p": ((int, float), "a finite number"),
    "max_tokens": ((int,), "a whole number"),
    "seed": ((int,), "a whole number"),
    "stop": ((str, Sequence), "a text or a list of texts"),
    "tool_choice": ((str, Mapping), "a text or a mapping"),
    "parallel_tool_calls": ((bool,), "True or False"),
    "reasoning_effort": ((str,), "a text"),
    "response_format": ((Mapping,), "a mapping"),
    "extra": ((Mapping,), "a mapping"),
}


@dataclass(frozen=True)
class RequestTemplate:
    """A request without its messages, encoded once; `encode` adds the messages.

    `tools` are OpenAI's tool definitions. `final_tool` is another tool, whose call is the answer.
    `instructions` become the first system message; with `sends="new_messages"` they are sent only
    before the first answer.
    """

    model: str | None = None
    instructions: str | None = None
    tools: Sequence[JSONValue] = ()
    options: ModelOptions = field(default_factory=ModelOptions)
    profile: EndpointProfile = DEFAULT_PROFILE
    final_tool: Mapping[str, JSONValue] | None = None

    def encode(self, messages: Sequence[Message], *, session_id: str | None = None) -> bytes:
        """Return the request body for these messages, with the field `session_id` unless None."""
        news = self.profile.sends == "new_messages"
        sent = _after_last_answer(messages) if news else messages
        parts = _encode_all(sent, self.profile)
        if self._instructions and len(sent) == len(messages):
            parts.insert(0, self._instructions)
        # A single join copies a long history once.
        separated = [b","] * (2 * len(parts) - 1)
        separated[::2] = parts
        session = b"" if session_id is None else b',"session_id":' + write_json(session_id)
        return b"".join((b'{"messages":[', *separated, b"]", session, self._rest))

    @cached_property
    def without_calls(self) -> "RequestTemplate":
        """The template of a request for an answer without calls, except of the final tool."""
        if self.final_tool is None:
            return self._choosing("none")
        if not self.profile.requires_calls:
            return replace(self, tools=())
        function: Any = self.final_tool["function"]
        return self._choosing({"type": "function", "function": {"name": function["name"]}})

    @cached_property
    def after_first(self) -> "RequestTemplate":
        """The template of the requests after the first answer to a user message.

        A forced call has been made by then. If it were forced again, the model could never answer.
        """
        is_forced = self.options.tool_choice not in (None, "auto", "none")
        return self._choosing("auto") if is_forced else self

    def _choosing(self, tool_choice: str | Mapping[str, JSONValue]) -> "RequestTemplate":
        return replace(self, options=replace(self.options, tool_choice=tool_choice))

    @cached_property
    def _instructions(self) -> bytes:
        if self.instructions is None:
            return b""
        return encode_message(SystemMessage(content=self.instructions), self.profile)

    @cached_property
    def _rest(self) -> bytes:
        """The body after the messages: the other fields and the closing brace."""
        # Never only a brace: `stream` is always present.
        return b"," + write_json(self._fields())[1:]

    def _fields(self) -> dict[str, object]:
        options = self.options
        tools = [*self.tools, *filter(None, [self.final_tool])]
        fields: dict[str, object] = {
            "model": self.model,
            "tools": tools or None,
            "temperature": options.temperature,
            "top_p": options.top_p,
            self.profile.max_tokens_field: options.max_tokens,
            "seed": options.seed,
            "stop": options.stop,
            # Endpoints refuse these two without tools.
            "tool_choice": self._tool_choice() if tools else None,
            "parallel_tool_calls": options.parallel_tool_calls if tools else None,
            "reasoning_effort": options.reasoning_effort,
            "response_format": options.response_format,
            "stream": self.profile.streams,
            "stream_options": self._stream_options(),
        }
        if options.extra.get("stream", True) is not True:
            fields["stream_options"] = None  # endpoints refuse it without a stream
        return {k: v for k, v in fields.items() if v is not None} | dict(options.extra)

    def _tool_choice(self) -> str | Mapping[str, JSONValue] | None:
        wants_call = self.final_tool is not None and self.profile.requires_calls
        return self.options.tool_choice or ("required" if wants_call else None)

    def _stream_options(self) -> dict[str, bool] | None:
        return (
            {"include_usage": True} if self.profile.streams and self.profile.include_usage else None
        )


class _Encoded(Struct, frozen=True):
    """The cached bytes of a message, and for some messages those of the history up to it.

    `carried` are the content parts of a tool's result that a user message has (`_between`).
    `joined` are the bytes of the messages `before` and of this one, separated by commas.
    """

    profile: EndpointProfile
    data: bytes
    carried: bytes = b""
    before: tuple[Message, ...] = ()
    joined: bytes = b""


_WIRE: MemberDescriptorType = MessageBase.__dict__["wire"]
# After this many pieces, the history is joined and cached as one piece: a history of 400 messages takes
# a sixth of the time. Joining it for each request would copy it twice.
_JOINED_TOGETHER = 32

# Precedes a user message, for endpoints that require an answer before each.
_ANSWERED = b'{"role":"assistant","content":"OK."}'


def encode_message(message: Message, profile: EndpointProfile = DEFAULT_PROFILE) -> bytes:
    """Return the cached bytes of a message; encode it at the first call."""
    return _encoded(message, profile).data


def _encoded(message: Message, profile: EndpointProfile) -> _Encoded:
    try:
        # By the slot itself: pydantic's lookup of a missing attribute takes ten times as long.
        kept: _Encoded = _WIRE.__get__(message)
        if kept.profile is profile or kept.profile == profile:
            return kept
    except AttributeError:
        pass
    # A copy: the buffer of msgspec is half as large again, and these bytes are cached.
    data = bytes(memoryview(write_json(wire_message(message, profile))))
    carried = _carried_parts(message, profile) if isinstance(message, ToolMessage) else b""
    encoded = _Encoded(profile, data, carried)
    _WIRE.__set__(message, encoded)  # the message is frozen; this slot is not part of its value
    return encoded


def _encode_all(messages: Sequence[Message], profile: EndpointProfile) -> list[bytes]:
    """Return the bytes of the messages in pieces; the first piece may contain many messages."""
    start, tail, parts, carries = len(messages), [], [], profile.answers_results
    while start:
        encoded = _encoded(messages[start - 1], profile)
        if encoded.joined and encoded.before == tuple(messages[: start - 1]):
            parts.append(encoded.joined)
            break
        tail.append(encoded.data)
        carries = carries or bool(encoded.carried)
        start -= 1
    tail.reverse()
    parts += tail
    added: list[bytes] = []
    if carries or (start and _carried(_results_before(messages, start), profile)):
        _insert_between(messages, start, parts, profile)
        added = _between(messages, len(messages), profile)
    if len(parts) > _JOINED_TOGETHER:
        parts[:-1] = [_join(messages[:-1], start, parts[:-1], profile)]
    return parts + added


def _join(
    messages: Sequence[Message], start: int, parts: Sequence[bytes], profile: EndpointProfile
) -> bytes:
    """Join the bytes of all messages except the newest; cache them on the last joined message.

    `start` is the number of messages that were joined before; their cached bytes are dropped.
    """
    joined = b",".join(parts)
    for message in messages[max(0, start - 1) : -1]:
        encoded = _encoded(message, profile)
        if encoded.joined:
            _WIRE.__set__(message, msgspec.structs.replace(encoded, before=(), joined=b""))
    last = _encoded(messages[-1], profile)
    before = tuple(messages[:-1])
    _WIRE.__set__(messages[-1], msgspec.structs.replace(last, before=before, joined=joined))
    return joined


def _insert_between(
    messages: Sequence[Message], start: int, parts: list[bytes], profile: EndpointProfile
) -> None:
    """Prepend the inserted messages to the parts from `start` on."""
    for place in range(start, len(messages)):
        if added := _between(messages, place, profile):
            part = place - len(messages)
            parts[part] = b",".join((*added, parts[part]))


def _between(messages: Sequence[Message], place: int, profile: EndpointProfile) -> list[bytes]:
    """Return the messages to insert before a position, such as those with the media of results.

    They depend on the next message, so the joined bytes up to a position never contain them.
    """
    following = messages[place] if place < len(messages) else None
    if isinstance(following, ToolMessage):
        return []
    carried = _carried(_results_before(messages, place), profile)
    added = [b'{"role":"user","content":[' + carried + b"]}"] if carried else []
    if not profile.answers_results:
        return added
    before = messages[place - 1] if place else None
    if carried:
        added.insert(0, _ANSWERED)
    if isinstance(following, UserMessage) and isinstance(before, ToolMessage | UserMessage):
        added.append(_ANSWERED)
    return added


def _results_before(messages: Sequence[Message], place: int) -> list[ToolMessage]:
    """Return the tool messages directly before a position, in order."""
    results: list[ToolMessage] = []
    while place and isinstance(message := messages[place - 1], ToolMessage):
        results.insert(0, message)
        place -= 1
    return results


def _carried(results: Iterable[ToolMessage], profile: EndpointProfile) -> bytes:
    """Return the parts of results that a user message has; with several results, each is named."""
    carried = {
        result.tool_call_id: parts
        for result in results
        if (parts := _encoded(result, profile).carried)
    }
    if len(carried) < 2:
        return b"".join(carried.values())
    return b",".join(_origin(call_id, profile) + b"," + carried[call_id] for call_id in carried)


def _origin(call_id: str, profile: EndpointProfile) -> bytes:
    text = f"{RESULT_ORIGIN}{sent_call_id(call_id, profile)}:"
    return write_json({"type": "text", "text": text})


def _carried_parts(message: ToolMessage, profile: EndpointProfile) -> bytes:
    if isinstance(message.content, str):
        return b""
    return write_json(write_parts(carried_parts(message.content, profile.result_media)))[1:-1]


def _after_last_answer(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages that an endpoint with a stored history does not have yet."""
    for index in range(len(messages) - 1, -1, -1):
        if isinstance(messages[index], AssistantMessage):
            return messages[index + 1 :]
    return messages
