"""Write what a tool returned as the message that the model reads. Pure; it never raises.

docs/reference/tool-results.md has the table of all kinds of values.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from pathors_agent.errors import ToolError
from pathors_agent.json_text import whole_characters, write_json
from pathors_agent.messages import Content, ContentPart, JSONValue, Outcome, ToolMessage
from pathors_agent.schema.arguments import MAX_TEXT, ArgumentsRefused, SchemaValidator
from pathors_agent.schema.bounds import cut
from pathors_agent.tools.registry import BoundCall
from pathors_agent.tools.result_values import JSONWalk, Unsendable, kind_name, text_of
from pathors_agent.tools.tool import Tool


@dataclass(frozen=True, slots=True)
class RunValue:
    """The value of a tool that ran an agent, and what its message keeps of that run."""

    value: object
    run: Mapping[str, JSONValue]
    outcome: Outcome = "value"


class RunInterrupted(Exception):
    """Raised by the function of a tool whose agent's run was cancelled; the run can go on later."""

    def __init__(self, value: RunValue) -> None:
        super().__init__("the run was interrupted")
        self.value = value


class PartsError(ToolError):
    """Raised for a call that failed with content parts, which the model sees."""

    def __init__(self, text: str, parts: list[ContentPart]) -> None:
        super().__init__(text)
        self.parts = parts


# The result of a tool without a value; models read "null" as something missing.
NO_VALUE = "done (no value)"

# A value is written up to this multiple of the cap, to report how much of it was cut: 200,000
# characters take 20 ms in the worst case (a list of small numbers).
WRITTEN_CAPS = 10

# All images, sounds and files of one result: 7.5 MB in base64. OpenAI accepts requests of 50 MB,
# Anthropic images of 5 MB, and each later request of the run contains them again.
MAX_MEDIA_CHARACTERS = 10_000_000
MAX_PARTS = 100

# Enough to see what went wrong: a model cannot repair a tool.
MAX_UNEXPECTED = 3


def result_message(bound: BoundCall, value: object) -> ToolMessage:
    """Return the message for a tool's value; a value that cannot be sent becomes an error."""
    if isinstance(value, RunValue):
        message = result_message(bound, value.value)
        outcome = message.outcome if message.is_error else value.outcome
        return message.model_copy(update={"outcome": outcome, "extra": {"run": dict(value.run)}})
    name = bound.tool.name
    try:
        content = _content(bound.tool, value)
    except Unsendable as refusal:
        return _failed(bound, f"{name} ran, but returned {refusal}")
    # A value runs its author's code: properties and serializers may raise anything. The error names
    # only the type, because the text may hold secrets.
    except Exception as error:  # noqa: BLE001
        kind, problem = kind_name(value), kind_name(error)
        text = f"{name} ran, but its result, a value of type {kind}, could not be read ({problem})."
        return _failed(bound, text)
    return ToolMessage(tool_call_id=bound.call.id, content=content)


def _failed(bound: BoundCall, text: str) -> ToolMessage:
    content = cut(whole_characters(text), MAX_TEXT)
    return ToolMessage(tool_call_id=bound.call.id, content=content, outcome="error")


def _content(tool: Tool, value: object) -> Content:
    if _has_parts(value):
        return _parts_content(tool, value, _Cap(tool.max_result_characters))
    text, left_out = _written(tool, value)
    if len(text) <= tool.max_result_characters and not left_out:
        return whole_characters(text)
    cap = _Cap(tool.max_result_characters)
    shown = cap.taken(text, left_out=left_out)
    return f"{shown}\n{note}" if (note := cap.note) else shown


