"""What a client has seen of a session, and so what of its messages is new. Pure.

A client sees one answer for each request: the texts of all that the model said meanwhile, and the
calls that are the client's. The project's own calls and their results it never sees.
"""

import json
from collections.abc import Iterable, Sequence

from pathors_agent.json_text import is_json_object
from pathors_agent.messages import (
    AssistantMessage,
    Content,
    ContentPart,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
)

# Between the texts of two model calls that a client sees as one answer.
BETWEEN_TEXTS = "\n\n"

_Seen = tuple[object, ...]


def news(
    stored: Sequence[Message], given: Sequence[Message], own_tools: Iterable[str]
) -> Sequence[Message]:
    """Give those of a request's messages that the session does not hold.

    Where the request, leading system messages apart, begins with all that is stored, the rest is
    new; else all is.
    """
    own = _Own(stored, frozenset(own_tools))
    seen = _seen(stored, own)
    if not seen:
        return given
    rest = _without_leading_system(given)
    matched = 0
    for index, message in enumerate(rest):
        shown = _shown(message, own)
        if shown is None:
            continue
        if matched == len(seen):
            return rest[index:]
        if shown != seen[matched]:
            return given
        matched += 1
    return () if matched == len(seen) else given


class _Own:
    """The project's own calls in a history, and those of them that have a result."""

    def __init__(self, stored: Sequence[Message], own_tools: frozenset[str]) -> None:
        calls = (c for m in stored if isinstance(m, AssistantMessage) for c in m.tool_calls)
        self.calls = {call.id for call in calls if call.name in own_tools}
        results = {m.tool_call_id for m in stored if isinstance(m, ToolMessage)}
        self.settled = self.calls & results


def _seen(stored: Sequence[Message], own: _Own) -> list[_Seen]:
    """What the client saw of the stored messages, leading system messages apart."""
    seen: list[_Seen] = []
    answer: list[AssistantMessage] = []
    for message in _without_leading_system(stored):
        if isinstance(message, AssistantMessage):
            answer.append(message)
        elif shown := _shown(message, own):
            seen += [*_as_answer(answer, own), shown]
            answer = []
    return seen + _as_answer(answer, own)


def _as_answer(messages: Sequence[AssistantMessage], own: _Own) -> list[_Seen]:
    if not messages:
        return []
    text = BETWEEN_TEXTS.join(m.text for m in messages if m.text)
    return [_answer(text, [call for message in messages for call in message.tool_calls], own)]


def _shown(message: Message, own: _Own) -> _Seen | None:
    """A message as it is compared; None for the result of a call that the client never saw."""
    match message:
        case AssistantMessage():
            return _answer(message.text, message.tool_calls, own)
        case ToolMessage():
            if message.tool_call_id in own.settled:
                return None
            return "tool", message.tool_call_id, _content(message.content)
        case _:
            return message.role, _content(message.content)


def _answer(text: str, calls: Iterable[ToolCall], own: _Own) -> _Seen:
    shown = tuple(
        (call.id, call.name, _value(call.arguments)) for call in calls if call.id not in own.calls
    )
    return "assistant", text, shown


def _value(arguments: str) -> str:
    """Return the arguments' value as text.

    Clients such as LangChain read arguments and write them anew. Clients that may send JSON objects
    only, this library among them, send an empty one for arguments that are none.
    """
    if not is_json_object(arguments):
        return "{}"
    return json.dumps(json.loads(arguments), sort_keys=True)


def _content(content: Content) -> object:
    """A list of one text is as good as the text: some clients send the one for the other."""
    match content:
        case str():
            return content
        case [ContentPart(type="text", text=text)]:
            return text
        case _:
            return tuple(part.model_dump_json() for part in content)


def _without_leading_system(messages: Sequence[Message]) -> Sequence[Message]:
    first = next((i for i, m in enumerate(messages) if not isinstance(m, SystemMessage)), None)
    return messages[first:] if first is not None else ()
