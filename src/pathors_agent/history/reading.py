"""A foreign history while it is read: its messages so far, and what did not fit. Pure.

What has no place in our messages is named, never lost in silence.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from pathors_agent.json_text import write_json
from pathors_agent.messages import ContentPart, Message, MessageBase, ToolCall

Object = Mapping[str, Any]


class Reading:
    """A history being read; `place` is where the reader is, as `messages[2]`."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.problems: list[str] = []
        self.place = ""

    def each(self, values: Iterable[Any]) -> Iterator[Object]:
        """Give the messages one by one, as JSON values; our own are added as they are."""
        for index, value in enumerate(values):
            with self.at(f"messages[{index}]"):
                if isinstance(value, MessageBase):
                    self.messages.append(cast(Message, value))
                elif (fields := _as_json(value)) is not None:
                    yield fields
                else:
                    self.note(f"a {type(value).__name__} is no message")

    @contextmanager
    def at(self, path: str) -> Iterator[None]:
        """Read what lies at a place below this one."""
        before, self.place = self.place, self.place + path
        try:
            yield
        finally:
            self.place = before

    def note(self, what: str, path: str = "") -> None:
        """Name what does not fit."""
        self.problems.append(f"{self.place}{path}: {what}")

    def add(self, make: Callable[[], Message]) -> None:
        """Add a message, or name what keeps it from being one."""
        try:
            self.messages.append(make())
        except ValidationError as error:
            [first, *_] = error.errors(include_url=False, include_input=False)
            path = ".".join(str(part) for part in first["loc"])
            self.note(f"{first['msg']} ({path})")

    def part(self, value: Any, path: str) -> ContentPart | None:
        """Make a part of a content, or name what keeps it from being one."""
        try:
            return ContentPart.model_validate(value)
        except ValidationError:
            self.note("is no part of a content", path)
            return None


def _as_json(value: Any) -> Object | None:
    """Give a message as JSON values: those of libraries are objects of their own."""
    try:
        found = to_jsonable_python(value, exclude_none=True, bytes_mode="base64")
    except (PydanticSerializationError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_call(call_id: Any, name: Any, arguments: Any) -> ToolCall:
    """Return a tool call; raise `ValidationError` if it has no id."""
    text = json_text({} if arguments is None else arguments)
    return ToolCall(id=as_text(call_id), name=as_text(name), arguments=text)


def json_text(value: Any) -> str:
    """Return a text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else write_json(value).decode()


def as_text(given: Any) -> str:
    """Give a text; what is none is empty."""
    return given if isinstance(given, str) else ""


def image(url: str) -> Object:
    """Write an image as a part of OpenAI's."""
    return {"type": "image_url", "image_url": {"url": url}}


def data_url(media_type: str, base64: str) -> str:
    """Write bytes as an address; pydantic writes base64 for addresses, others for mail."""
    return f"data:{media_type};base64,{base64.replace('-', '+').replace('_', '/')}"
