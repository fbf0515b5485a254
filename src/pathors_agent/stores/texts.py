"""The JSON texts in stores: of a message, of a session's variables, and of all its data."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import anyio

from pathors_agent.errors import ConversationError, StoreError
from pathors_agent.json_text import whole_characters, write_json
from pathors_agent.messages import AssistantMessage, JSONValue, Message, UserMessage, write_message
from pathors_agent.wire.messages import read_message

Variables = Mapping[str, JSONValue]
"""The variables of a session: JSON values by name."""

ResultT = TypeVar("ResultT")

# A line in a list; longer ones are cut there anyway.
MAX_TITLE = 80

# Texts up to this size are written and read within a millisecond, which other requests can wait.
SMALL_TEXT = 64 * 1024

# The time for a part of a message or a call, in characters of text.
_PART_WEIGHT = 500


def data_text(variables: Variables, messages: Iterable[Message]) -> str:
    """Return a session's data as JSON, as the API returns it and as searches see it."""
    return joined_text(json_text(variables), [message_text(each) for each in messages])


def joined_text(variables: str, messages: Sequence[str]) -> str:
    """Return the JSON text of a session's data, joined from those of its parts."""
    return "".join(data_pieces(variables, messages))


def data_pieces(variables: str, messages: Sequence[str]) -> Iterator[str]:
    """Yield the text of a session's data in pieces."""
    yield from ('{"variables":', variables, ',"messages":[')
    for index, message in enumerate(messages):
        if index:
            yield ","
        yield message
    yield "]}"


def first_words(messages: Iterable[Message]) -> str:
    """Return the title of a session that begins with these messages: what the user says first."""
    users = (each for each in messages if isinstance(each, UserMessage) and not each.feedback)
    words = next((text for each in users if (text := " ".join(_first_text(each).split()))), "")
    words = whole_characters(words)
    if len(words) <= MAX_TITLE:
        return words
    cut = words[: MAX_TITLE - 1]
    whole = cut if words[MAX_TITLE - 1] == " " else cut.rpartition(" ")[0]
    return f"{whole or cut}…"


def lost_title(messages: Sequence[Message], kept: int) -> str:
    """Return the first words of a session that is rewound to `kept` messages and loses these words."""
    words = first_words(messages)
    return words if not first_words(messages[:kept]) else ""


def _first_text(message: UserMessage) -> str:
    """Return a message's text, or the first of its texts: files may follow it."""
    if isinstance(message.content, str):
        return message.content
    return next((part.text or "" for part in message.content if part.type == "text"), "")


def joined_size(variables: str, messages: Sequence[str]) -> int:
    """Return the bytes of a session's data, without writing it."""
    around = len(joined_text("", ())) + max(0, len(messages) - 1)
    if variables.isascii() and all(map(str.isascii, messages)):  # ten times as fast
        return around + len(variables) + sum(map(len, messages))
    return around + utf8_size(variables) + sum(map(utf8_size, messages))


def utf8_size(text: str) -> int:
    """Return the bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def json_text(value: JSONValue | Variables) -> str:
    """Return a value as JSON text."""
    return write_json(value).decode()


def message_text(message: Message) -> str:
    """Return a message as JSON text."""
    return json_text(write_message(message))


async def message_texts(messages: Sequence[Message]) -> list[str]:
    """Return messages as JSON texts. Large ones are written in a thread."""
    return await off_loop(sum(map(_weight, messages)), lambda: list(map(message_text, messages)))


def _weight(message: Message) -> int:
    """Return an estimate of the size of a message's text."""
    calls = message.tool_calls if isinstance(message, AssistantMessage) else ()
    content = message.content or ""
    of_content = len(content) if isinstance(content, str) else len(content) * _PART_WEIGHT
    return of_content + sum(len(call.arguments) + _PART_WEIGHT for call in calls)


async def off_loop(size: int, work: Callable[[], ResultT]) -> ResultT:
    """Run work that takes time proportional to a size: in a thread, unless it is small."""
    if size <= SMALL_TEXT:
        return work()
    return await anyio.to_thread.run_sync(work)


def read_message_text(text: str | bytes) -> Message:
    """Read what `message_text` wrote. Raise `StoreError` if the text is damaged."""
    try:
        return read_message(json.loads(text))
    except (ValueError, ConversationError):
        raise damaged("message") from None


def read_variables_text(text: str) -> Variables:
    """Read the stored JSON text of a session's variables. Raise `StoreError` if it is damaged."""
    try:
        value = json.loads(text)
    except ValueError:
        raise damaged("session") from None
    if not isinstance(value, dict):
        raise damaged("session")
    return value


def damaged(what: str) -> StoreError:
    """Return the error for stored data that cannot be read."""
    return StoreError(
        f"A stored {what} cannot be read: the database is damaged; restore it from a backup."
    )


async def same_json(one: str, other: str) -> bool:
    """Return True if two JSON texts have equal values; the order of names does not count."""
    return await off_loop(len(one) + len(other), lambda: same_values(one, other))


def same_values(one: str, other: str) -> bool:
    """Return True if two JSON texts have equal values; blocks for large ones."""
    return one == other or _in_order(one) == _in_order(other)


def _in_order(text: str) -> str:
    # As text: in Python 1 equals True.
    return json.dumps(json.loads(text), sort_keys=True)


def searchable(text: str) -> str | None:
    """Return a searched text as stored texts contain it, or None if none can contain it.

    JSON escapes U+0000 (and PostgreSQL takes it in no text); halves of characters are replaced
    when a text is stored.
    """
    return None if "\0" in text else whole_characters(text)
