"""Read the histories of other libraries: shared helpers, and OpenAI's chat completions. Pure.

Parts that cannot be represented in our messages are reported, never dropped silently.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from pathors_agent.json_text import write_json
from pathors_agent.messages import (
    AssistantMessage,
    ContentPart,
    Message,
    MessageBase,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.wire.messages import FIELDS_BY_ROLE, SAME_ROLE, read_client_messages

Object = Mapping[str, Any]


class HistoryReader:
    """The messages read so far and the problems found; `path` is the current one, `messages[2]`."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.indices: list[int] = []
        """The index in the source of each message that was read."""
        self.problems: list[str] = []
        self.path = ""

    def each(self, values: Iterable[Any]) -> Iterator[Object]:
        """Yield the foreign messages as JSON values; add messages of our own unchanged."""
        for index, value in enumerate(values):
            with self.at(f"messages[{index}]"):
                if isinstance(value, MessageBase):
                    self.messages.append(cast(Message, value))
                elif (fields := _as_json(value)) is not None:
                    yield fields
                else:
                    self.note(f"a {type(value).__name__} is not a message")
                self.indices += [index] * (len(self.messages) - len(self.indices))

    @contextmanager
    def at(self, path: str) -> Iterator[None]:
        """Append to the current path within a `with` block."""
        before, self.path = self.path, self.path + path
        try:
            yield
        finally:
            self.path = before

    def note(self, problem: str, path: str = "") -> None:
        """Report a problem at the current path, or below it."""
        self.problems.append(f"{self.path}{path}: {problem}")

    def add(self, build: Callable[[], Message]) -> None:
        """Build and add a message, or report why it is invalid."""
        try:
            self.messages.append(build())
        except ValidationError as error:
            [first, *_] = error.errors(include_url=False, include_input=False)
            path = ".".join(str(part) for part in first["loc"])
            self.note(f"{first['msg']} ({path})")

    def part(self, value: Any, path: str, kind: str, readers: "PartReaders") -> ContentPart | None:
        """Read a text or an object of a content; report it, and return None, if it is not supported.

        `kind` is the field with the kind of an object, and `readers` are by kind.
        """
        if isinstance(value, str):
            return ContentPart(type="text", text=value)
        found = value.get(kind) if isinstance(value, Mapping) else None
        read = readers.get(found) if isinstance(found, str) else None
        part = None if read is None else read(value)
        if part is None:
            self.note(f"a part of {kind} {found!r} is not supported", path)
            return None
        try:
            return ContentPart.model_validate(part)
        except ValidationError:
            self.note("is not a content part", path)
            return None


PartReaders = Mapping[str, Callable[[Object], Object | None]]
"""Functions from an object of another library to OpenAI's content part, or None."""


