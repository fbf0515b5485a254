"""The messages of a conversation: frozen values, one class per role.

A message holds its content, and an answer its metadata. Its JSON form is OpenAI's message object, and
beside it the fields of this library: in stored histories, in stores and in answers of servers.
"""

from collections.abc import Container, Iterator, Mapping
from functools import cache
from itertools import count
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

from pathors_agent.media import MediaSource, audio_data, file_fields, image_url

JSONValue = JsonValue
"""What a JSON text can hold, as Python values."""


class Value(BaseModel):
    """A frozen value. Its repr and its errors show the size of its contents, never the contents."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,  # no JSON text can hold them
        defer_build=True,  # until the first value: a tenth of the time of this library's imports
    )

    # A repr shows these fields, by which programs tell values apart. All others may be private.
    _SHOWN: ClassVar[frozenset[str]] = frozenset(
        {"id", "name", "tool_call_id", "finish_reason", "model", "type", "outcome"}
    )

    def __setattr__(self, name: str, value: object) -> None:
        # pydantic's own error contains the value.
        kind = type(self).__name__
        raise AttributeError(f"{kind} is frozen; model_copy(update={{...}}) returns a changed copy")

    def __repr_args__(self) -> Iterator[tuple[str | None, object]]:
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name == "role" or value in (field.default, {}):
                continue
            shown = name in self._SHOWN or isinstance(value, Value)
            yield name, value if shown else _Counted(value)


class _Counted:
    """Stands for a private value in a repr: shows its size, or its items if they hide their own."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        match self._value:
            case str() as text:
                return f"<{len(text)} chars>"
            case tuple() as items:
                return repr(items)
            case Mapping() as fields:
                return f"<{len(fields)} fields>"
            case other:
                return repr(other)


class ContentPart(Value):
    """One part of a content list: text, an image, an audio clip or a file.

    `type` is OpenAI's part type ("text", "image_url", "input_audio", "file"). Fields of parts other
    than text are stored unread. `image`, `audio` and `file` build such parts.
    """

    model_config = ConfigDict(extra="allow")
    # Typed for pydantic; `init=False` is for type checkers only, as its documentation says.
    __pydantic_extra__: dict[str, JSONValue] = Field(init=False)

    type: str = Field(min_length=1)
    text: str | None = None

    @model_validator(mode="after")
    def _text_part_has_text(self) -> Self:
        if self.type == "text" and self.text is None:
            # pydantic puts "Value error, " before the text of a ValueError.
            raise PydanticCustomError("no_text", "a part of type 'text' needs its field 'text'")
        return self

    @classmethod
    def image(
        cls,
        source: MediaSource,
        *,
        media_type: str | None = None,
        detail: Literal["auto", "low", "high"] | None = None,
    ) -> Self:
        """Return an image: the bytes of a PNG, JPEG, GIF or WebP, a path, or a URL.

        The bytes decide the type. Another type needs `media_type`, and an endpoint that
        accepts it. The endpoint fetches an `https:` URL. Raises ValueError for data that is no such
        image, or has more than `MAX_PART_BYTES`.
        """
        sized = {} if detail is None else {"detail": detail}
        return cls._of("image_url", {"url": image_url(source, media_type), **sized})

    @classmethod
    def audio(cls, source: MediaSource, *, media_type: str | None = None) -> Self:
        """Return an audio clip: the bytes of a WAV or MP3 file, a path, or a `data:` URL.

        Another type needs `media_type`, and an endpoint that accepts it. Raises ValueError as
        `image` does, and for other URLs, which endpoints do not fetch.
        """
        data, kind = audio_data(source, media_type)
        return cls._of("input_audio", {"data": data, "format": kind})

    @classmethod
    def file(
        cls, source: MediaSource, *, filename: str | None = None, media_type: str | None = None
    ) -> Self:
        """Return a file: its bytes, its path, a `data:` URL, or the id of an uploaded file.

        The type is read from the bytes, or from the suffix of `filename`, which is the name that
        the model reads. Most endpoints accept PDF only. Raises ValueError if the type is unknown,
        and as `audio` does.
        """
        return cls._of("file", {**file_fields(source, filename, media_type)})

    @classmethod
    def _of(cls, kind: str, value: JSONValue) -> Self:
        return cls.model_validate({"type": kind, kind: value})

    def __repr_args__(self) -> Iterator[tuple[str | None, object]]:
        yield from super().__repr_args__()
        for name, value in (self.model_extra or {}).items():
            yield name, f"<{type(value).__name__}>"


Content = str | tuple[ContentPart, ...]
"""Text, or a list of parts."""


