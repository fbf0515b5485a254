"""Messages as versioned JSON for storage, and back.

`{"version": 1, "messages": [...]}`, where a message is its role and the fields that differ from
their defaults. What was dumped is loaded equal.
"""

import json
from collections.abc import Iterable

from pydantic import TypeAdapter, ValidationError

from pathors_agent.errors import ConversationError
from pathors_agent.messages import JSONValue, Message

VERSION = 1

_MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)


def dump_messages(messages: Iterable[Message]) -> str:
    """Write messages as one JSON text."""
    dumped = [dump_message(message) for message in messages]
    return json.dumps(
        {"version": VERSION, "messages": dumped}, ensure_ascii=False, separators=(",", ":")
    )


def dump_message(message: Message) -> dict[str, JSONValue]:
    """Give one message as JSON values: its role and what differs from the defaults."""
    return {"role": message.role, **message.model_dump(mode="json", exclude_defaults=True)}


def load_messages(text: str | bytes) -> list[Message]:
    """Read what `dump_messages` wrote.

    Raise `ConversationError` for anything else, with the index of the first bad message. Whether
    the messages form a legal history is for `Conversation` to say.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConversationError(f"a stored history must be JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("messages"), list):
        raise ConversationError('a stored history must be {"version": 1, "messages": [...]}')
    if document.get("version") != VERSION:
        raise ConversationError(
            f"a stored history of version {document.get('version')!r} cannot be read; "
            f"this library reads version {VERSION}"
        )
    return [load_message(value, index=i) for i, value in enumerate(document["messages"])]


def load_message(value: JSONValue, *, index: int = 0) -> Message:
    """Read one message; `index` is its place, for the error."""
    try:
        return _MESSAGE.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = "".join(f".{part}" for part in first["loc"])
        raise ConversationError(f"messages[{index}]{path}: {first['msg']}", index=index) from None