def _as_json(value: Any) -> Object | None:
    """Convert a message, perhaps an object of its library, to JSON values; None if impossible."""
    try:
        found = to_jsonable_python(value, exclude_none=True, bytes_mode="base64")
    except (PydanticSerializationError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_call(call_id: Any, name: Any, arguments: Any) -> ToolCall:
    """Build a tool call; raise `ValidationError` if it has no id."""
    text = json_text({} if arguments is None else arguments)
    return ToolCall(id=as_text(call_id), name=as_text(name), arguments=text)


def json_text(value: Any) -> str:
    """Return a string unchanged, and any other value as JSON text."""
    return value if isinstance(value, str) else write_json(value).decode()


def as_text(value: Any) -> str:
    """Return a string unchanged, and "" for any other value."""
    return value if isinstance(value, str) else ""


def image(url: str) -> Object:
    """Return an image as OpenAI's content part."""
    return {"type": "image_url", "image_url": {"url": url}}


def data_url(media_type: str, base64: str) -> str:
    """Return a data URL; bytes in pydantic's URL-safe base64 are converted to the standard one."""
    return f"data:{media_type};base64,{base64.replace('-', '+').replace('_', '/')}"


# - OpenAI

# Names that servers use for the reasoning they show.
_REASONING = ("reasoning_content", "reasoning")

# Fields that a model never sees, and names of tools, which the calls have as well.
_IGNORED = frozenset(
    {
        *("id", "type", "object", "index", "weight", "cache_control"),
        *("created", "created_at", "createdAt", "updated_at", "timestamp"),
    }
)
_IGNORED_OF_RESULTS = _IGNORED | {"name", "tool_name", "status", "is_error"}


def read_openai(values: Iterable[Any]) -> HistoryReader:
    """Read messages of chat completions: dicts, objects of the package openai, or our own."""
    reader = HistoryReader()
    for fields in reader.each(values):
        _read_message(reader, fields)
    return reader


def _read_message(reader: HistoryReader, value: Object) -> None:
    if "role" not in value and "type" in value:
        reader.note("an item of the Responses API; this reads messages of chat completions")
        return
    if kinds := _foreign_parts(value.get("content")):
        for kind in kinds:
            reader.note(
                f"a part {kind!r} is of another API; write it as tool_calls or a tool message"
            )
        value = {**value, "content": [p for p in value["content"] if _kind(p) not in kinds]}
        if not value["content"] and not value.get("tool_calls"):
            return  # nothing of the message is left
    messages, problems = read_client_messages([_with_text(value)])
    reader.problems += [text.replace("messages[0]", reader.path, 1) for text in problems]
    for message in messages:
        rest = _unknown(value)
        if rest.pop("function_call", None):
            reader.note("a call without an id is not supported", ".function_call")
        reader.messages.append(_with_rest(message, rest))
        for name in _unsupported(message, rest):
            reader.note("is not supported", f".{name}")


# Of Anthropic's Messages API and of Gemini's. Endpoints of chat completions refuse them.
_FOREIGN_PARTS = frozenset({"tool_use", "tool_result", "function_call", "function_response"})


def _foreign_parts(content: Any) -> list[str]:
    parts = content if isinstance(content, list) else []
    return [kind for kind in dict.fromkeys(map(_kind, parts)) if kind in _FOREIGN_PARTS]


def _kind(part: Any) -> str:
    return as_text(part.get("type")) if isinstance(part, dict) else ""


def _with_text(value: Object) -> dict[str, Any]:
    """Convert results and arguments that are JSON values to JSON text."""
    fields = dict(value)
    if value.get("role") == "tool" and not _is_content(value.get("content")):
        fields["content"] = json_text(value["content"])
    if isinstance(calls := value.get("tool_calls"), list):
        fields["tool_calls"] = [_with_text_arguments(call) for call in calls]
    return fields


def _is_content(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in value)
    return value is None or isinstance(value, str)


def _with_text_arguments(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or function.get("arguments") is None:
        return call
    return {**call, "function": {**function, "arguments": json_text(function["arguments"])}}


def _unknown(value: Object) -> dict[str, Any]:
    """Return the fields that messages of this role do not have, except empty ones."""
    role: str = value["role"]
    known = {"role", *FIELDS_BY_ROLE[SAME_ROLE.get(role, role)]}
    return {k: v for k, v in value.items() if k not in known and v not in (None, "", [], {})}


def _with_rest(message: Message, rest: Object) -> Message:
    """Return the message with its reasoning, unknown fields, or outcome from the other fields."""
    match message:
        case AssistantMessage():
            texts = [rest[name] for name in _REASONING if isinstance(rest.get(name), str)]
            extra = {k: v for k, v in rest.items() if k not in _REASONING or not isinstance(v, str)}
            update = {"reasoning": next(iter(texts), None), "extra": extra}
            return message.model_copy(update=update)
        case ToolMessage():
            is_error = rest.get("is_error") is True or rest.get("status") == "error"
            return message.model_copy(update={"outcome": "error"}) if is_error else message
        case SystemMessage() | UserMessage():
            return message


def _unsupported(message: Message, rest: Object) -> Iterable[str]:
    if isinstance(message, AssistantMessage):
        return ()
    ignored = _IGNORED_OF_RESULTS if isinstance(message, ToolMessage) else _IGNORED
    return [name for name in rest if name not in ignored]
