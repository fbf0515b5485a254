"""Read the histories of OpenAI's chat completions. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from pathors_agent.history.reading import Reading
from pathors_agent.messages import AssistantMessage
from pathors_agent.wire.messages import FIELDS_BY_ROLE, SAME_ROLE, read_client_messages

# What servers call the reasoning that they show.
_REASONING = ("reasoning_content", "reasoning")


def read_openai(values: Iterable[Any]) -> Reading:
    """Read messages: plain dicts, the objects of the package openai, or our own as they are."""
    reading = Reading()
    for fields in reading.each(values):
        _read(reading, fields)
    return reading


def _read(reading: Reading, value: Mapping[str, Any]) -> None:
    if "role" not in value and "type" in value:
        reading.note("an item of the Responses API; this reads messages of chat completions")
        return
    messages, problems = read_client_messages([dict(value)])
    reading.problems += [text.replace("messages[0]", reading.place, 1) for text in problems]
    for message in messages:
        rest = _unknown(value)
        if rest.pop("function_call", None):
            reading.note("a call without an id has no place here", ".function_call")
        if isinstance(message, AssistantMessage):
            reading.messages.append(_with_rest(message, rest))
        else:
            reading.messages.append(message)
            for name in rest:
                reading.note("has no place here", f".{name}")


def _unknown(value: Mapping[str, Any]) -> dict[str, Any]:
    """Give the fields that messages of this role do not have, but for empty ones."""
    known = {"role", *FIELDS_BY_ROLE[SAME_ROLE.get(value["role"], value["role"])]}
    return {k: v for k, v in value.items() if k not in known and v not in (None, [], {})}


def _with_rest(message: AssistantMessage, rest: dict[str, Any]) -> AssistantMessage:
    """Keep what an answer said beside: reasoning, and fields that nobody knows."""
    said = [rest.pop(name) for name in _REASONING if isinstance(rest.get(name), str)]
    return message.model_copy(update={"reasoning": next(iter(said), None), "extra": rest})
