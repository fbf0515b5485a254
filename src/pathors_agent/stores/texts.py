"""The JSON texts that stores keep: a message, a session's variables, and all of it as one text."""

import json
from collections.abc import Iterable, Mapping

from pathors_agent.errors import ConversationError, StoreError
from pathors_agent.json_text import whole_characters, write_json
from pathors_agent.messages import JSONValue, Message
from pathors_agent.wire.messages import read_message, write_message


def data_text(variables: Mapping[str, JSONValue], messages: Iterable[Message]) -> str:
    """Write a session's data as the API gives it; this is the text that is searched."""
    return joined_text(json_text(variables), (message_text(each) for each in messages))


def joined_text(variables: str, messages: Iterable[str]) -> str:
    """Join the JSON texts of variables and messages to that of a session's data."""
    return f'{{"variables":{variables},"messages":[{",".join(messages)}]}}'


def json_text(value: JSONValue | Mapping[str, JSONValue]) -> str:
    """Write a value as a stored JSON text."""
    return write_json(value).decode()


def message_text(message: Message) -> str:
    """Write a message as a stored JSON text."""
    return json_text(write_message(message))


def read_message_text(text: str) -> Message:
    """Read what `message_text` wrote."""
    try:
        return read_message(json.loads(text))
    except (ValueError, ConversationError):
        raise StoreError(
            "A stored message cannot be read: the database is damaged; bring back a copy of it."
        ) from None


def same_json(one: str, other: str) -> bool:
    """Tell whether two JSON texts say the same; the order of an object's names does not count."""
    return one == other or _in_order(one) == _in_order(other)


def _in_order(text: str) -> str:
    # As text: in Python 1 equals True.
    return json.dumps(json.loads(text), sort_keys=True)


def searchable(text: str) -> str | None:
    """Give a text as it stands in stored ones; None where none can hold it.

    JSON escapes U+0000 (and PostgreSQL takes it in no text); halves of characters are replaced
    when a text is stored.
    """
    return None if "\0" in text else whole_characters(text)
