"""Read a decoded chunk or completion into a message, whatever its shape.

Two readers: `decode_chunk` and `decode_completion` accept only the usual shapes, fast. `read_chunk`
tolerates any shape; a whole completion is a chunk whose delta is the message.
"""

import json
import re
from collections.abc import Callable, Mapping
from sys import intern
from typing import Annotated, Literal

import msgspec

from pathors_agent.errors import ProviderError
from pathors_agent.json_text import is_deeper, write_json
from pathors_agent.messages import JSONValue, Usage
from pathors_agent.wire.deltas import Delta
from pathors_agent.wire.message_builder import MessageBuilder
from pathors_agent.wire.provider_errors import find_error, is_failure
from pathors_agent.wire.usage import merged_usage, read_usage, usages_of

# How many events of a stream are compared with later ones: some servers send a time with each.
MAX_FRAMES = 3
# Deeper than any answer; everything kept here must be serialisable again.
MAX_DEPTH = 100

# - The usual chunk: text, reasoning or pieces of calls for the first choice. A field that needs
#   attention if it is present is declared as null, so that decoding fails for any other value;
#   `forbid_unknown_fields` does the same where unknown fields are kept. The fields are in the order
#   in which servers send them, which makes their lookup faster.


class FunctionPiece(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """`delta.tool_calls[].function`."""

    arguments: str | None = None
    name: str | None = None


class CallPiece(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """`delta.tool_calls[]`."""

    index: Annotated[int, msgspec.Meta(ge=0)]
    function: FunctionPiece
    id: str | None = None
    type: str | None = None


class ChoiceDelta(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """`choices[].delta`."""

    content: str | None = None
    tool_calls: list[CallPiece] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    role: str | None = None
    refusal: None = None


class Choice(msgspec.Struct, gc=False):
    """`choices[]`."""

    delta: ChoiceDelta
    index: Literal[0] = 0
    finish_reason: Literal[""] | None = None
    logprobs: None = None
    error: None = None
    usage: None = None


class Chunk(msgspec.Struct, gc=False):
    """One `chat.completion.chunk`; the tolerant reader takes id and model from the first chunks."""

    choices: tuple[Choice]
    usage: None = None
    error: None = None
    tool_calls: None = None
    x_groq: None = None
    usageMetadata: None = None  # noqa: N815  (Gemini's name)
    usage_metadata: None = None


decode_chunk = msgspec.json.Decoder(Chunk).decode
decode_text = msgspec.json.Decoder(str).decode

# What both raise for anything else; UnicodeDecodeError is not a `DecodeError`.
UNUSUAL = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class TextFrame(msgspec.Struct, frozen=True, gc=False):
    """The bytes of an event around its text, from the quote before it and to the quote after it.

    Most servers send the same frame with each piece of a text. Of an event with a known frame only
    the JSON string must be decoded, which is the slice from `start` to `stop`.
    """

    before: bytes
    after: bytes
    start: int
    stop: int

    @classmethod
    def of(cls, chunk: bytes, content: str) -> "TextFrame | None":
        """Return the frame of a usual chunk; None if its string is not found."""
        string = b'"%b"' % content.encode()
        place = chunk.find(string, chunk.find(b'"content"') + 1)
        if place < 0:  # it is written with escapes
            return None
        before, after = chunk[: place + 1], chunk[place + len(string) - 1 :]
        other = content[1:] + "?"
        try:
            [choice] = decode_chunk(b"%b%b%b" % (before, other.encode(), after)).choices
        except UNUSUAL:
            return None
        if choice.delta.content != other or other == content:  # the string of another field
            return None
        before, after = b"data: " + before, after + b"\n\n"
        return cls(before, after, len(before) - 1, 1 - len(after))


# - The first chunk, which names the answer, and the last ones, with its reason and its counts.

_Count = Annotated[int, msgspec.Meta(ge=0)]


class PromptDetails(msgspec.Struct, gc=False):
    """`usage.prompt_tokens_details`."""

    cached_tokens: _Count | None = None


class CompletionDetails(msgspec.Struct, gc=False):
    """`usage.completion_tokens_details`."""

    reasoning_tokens: _Count | None = None


class Counts(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """`usage`."""

    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    def usage(self) -> Usage:
        """Return the counts."""
        cached, reasoning = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            total_tokens=self.total_tokens or self.prompt_tokens + self.completion_tokens,
            cached_tokens=cached.cached_tokens if cached else None,
            reasoning_tokens=reasoning.reasoning_tokens if reasoning else None,
        )


class EndChoice(msgspec.Struct, gc=False):
    """`choices[]`; it may have a reason."""

    delta: ChoiceDelta
    index: Literal[0] = 0
    finish_reason: str | None = None
    logprobs: None = None
    error: None = None
    usage: None = None


class EndChunk(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """One `chat.completion.chunk` with the fields that only the first and the last ones have."""

    choices: Annotated[list[EndChoice], msgspec.Meta(max_length=1)]
    id: str | None = None
    object: Literal["chat.completion.chunk"] | None = None
    created: float | None = None
    model: str | None = None
    service_tier: str | None = None
    system_fingerprint: str | None = None
    usage: Counts | None = None
    obfuscation: str | None = None


decode_end_chunk = msgspec.json.Decoder(EndChunk).decode


# - The usual completion, with the same rules.


class WholeFunction(msgspec.Struct, gc=False):
    """`message.tool_calls[].function`."""

    name: str
    arguments: str


class WholeCall(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """`message.tool_calls[]`."""

    id: str
    function: WholeFunction
    type: str | None = None
    index: int | None = None


class WholeMessage(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """`choices[].message`."""

    role: str
    content: str | None = None
    tool_calls: list[WholeCall] | None = None
    refusal: None = None
    annotations: Annotated[list[None], msgspec.Meta(max_length=0)] | None = None
    audio: None = None
    function_call: None = None


class WholeChoice(msgspec.Struct, gc=False):
    """`choices[]`."""

    message: WholeMessage
    index: Literal[0] = 0
    finish_reason: str | None = None
    logprobs: None = None
    error: None = None
    usage: None = None
    usageMetadata: None = None  # noqa: N815
    usage_metadata: None = None


class Completion(msgspec.Struct, gc=False):
    """One `chat.completion`."""

    choices: tuple[WholeChoice]
    id: str | None = None
    model: str | None = None
    session_id: str | None = None
    usage: Counts | None = None
    error: None = None
    tool_calls: None = None
    x_groq: None = None
    usageMetadata: None = None  # noqa: N815
    usage_metadata: None = None


decode_completion = msgspec.json.Decoder(Completion).decode


def read_completion(body: bytes, builder: MessageBuilder, deltas: list[Delta]) -> bool:
    """Read a completion of the usual shape; return False for a body of any other shape."""
    try:
        completion = decode_completion(body)
    except UNUSUAL:
        return False
    [choice] = completion.choices
    if is_failure(choice.finish_reason):
        return False
    builder.id = completion.id or None
    builder.model = intern(completion.model) if completion.model else None
    builder.session_id = completion.session_id or None
    builder.finish_reason = choice.finish_reason
    if completion.usage is not None:
        builder.usage = completion.usage.usage()
    message = choice.message
    if message.content:
        builder.add_text(message.content, deltas)
    for place, call in enumerate(message.tool_calls or ()):
        name, arguments = call.function.name, call.function.arguments
        builder.add_piece(deltas, index=place, id=call.id, name=name, arguments=arguments)
    return True


Builders = Callable[[int], MessageBuilder]
"""Returns the builder of the choice with this index."""


# - Any other chunk, and whole completions.


def loads(text: str | bytes) -> JSONValue:
    """Decode JSON as tolerantly as Python's parser; NaN and infinities become null.

    Raise ValueError for other texts, and for more than `MAX_DEPTH` levels.
    """
    try:
        value: JSONValue = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        try:
            value = json.loads(text, parse_constant=lambda _: None)
        except RecursionError:
            raise ValueError("nested too deeply") from None
    if is_deeper(value, text, MAX_DEPTH):
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    return value


def read_chunk(
    chunk: Mapping[str, JSONValue],
    builder_of: Builders,
    deltas: list[Delta],
    *,
    is_completion: bool = False,
) -> ProviderError | None:
    """Add a chunk or a completion of any shape to the message; return the error in it, if any.

    If a choice has both a delta and a message, a chunk is read by its delta, and a completion by
    its message.
    """
    choices = [c for c in as_list(chunk.get("choices")) if isinstance(c, dict)]
    if error := find_error(chunk, is_answer=bool(choices)):
        return error
    first = builder_of(0)
    first.id = first.id or as_text(chunk.get("id")) or None
    # Interned: one string for all the answers of a model.
    first.model = first.model or intern(as_text(chunk.get("model"))) or None
    first.session_id = first.session_id or as_text(chunk.get("session_id")) or None
    for usage in usages_of(chunk):
        first.usage = merged_usage(first.usage, read_usage(usage))
    for choice in choices:
        if error := find_error(choice, is_answer=True):
            return error
        index = as_index(choice.get("index")) or 0
        out = deltas if index == 0 else []
        names = ("message", "delta") if is_completion else ("delta", "message")
        _read_choice(choice, names, builder_of(index), out)
    for position, piece in enumerate(as_list(chunk.get("tool_calls"))):
        first.note("top_level_tool_calls", "tool_calls stood beside choices")
        _read_call(piece, first, deltas, whole_at=position)
    return None


def _read_choice(
    choice: Mapping[str, JSONValue],
    names: tuple[str, str],
    builder: MessageBuilder,
    deltas: list[Delta],
) -> None:
    for name in names:
        if isinstance(delta := choice.get(name), dict):
            _read_delta(delta, builder, deltas, whole=name == "message")
            break
    reason = choice.get("finish_reason")
    if isinstance(reason, str) and (reason or names[0] == "message"):
        builder.finish_reason = reason
    if isinstance(logprobs := choice.get("logprobs"), dict):
        builder.keep("logprobs", logprobs)


def _read_delta(
    delta: Mapping[str, JSONValue], builder: MessageBuilder, deltas: list[Delta], *, whole: bool
) -> None:
    if reasoning := as_text(delta.get("reasoning_content")) or as_text(delta.get("reasoning")):
        builder.add_reasoning(reasoning, deltas)
    _read_content(delta.get("content"), builder, deltas)
    if refusal := as_text(delta.get("refusal")):
        builder.add_refusal(refusal)
    for position, piece in enumerate(as_entries(delta.get("tool_calls"))):
        _read_call(piece, builder, deltas, whole_at=position if whole else None)
    call = as_object(delta.get("function_call"))
    name, arguments = as_text(call.get("name")), as_arguments(call.get("arguments"), builder)
    if name or arguments:
        builder.add_legacy_call(name, arguments, deltas)
    for field, value in delta.items():
        if field not in _READ_FIELDS and value not in (None, "", [], {}):
            builder.keep(field, value, whole=whole)


_READ_FIELDS = frozenset(
    {"role", "content", "reasoning", "reasoning_content", "refusal", "tool_calls", "function_call"}
)


def _read_content(content: JSONValue, builder: MessageBuilder, deltas: list[Delta]) -> None:
    if isinstance(content, str):
        builder.add_text(content, deltas)
        return
    for part in as_entries(content):
        builder.note("content_parts", "content came as a list of parts")
        if isinstance(part, str):
            builder.add_text(part, deltas)
        elif isinstance(part, dict):
            _read_part(part, builder, deltas)


def _read_part(part: Mapping[str, JSONValue], builder: MessageBuilder, deltas: list[Delta]) -> None:
    match part.get("type"):
        case "text" | "output_text":
            builder.add_text(as_text(part.get("text")), deltas)
        case "thinking" | "reasoning":
            for text in _texts(part.get("thinking") or part.get("text")):
                builder.add_reasoning(text, deltas)
        case _:
            builder.keep("content_parts", [dict(part)])


def _texts(value: JSONValue) -> list[str]:
    """Return the texts of a thinking part: a string, or a list of text parts."""
    if isinstance(value, str):
        return [value]
    return [as_text(as_object(part).get("text")) for part in as_list(value)]


def _read_call(
    piece: JSONValue, builder: MessageBuilder, deltas: list[Delta], *, whole_at: int | None
) -> None:
    """Add one entry of a `tool_calls` list.

    `whole_at` is its position in a whole message, where each entry is one call.
    """
    if not isinstance(piece, dict):
        builder.note("odd_tool_call", f"an entry of tool_calls is a {type(piece).__name__}")
        return
    function = as_object(piece.get("function"))
    known = _CALL_FIELDS
    if not function and as_text(piece.get("name") or piece.get("arguments")):
        builder.note("flat_tool_call", "name and arguments stood beside the id, not in function")
        function, known = piece, _FLAT_CALL_FIELDS
    extra: dict[str, JSONValue] = {
        k: v for k, v in piece.items() if k not in known and v is not None
    }
    # In a whole message the position identifies a call, not the index that it claims.
    index = as_index(piece.get("index")) if whole_at is None else -1 - whole_at
    builder.add_piece(
        deltas,
        index=index,
        id=as_text(piece.get("id")),
        name=as_text(function.get("name")),
        arguments=as_arguments(function.get("arguments"), builder),
        extra=extra,
    )


_CALL_FIELDS = frozenset({"index", "id", "type", "function"})
_FLAT_CALL_FIELDS = _CALL_FIELDS | {"name", "arguments"}
_INDEX = re.compile("[0-9]{1,9}")


# - Lenient coercions.


def as_text(value: JSONValue) -> str:
    """Return a string, or "" for any other value."""
    return value if isinstance(value, str) else ""


def as_list(value: JSONValue) -> list[JSONValue]:
    """Return a list, or an empty one for any other value."""
    return value if isinstance(value, list) else []


def as_entries(value: JSONValue) -> list[JSONValue]:
    """Return a list, one object as a list of it, or an empty list for any other value."""
    return [value] if isinstance(value, dict) else as_list(value)


def as_object(value: JSONValue) -> dict[str, JSONValue]:
    """Return an object, or an empty one for any other value."""
    return value if isinstance(value, dict) else {}


def as_index(value: JSONValue) -> int | None:
    """Return an integer from 0, also if it came as text or 0.0; None for any other value."""
    if isinstance(value, str) and _INDEX.fullmatch(value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and value >= 0 else None


def as_arguments(value: JSONValue, builder: MessageBuilder) -> str:
    """Return arguments as JSON text, also if the server sent the value itself."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    builder.note("arguments_not_text", f"arguments came as a {type(value).__name__}")
    return write_json(value).decode()


def holds_message(value: Mapping[str, JSONValue]) -> bool:
    """Return True if a body has a message, a delta, tool calls or an error."""
    choices = [as_object(choice) for choice in as_list(value.get("choices"))]
    return (
        any(isinstance(c.get("message") or c.get("delta"), dict) for c in choices)
        or bool(as_list(value.get("tool_calls")))
        or find_error(value, is_answer=bool(choices)) is not None
        or any(find_error(choice, is_answer=True) for choice in choices)
    )
