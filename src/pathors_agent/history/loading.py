"""Load histories: our own, and those that other libraries keep. Pure."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from pathors_agent.errors import ConversationError
from pathors_agent.history.langchain_messages import read_langchain
from pathors_agent.history.openai_messages import read_openai
from pathors_agent.history.pydantic_ai_messages import read_pydantic_ai
from pathors_agent.history.reading import Reading
from pathors_agent.history.stored import load_stored
from pathors_agent.messages import Message

HistoryFormat = Literal["openai", "langchain", "pydantic-ai"]

# More tell nothing further; `left_out` gets them all.
_SHOWN = 10

_READERS: dict[str, Callable[[Iterable[Any]], Reading]] = {
    "openai": read_openai,
    "langchain": read_langchain,
    "pydantic-ai": read_pydantic_ai,
}


def load_messages(
    source: str | bytes | Mapping[str, Any] | Iterable[Any],
    *,
    format: HistoryFormat | None = None,  # noqa: A002  (the plain word)
    left_out: list[str] | None = None,
) -> list[Message]:
    """Read what `dump_messages` wrote, or with a `format` the history of another library.

    Such a history is a list of that library's own messages, or what it writes of them, as values
    or as JSON text: of OpenAI's chat completions ("openai"), LangChain's `messages_to_dict` or
    `dumpd` ("langchain"), pydantic-ai's `ModelMessagesTypeAdapter` ("pydantic-ai"). What does not
    fit is a `ConversationError` that names all of it; with a list as `left_out` it is left out,
    and named in that list.

    Raise `ConversationError` for anything else, with the place of what is bad. Whether the
    messages form a legal history is for `Conversation` to say.
    """
    if format is None:
        if not isinstance(source, str | bytes):
            raise TypeError("a stored history is a text; of a list of messages, say the format=")
        return load_stored(source)
    if format not in _READERS:
        raise ValueError(f"format={format!r} is not known; there are {', '.join(_READERS)}")
    reading = _READERS[format](_values(source))
    if left_out is not None:
        left_out += reading.problems
    elif reading.problems:
        raise ConversationError(_report(reading.problems, format))
    return reading.messages


def _values(source: object) -> list[Any]:
    if isinstance(source, str | bytes):
        try:
            source = json.loads(source)
        except (ValueError, RecursionError) as error:
            raise ConversationError(f"a history must be JSON: {error}") from None
    if isinstance(source, Mapping):
        source = source.get("messages")
    if isinstance(source, str | bytes | Mapping) or not isinstance(source, Iterable):
        raise ConversationError('a history must be a list of messages, or {"messages": [...]}')
    return list(source)


def _report(problems: list[str], name: str) -> str:
    shown = "; ".join(problems[:_SHOWN])
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return (
        f"of this {name} history does not fit: {shown}{more} "
        "(left_out=[] loads the rest, and names this there)"
    )
