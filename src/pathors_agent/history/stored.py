"""Messages as versioned JSON for storage, and back.

`{"version": 1, "messages": [...]}`, where a message is its role and the fields that differ from
their defaults. What was dumped is loaded equal.
"""

import json
from collections.abc import Iterable
from reprlib import repr as short_repr

from pydantic import TypeAdapter, ValidationError

from pathors_agent.errors import ConversationError
from pathors_agent.json_text import write_json
from pathors_agent.messages import JSONValue, Message
from pathors_agent.wire.messages import dump_message

VERSION = 1

# A path and a reason in a line or two; a damaged history may hold a field name of a megabyte.
QUOTED_CHARACTERS = 200

_MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)


def dump_messages(messages: Iterable[Message]) -> str:
    """Write messages as one JSON text."""
    dumped = [dump_message(message) for message in messages]
    return write_json({"version": VERSION, "messages": dumped}).decode()


def load_stored(text: str | bytes) -> list[Message]:
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
    version = document.get("version")
    if type(version) is not int or version != VERSION:
        raise ConversationError(
            f"a stored history of version {short_repr(version)} cannot be read; "
            f"this library reads version {VERSION}"
        )
    return [load_message(value, index=i) for i, value in enumerate(document["messages"])]


def load_message(value: JSONValue, *, index: int = 0) -> Message:
    """Read one message; `index` is its place, for the error."""
    try:
        return _MESSAGE.validate_python(value)
    except ValidationError as error:
        raise ConversationError(f"messages[{index}]{_problem(error)}", index=index) from None


def _problem(error: ValidationError) -> str:
    """Say where in the message and what: of the problems, the one that lies deepest."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    # The first problem of a list with a damaged part is that it is no text.
    deepest = max(problems, key=lambda problem: len(problem["loc"]))
    # pydantic's name for the list among the kinds of content is no part of the message's path.
    path = "".join(f".{part}" for part in deepest["loc"] if "tuple[" not in str(part))
    return f"{_clipped(path)}: {_clipped(deepest['msg'])}"


def _clipped(text: str) -> str:
    return text if len(text) <= QUOTED_CHARACTERS else text[:QUOTED_CHARACTERS] + "..."