class ToolCall(Value):
    """A model's request to run one tool.

    `id` connects the call with its result, and `name` is that of the tool. `arguments` is the JSON
    text as the model wrote it, unchecked and never repaired. `extra` holds what the provider sent
    beside it (such as a thought signature); it is sent back unchanged.
    """

    id: str = Field(min_length=1)
    name: str
    arguments: str = ""
    extra: dict[str, JSONValue] = Field(default_factory=dict)


class Usage(Value):
    """Tokens counted by the provider; None where it reported no count.

    `cached_tokens` are part of the `prompt_tokens`, and `reasoning_tokens` of the
    `completion_tokens`.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None

    _SHOWN: ClassVar[frozenset[str]] = frozenset(
        {"prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"}
    )

    def __add__(self, other: "Usage") -> "Usage":
        """Sum two usages field by field; unknown plus anything is unknown."""
        sums: dict[str, int | None] = {}
        for name in Usage.model_fields:
            a, b = getattr(self, name), getattr(other, name)
            sums[name] = None if a is None or b is None else a + b
        return Usage.model_validate(sums)


class MessageBase(Value):
    """What every message has: a place for the bytes it was encoded to."""

    # The wire bytes per endpoint profile, kept by `chat_completions` so that a long history is
    # encoded once. A slot, so that copies, comparisons and pickles never see it.
    __slots__ = ("wire",)


class SystemMessage(MessageBase):
    """Instructions to the model; wire role "system" ("developer" is read as the same).

    `name` is sent with the message, if it is set.
    """

    role: Literal["system"] = "system"
    content: Content
    name: str | None = None

    @property
    def text(self) -> str:
        """The text of the content, its parts joined."""
        return content_text(self.content)


class UserMessage(MessageBase):
    """A message of the user.

    `name` is sent with the message, if it is set. `feedback` marks a message that the library wrote
    because an answer did not fit the requested type: limits continue to count after it.
    """

    role: Literal["user"] = "user"
    content: Content
    name: str | None = None
    feedback: bool = False

    @property
    def text(self) -> str:
        """The text of the content, its parts joined; other parts are left out."""
        return content_text(self.content)


EndedBy = Literal["length", "content_filter", "refusal"]
"""The reason why an answer ended early."""

# In lower case, with underscores. OpenAI's words first; then those of Anthropic, Gemini, Mistral, GLM
# and Cohere.
_ENDED_BY: dict[str, EndedBy] = {
    **dict.fromkeys(
        (
            "length",
            "max_tokens",
            "max_output_tokens",
            "max_length",
            "model_length",
            "model_context_window_exceeded",
            "error_limit",
        ),
        "length",
    ),
    **dict.fromkeys(
        (
            "content_filter",
            "content_filtered",
            "safety",
            "recitation",
            "blocklist",
            "prohibited_content",
            "spii",
            "sensitive",
            "guardrail_intervened",
            "image_safety",
            "image_prohibited_content",
            "error_toxic",
        ),
        "content_filter",
    ),
    "refusal": "refusal",
}


_USUAL_ENDS = frozenset({"stop", "tool_calls"})


class AssistantMessage(MessageBase):
    """An answer of the model: text, tool calls, or both.

    `reasoning` is the text of the model's reasoning, and `refusal` its reason for not answering.
    `finish_reason`, `usage`, `model` and `id` are the provider's values, or None. `extra` holds the other
    fields of the provider's message.
    """

    role: Literal["assistant"] = "assistant"
    content: Content | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    refusal: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    model: str | None = None
    id: str | None = None
    extra: dict[str, JSONValue] = Field(default_factory=dict)

    @property
    def text(self) -> str:
        """The text of the content, its parts joined; empty when there is none."""
        return content_text(self.content)

    @property
    def ended_by(self) -> EndedBy | None:
        """The reason why the answer ended early: its length, a content filter or a refusal.

        None for an answer that the model ended itself. Providers' other words for the
        finish_reason are read as OpenAI's.
        """
        if self.finish_reason not in _USUAL_ENDS:
            # Gemini's gateways send such as "content_filter: RECITATION".
            reason = (self.finish_reason or "").partition(":")[0].lower().replace("-", "_")
            if ended_by := _ENDED_BY.get(reason):
                return ended_by
        is_refused = self.refusal and not self.text and not self.tool_calls
        return "refusal" if is_refused else None


Outcome = Literal["value", "error", "timeout", "cancelled", "not_run", "unknown", "suspended"]
"""How a tool call ended: with a value; with an error of its arguments or function; timed out;
cancelled with its run; not run (a limit, a denied approval); or unknown. A call that is "suspended"
has not ended: the agent that it runs waits, and another result follows."""


class ToolMessage(MessageBase):
    """The result of one tool call. The model reads `content`; the other fields are for programs.

    - `tool_call_id`: the `id` of the `ToolCall`.
    - `outcome`: how the call ended.
    - `ends_tool`: the tool does not run again before the next message of the user.
    - `invalid`: the call named no tool, or its arguments did not fit. `Limits.call_retries` counts
      such calls.
    - `extra`: `extra["run"]` has the messages and the usage of an agent that the tool ran, and
      `load_messages` reads it.
    """

    role: Literal["tool"] = "tool"
    tool_call_id: str = Field(min_length=1)
    content: Content
    outcome: Outcome = "value"
    ends_tool: bool = False
    invalid: bool = False
    extra: dict[str, JSONValue] = Field(default_factory=dict)

    @property
    def is_error(self) -> bool:
        """Whether the outcome is anything but a value."""
        return self.outcome != "value"

    @property
    def text(self) -> str:
        """The text of the content, its parts joined."""
        return content_text(self.content)


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
"""Any message; as a pydantic type, a union discriminated by `role`."""


# - messages as JSON objects

_CALL_FIELDS = frozenset({"id", "type", "function"})
# Keys of a call's `extra` that would be taken for another field: such an `extra` is one field.
_NESTED = _CALL_FIELDS | {"extra"}


@cache
def _adapter() -> TypeAdapter[Message]:
    """Return the validator of messages; built lazily, which saves a millisecond of imports."""
    return TypeAdapter(Message)


def write_message(message: Message) -> dict[str, JSONValue]:
    """Return the JSON object of a message, without fields that have their defaults."""
    fields = message.model_dump(mode="json", exclude_defaults=True)
    written: dict[str, JSONValue] = {"role": message.role, "content": None, **fields}
    if isinstance(message, AssistantMessage) and message.tool_calls:
        written["tool_calls"] = [write_call(call) for call in message.tool_calls]
    return written


def write_call(call: ToolCall) -> dict[str, JSONValue]:
    """Return the JSON object of a call."""
    function: dict[str, JSONValue] = {"name": call.name, "arguments": call.arguments}
    extra = call.extra if _NESTED.isdisjoint(call.extra) else {"extra": call.extra}
    return {**extra, "id": call.id, "type": "function", "function": function}


def parse_message(value: object, *, is_flat: bool = True) -> Message:
    """Return the message of a JSON object; raise pydantic's `ValidationError` for any other value.

    With `is_flat`, calls may also have the form of earlier versions; see `own_fields`.
    """
    return _adapter().validate_python(own_fields(value, is_flat=is_flat))


def own_fields(value: object, *, is_flat: bool = True) -> object:
    """Return a JSON object with the fields of the message classes, unchecked.

    Earlier versions stored calls as `{"id": ..., "name": ..., "arguments": ..., "extra": ...}`.
    With `is_flat`, calls without a `function` are read as such.
    """
    if not isinstance(value, Mapping):
        return value
    fields = dict(value)
    calls, parts = fields.get("tool_calls"), fields.get("content")
    if isinstance(calls, list):
        fields["tool_calls"] = [_own_call(call, is_flat=is_flat) for call in calls]
    if isinstance(parts, list):
        known: dict[str, ContentPart] = {}
        fields["content"] = [_own_part(part, known) for part in parts]
    return fields


def _own_call(call: JSONValue, *, is_flat: bool) -> JSONValue:
    if not isinstance(call, dict) or (is_flat and "function" not in call):
        return call
    function = call.get("function")
    extra = {k: v for k, v in call.items() if k not in _CALL_FIELDS}
    nested = extra.get("extra")
    if isinstance(nested, dict) and not _NESTED.isdisjoint(nested):
        extra = nested
    fields = function if isinstance(function, dict) else {}
    known = {k: fields[k] for k in ("name", "arguments") if fields.get(k) is not None}
    return {"id": call.get("id"), **known, **({"extra": extra} if extra else {})}


def _own_part(part: JSONValue, known: dict[str, ContentPart]) -> object:
    """Return plain text parts as values, one object for equal texts.

    A few megabytes hold hundreds of thousands of parts. As many objects would stop the whole
    process for half a second whenever Python collects garbage.
    """
    match part:
        case {"type": "text", "text": str(text), **extra} if not extra:
            return known.get(text) or known.setdefault(text, ContentPart(type="text", text=text))
        case _:
            return part


# - parts and ids


def content_text(content: Content | None) -> str:
    """Join the text parts of a content; an absent content is empty."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text or "" for part in content if part.type == "text")


def unused_call_id(turn: int, position: int, taken: Container[str]) -> str:
    """Return an id for the call at `position` of assistant message `turn`: equal on every replay.

    Mistral takes exactly nine letters and digits; no server is known to refuse them.
    """
    for stride in count():
        call_id = f"t{turn % 10_000:04d}c{(position + stride * _CALL_ID_STRIDE) % 1_000:03d}"
        if call_id not in taken:
            return call_id
    raise AssertionError("unreachable")  # `count` has no end


# Coprime to 1,000, and past the most calls an answer may have.
_CALL_ID_STRIDE = 131