def _written(tool: Tool, value: object) -> tuple[str, bool]:
    """Return a value as text, and whether something of the value is left out."""
    left_out = False
    if isinstance(value, str) and not isinstance(value, Enum):
        converted = text_of(value)
    else:
        walk = JSONWalk(tool.max_result_characters * WRITTEN_CAPS)
        converted, left_out = walk.value(value), walk.full
    if tool.result_validator is not None:
        _check_returns(tool, tool.result_validator, converted, whole=not left_out)
    if isinstance(converted, str):
        return converted, left_out
    return NO_VALUE if converted is None else write_json(converted).decode(), left_out


# - the schema of the value -


def _check_returns(
    tool: Tool, validator: SchemaValidator, value: JSONValue, *, whole: bool
) -> None:
    if not whole:
        characters = tool.max_result_characters * WRITTEN_CAPS
        raise Unsendable(f"more than {characters:,} characters", "That is too long to be checked.")
    try:
        problems = validator.problems(value)
    except ArgumentsRefused:
        raise Unsendable("something too large to be checked", "It should return less.") from None
    if problems:
        lines = [f"{problem.pointer or 'all'} {problem.wanted}" for problem in problems]
        raise Unsendable(f"something unexpected: {'; '.join(lines[:MAX_UNEXPECTED])}", "")


# - content parts -


def _has_parts(value: object) -> bool:
    if isinstance(value, ContentPart):
        return True
    if not isinstance(value, list | tuple):
        return False
    return any(isinstance(item, ContentPart) for item in islice(value, MAX_PARTS))


def _parts_content(tool: Tool, value: object, cap: "_Cap") -> tuple[ContentPart, ...]:
    if tool.returns is not None:
        raise Unsendable("content parts", "Its `returns` promises JSON.")
    items = value if isinstance(value, list | tuple) else [value]
    if len(items) > MAX_PARTS:
        raise Unsendable(f"more than {MAX_PARTS} content parts", "It should return fewer.")
    media = JSONWalk(MAX_MEDIA_CHARACTERS)
    parts = [part for item in items for part in _parts(tool, item, cap, media)]
    return (*parts, ContentPart(type="text", text=cap.note)) if cap.note else tuple(parts)


def _parts(tool: Tool, item: object, cap: "_Cap", media: JSONWalk) -> Iterator[ContentPart]:
    if not isinstance(item, ContentPart):
        text, left_out = _written(tool, item)
        part = ContentPart(type="text", text="")
    elif item.text is not None:
        text, left_out, part = item.text, False, item
    else:
        yield _media_part(item, media)
        return
    shown = cap.taken(text, left_out=left_out)
    if shown or not text:
        yield part.model_copy(update={"text": shown})


def _media_part(part: ContentPart, media: JSONWalk) -> ContentPart:
    before = media.left
    media.value(part.model_extra)
    if not media.full:
        return part
    media.left, media.full = before, False  # a smaller part may still fit
    kind = cut(whole_characters(part.type), 40)
    note = f"[left out: {kind}, too large; a result holds {MAX_MEDIA_CHARACTERS:,} characters]"
    return ContentPart(type="text", text=note)


# - the cap -


class _Cap:
    """Count the characters of text that are shown, and all that there are."""

    def __init__(self, characters: int) -> None:
        self._left = characters
        self._shown = self._total = 0
        self._more = False

    def taken(self, text: str, *, left_out: bool) -> str:
        """Return as much of a text as there is room for, in whole characters.

        With `left_out` the text is only the beginning of a value.
        """
        if len(text) <= 2 * self._left:
            text = whole_characters(text)
            shown = text[: self._left]
        else:  # surrogate pairs join into one character: at most half of the text is lost
            shown = whole_characters(text[: 2 * self._left + 1])[: self._left]
        self._left -= len(shown)
        self._shown += len(shown)
        self._total += len(text)
        self._more |= left_out
        return shown

    @property
    def note(self) -> str:
        """The note to the model about the part that was cut, or an empty string."""
        if self._shown == self._total and not self._more:
            return ""
        total = f"more than {self._total:,}" if self._more else f"{self._total:,}"
        return f"[cut: {self._shown:,} of {total} characters shown]"
