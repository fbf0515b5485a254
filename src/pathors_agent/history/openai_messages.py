"""Read the histories of OpenAI's chat completions. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from pathors_agent.history.reading import Reading, json_text
from pathors_agent.messages import AssistantMessage, Message, ToolMessage
from pathors_agent.wire.messages import FIELDS_BY_ROLE, SAME_ROLE, read_client_messages

# Names that servers use for the reasoning they show.
_REASONING = ("reasoning_content", "reasoning")

# Fields that say nothing a model was sent: names of tools (the calls have them), ids, times, kinds.
_BESIDE = frozenset(
    {
        *("id", "type", "object", "index", "weight", "cache_control"),
        *("created", "created_at", "createdAt", "updated_at", "timestamp"),
    }
)
_BESIDE_RESULTS = _BESIDE | {"name", "tool_name", "status", "is_error"}


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
    messages, problems = read_client_messages([_as_text(value)])
    reading.problems += [text.replace("messages[0]", reading.place, 1) for text in problems]
    for message in messages:
        rest = _unknown(value)
        if rest.pop("function_call", None):
            reading.note("a call without an id has no place here", ".function_call")
        reading.messages.append(_with_rest(message, rest))
        for name in _misplaced(message, rest):
            reading.note("has no place here", f".{name}")


def _as_text(value: Mapping[str, Any]) -> dict[str, Any]:
    """Write results and arguments as JSON text where they came as values."""
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


def _unknown(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that messages of this role do not have, except empty ones."""
    known = {"role", *FIELDS_BY_ROLE[SAME_ROLE.get(value["role"], value["role"])]}
    return {k: v for k, v in value.items() if k not in known and v not in (None, "", [], {})}


def _with_rest(message: Message, rest: Mapping[str, Any]) -> Message:
    """Keep the reasoning and unknown fields of an answer, and whether a result is an error."""
    match message:
        case AssistantMessage():
            said = [rest[name] for name in _REASONING if isinstance(rest.get(name), str)]
            extra = {k: v for k, v in rest.items() if k not in _REASONING or not isinstance(v, str)}
            update = {"reasoning": next(iter(said), None), "extra": extra}
            return message.model_copy(update=update)
        case ToolMessage() if rest.get("is_error") is True or rest.get("status") == "error":
            return message.model_copy(update={"outcome": "error"})
        case _:
            return message


def _misplaced(message: Message, rest: Mapping[str, Any]) -> Iterable[str]:
    if isinstance(message, AssistantMessage):
        return ()
    beside = _BESIDE_RESULTS if isinstance(message, ToolMessage) else _BESIDE
    return [name for name in rest if name not in beside]
