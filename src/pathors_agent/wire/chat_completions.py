"""Write requests to a chat-completions endpoint: messages, tools and options as a JSON body.

A body is legal whatever a model, a tool or a user once said: the record keeps what came, and the
writer makes it sendable, in the same bytes each time.

Each message is encoded once per profile and its bytes are kept on it, those of a long history in
one piece, so that a request costs what is new and one copy.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MemberDescriptorType
from typing import Any, Literal, NamedTuple

from pathors_agent.json_text import is_json_object, write_json
from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    MessageBase,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.wire.contents import (
    RESULT_ORIGIN,
    ResultMedia,
    any_content,
    carried_parts,
    result_content,
    text_content,
    write_parts,
)

# OpenAI's rule for function names; some servers answer 400 to a history that breaks it.
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_NAME_LENGTH = 64
# OpenAI's rule for the names of users and system messages.
_NOT_IN_SPEAKERS = re.compile(r"[\s<|\\/>]+")
_NINE = re.compile(r"[A-Za-z0-9]{9}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointProfile:
    """What an endpoint wants to be sent; the default suits most.

    - `sends`: the whole history, or only the messages after the last answer, for endpoints that
      keep the history themselves under a session id. Transports over HTTP choose the latter for
      addresses of such endpoints, unless their `sends=` says otherwise.
    - `session_in`: where a session's id is sent: in a header, or in the body as `session_id`.
    - `streams`: ask for a stream; False for endpoints that have none.
    - `include_usage`: ask for token counts at the end of a stream (`stream_options`).
    - `system_role`: the wire role of system messages ("developer" for OpenAI's newer models).
    - `max_tokens_field`: where the answer's length limit goes.
    - `null_content`: send `"content": null` beside tool calls; False leaves the field out.
    - `reasoning_field`: the field under which reasoning goes back with messages that called
      tools; None sends none.
    - `echoed_fields`: unknown fields of an assistant message that go back as they came.
    - `echoes_call_fields`: unknown fields of tool calls (thought signatures) go back, too.
    - `result_media`: where images, audio and files of a tool's result are sent: in a user message
      after the results of the batch, in the tool message itself (OpenAI refuses them there, and
      every later request of the conversation with them), or nowhere; then tool messages hold a
      string, never a list of parts. Where they are taken out of the tool message, its text notes
      each of them.
    - `answers_results`: add a short assistant message where a user message would follow a tool
      message or another user message, for endpoints that refuse that order.
    - `call_ids`: "nine" for endpoints that take nothing but nine letters and digits; other ids
      are replaced, the same everywhere in the request.
    - `structured`: how answers of a type are asked for: by `response_format` with a JSON Schema,
      by a final tool, or in words; tools work on most endpoints.
    - `requires_calls`: `tool_choice` may ask for a call ("required", or a tool by name).
    """

    sends: Literal["history", "new_messages"] = "history"
    session_in: Literal["header", "body"] = "header"
    streams: bool = True
    include_usage: bool = True
    system_role: Literal["system", "developer"] = "system"
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    null_content: bool = True
    reasoning_field: str | None = None
    echoed_fields: tuple[str, ...] = ("reasoning_details",)
    echoes_call_fields: bool = True
    result_media: ResultMedia = "user_message"
    answers_results: bool = False
    call_ids: Literal["any", "nine"] = "any"
    structured: Literal["response_format", "tool", "prompt"] = "tool"
    requires_calls: bool = True


DEFAULT_PROFILE = EndpointProfile()

PROFILES = {
    "default": DEFAULT_PROFILE,
    # Its reasoning models refuse max_tokens.
    "openai": EndpointProfile(
        max_tokens_field="max_completion_tokens", structured="response_format"
    ),
    # Answers 400 to a history whose tool calls lack their reasoning (langchain-ai/langchain#34166),
    # and, while it reasons, to being told to call a tool (deepseek-ai/DeepSeek-V3#1376).
    "deepseek": EndpointProfile(reasoning_field="reasoning_content", requires_calls=False),
    # Answers 422 to fields and ids that it does not know (langchain-ai/langchain#24668), and 400 to
    # a user message after a tool message (mistralai/mistral-common#169).
    "mistral": EndpointProfile(
        include_usage=False,
        echoed_fields=(),
        echoes_call_fields=False,
        answers_results=True,
        call_ids="nine",
    ),
    # For servers that refuse whatever their documentation does not name.
    "strict": EndpointProfile(
        include_usage=False,
        null_content=False,
        echoed_fields=(),
        echoes_call_fields=False,
        structured="prompt",
        requires_calls=False,
    ),
}
"""Profiles by the name of what they suit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How the model is to answer; None leaves a field out, so that the endpoint decides.

    The names are OpenAI's. A `tool_choice` that forces a call holds for the first answer after a
    user's message. `extra` is added to the request body as given and wins over the rest.
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

    def __post_init__(self) -> None:
        if "messages" in self.extra:
            raise ValueError("extra['messages'] would replace the conversation; leave it out")


@dataclass(frozen=True)
class RequestTemplate:
    """All of a request but its messages, encoded once: `encode` adds those.

    `tools` are OpenAI tool definitions; `final_tool` is one more, whose call is the answer.
    `instructions` go first, as a system message; with `sends="new_messages"` only before the
    first answer.
    """

    model: str | None = None
    instructions: str | None = None
    tools: Sequence[JSONValue] = ()
    options: ModelOptions = field(default_factory=ModelOptions)
    profile: EndpointProfile = DEFAULT_PROFILE
    final_tool: Mapping[str, JSONValue] | None = None

    def encode(self, messages: Sequence[Message], *, session_id: str | None = None) -> bytes:
        """Return the request body for these messages, with `session_id` as a field unless None."""
        news = self.profile.sends == "new_messages"
        sent = _after_last_answer(messages) if news else messages
        parts = _encode_all(sent, self.profile)
        if self._instructions and len(sent) == len(messages):
            parts.insert(0, self._instructions)
        # One join, so that a long history is copied once.
        separated = [b","] * (2 * len(parts) - 1)
        separated[::2] = parts
        session = b"" if session_id is None else b',"session_id":' + write_json(session_id)
        return b"".join((b'{"messages":[', *separated, b"]", session, self._rest))

    @cached_property
    def without_calls(self) -> "RequestTemplate":
        """The same, asking for an answer that calls no tool but the final one."""
        if self.final_tool is None:
            return self._choosing("none")
        if not self.profile.requires_calls:
            return replace(self, tools=())
        function: Any = self.final_tool["function"]
        return self._choosing({"type": "function", "function": {"name": function["name"]}})

    @cached_property
    def after_first(self) -> "RequestTemplate":
        """The same for the answers that follow the first one after a user's message.

        A call that was forced is made by then: to go on forcing it would never let the model answer.
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
        """The body after the messages: every other field, and the closing brace."""
        # Never just a brace: `stream` is always there.
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
            # Endpoints refuse these two where there are no tools.
            "tool_choice": self._tool_choice() if tools else None,
            "parallel_tool_calls": options.parallel_tool_calls if tools else None,
            "reasoning_effort": options.reasoning_effort,
            "response_format": options.response_format,
            "stream": self.profile.streams,
            "stream_options": self._stream_options(),
        }
        return {k: v for k, v in fields.items() if v is not None} | dict(options.extra)

    def _tool_choice(self) -> str | Mapping[str, JSONValue] | None:
        wants_call = self.final_tool is not None and self.profile.requires_calls
        return self.options.tool_choice or ("required" if wants_call else None)

    def _stream_options(self) -> dict[str, bool] | None:
        return (
            {"include_usage": True} if self.profile.streams and self.profile.include_usage else None
        )


class _Encoded(NamedTuple):
    """The wire bytes kept on a message, and on some those of the history that ends there.

    `carried` are content parts of a tool's result that a user message holds (`_between`).
    `joined` are the bytes of the messages `before` and its own, with commas between.
    """

    profile: EndpointProfile
    data: bytes
    carried: bytes = b""
    before: tuple[Message, ...] = ()
    joined: bytes = b""


_WIRE: MemberDescriptorType = MessageBase.__dict__["wire"]
# So many pieces are joined, and one from then on: a history of 400 messages takes a sixth of the
# time. To join anew for each request would copy all of it twice.
_JOINED_TOGETHER = 32

# Stands before a user message, for endpoints that want an answer before each of them.
_ANSWERED = b'{"role":"assistant","content":"OK."}'


def encode_message(message: Message, profile: EndpointProfile = DEFAULT_PROFILE) -> bytes:
    """Return a message's wire bytes; encode it only the first time."""
    return _encoded(message, profile).data


def _encoded(message: Message, profile: EndpointProfile) -> _Encoded:
    try:
        # Through the slot itself: pydantic's own lookup of what is missing costs ten times more.
        kept: _Encoded = _WIRE.__get__(message)
        if kept.profile is profile or kept.profile == profile:
            return kept
    except AttributeError:
        pass
    # A copy: msgspec leaves its bytes in a buffer that is half as large again, and these are kept.
    data = bytes(memoryview(write_json(wire_message(message, profile))))
    return _keep(message, _Encoded(profile, data, _carried_parts(message, profile)))


def _keep(message: Message, encoded: _Encoded) -> _Encoded:
    # The message is frozen to its users; this slot is no part of its value.
    _WIRE.__set__(message, encoded)
    return encoded


def _encode_all(messages: Sequence[Message], profile: EndpointProfile) -> list[bytes]:
    """Return the messages' bytes in pieces; the first may be of many messages."""
    start, tail, parts = len(messages), [], []
    while start:
        encoded = _encoded(messages[start - 1], profile)
        if encoded.joined and encoded.before == tuple(messages[: start - 1]):
            parts.append(encoded.joined)
            break
        tail.append(encoded)
        start -= 1
    tail.reverse()
    parts += [encoded.data for encoded in tail]
    added: list[bytes] = []
    if (
        profile.answers_results
        or any(encoded.carried for encoded in tail)
        or _carried(_results_before(messages, start), profile)
    ):
        _insert_between(messages, start, parts, profile)
        added = _between(messages, len(messages), profile)
    if len(parts) > _JOINED_TOGETHER:
        parts[:-1] = [_join(messages[:-1], start, parts[:-1], profile)]
    return parts + added


def _join(
    messages: Sequence[Message], start: int, parts: Sequence[bytes], profile: EndpointProfile
) -> bytes:
    """Join all but the newest message, and keep the bytes on the last of them only.

    `start` is the number of messages that were joined before.
    """
    joined = b",".join(parts)
    for message in messages[max(0, start - 1) : -1]:
        encoded = _encoded(message, profile)
        if encoded.joined:
            _keep(message, encoded._replace(before=(), joined=b""))
    last = _encoded(messages[-1], profile)
    _keep(messages[-1], last._replace(before=tuple(messages[:-1]), joined=joined))
    return joined


def _insert_between(
    messages: Sequence[Message], start: int, parts: list[bytes], profile: EndpointProfile
) -> None:
    """Write what stands between messages in front of the parts from `start` on."""
    for place in range(start, len(messages)):
        if added := _between(messages, place, profile):
            part = place - len(messages)
            parts[part] = b",".join((*added, parts[part]))


def _between(messages: Sequence[Message], place: int, profile: EndpointProfile) -> list[bytes]:
    """Return the messages to add before a place: after results, those that carry their media.

    They depend on the next message, so the bytes joined up to a place never hold them.
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
    """Return the results that end at a place, in order."""
    results: list[ToolMessage] = []
    while place and isinstance(message := messages[place - 1], ToolMessage):
        results.insert(0, message)
        place -= 1
    return results


def _carried(results: Iterable[ToolMessage], profile: EndpointProfile) -> bytes:
    """Return the content parts that a user message holds; of several results, each names its call."""
    carried = {
        result.tool_call_id: parts
        for result in results
        if (parts := _encoded(result, profile).carried)
    }
    if len(carried) < 2:
        return b"".join(carried.values())
    return b",".join(_origin(call_id, profile) + b"," + carried[call_id] for call_id in carried)


def _origin(call_id: str, profile: EndpointProfile) -> bytes:
    text = f"{RESULT_ORIGIN}{_call_id(call_id, profile)}:"
    return write_json({"type": "text", "text": text})


def _carried_parts(message: Message, profile: EndpointProfile) -> bytes:
    if not isinstance(message, ToolMessage):
        return b""
    return write_json(write_parts(carried_parts(message.content, profile.result_media)))[1:-1]


def wire_message(message: Message, profile: EndpointProfile = DEFAULT_PROFILE) -> dict[str, object]:
    """Return a message as the JSON object an endpoint of this profile reads."""
    match message:
        case SystemMessage():
            content = text_content(message.content)
            return {"role": profile.system_role, **_name(message), "content": content}
        case ToolMessage():
            call_id = _call_id(message.tool_call_id, profile)
            content = result_content(message.content, profile.result_media)
            return {"role": "tool", "tool_call_id": call_id, "content": content}
        case AssistantMessage():
            return _wire_assistant(message, profile)
        case UserMessage():
            return {"role": "user", **_name(message), "content": any_content(message.content)}


def _name(message: SystemMessage | UserMessage) -> dict[str, object]:
    name = _NOT_IN_SPEAKERS.sub("_", message.name or "")[:_NAME_LENGTH]
    return {"name": name} if name else {}


def _wire_assistant(message: AssistantMessage, profile: EndpointProfile) -> dict[str, object]:
    wire: dict[str, object] = {"role": "assistant"}
    if message.content is not None:
        wire["content"] = text_content(message.content)
    elif not message.tool_calls:
        # An answer of nothing, or a refusal: a message needs a content that is text.
        wire["content"] = message.refusal or ""
    elif profile.null_content:
        wire["content"] = None
    if message.tool_calls:
        wire["tool_calls"] = [_wire_call(call, profile) for call in message.tool_calls]
        if profile.reasoning_field and message.reasoning:
            wire[profile.reasoning_field] = message.reasoning
    for name in profile.echoed_fields:
        if name in message.extra:
            wire[name] = message.extra[name]
    return wire


def _wire_call(call: ToolCall, profile: EndpointProfile) -> dict[str, object]:
    extra = call.extra if profile.echoes_call_fields else {}
    function = {
        "name": _NOT_IN_NAMES.sub("_", call.name)[:_NAME_LENGTH] or "unnamed",
        # vLLM, SGLang and llama.cpp refuse a conversation in which one call's arguments are no JSON
        # object. The call's result tells the model what was wrong with them.
        "arguments": call.arguments if is_json_object(call.arguments) else "{}",
    }
    return {**extra, "id": _call_id(call.id, profile), "type": "function", "function": function}


def _call_id(call_id: str, profile: EndpointProfile) -> str:
    if profile.call_ids == "any" or _NINE.fullmatch(call_id):
        return call_id
    return hashlib.blake2b(call_id.encode(), digest_size=5).hexdigest()[:9]


def _after_last_answer(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages that an endpoint that keeps the history does not have yet."""
    for index in range(len(messages) - 1, -1, -1):
        if isinstance(messages[index], AssistantMessage):
            return messages[index + 1 :]
    return messages
