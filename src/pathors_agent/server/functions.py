"""Serve clients that still send `functions` instead of `tools`. Pure.

Calls of functions have no ids: a result is for the last call of that name. So that one conversation
serves both forms, each call gets an id here, and that of the session's call where there is one.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from pathors_agent.json_text import is_json_object
from pathors_agent.messages import AssistantMessage, JSONValue, Message, ToolCall, ToolMessage

_PREFIX = "function_call_"
_ID_CHARACTERS = 16


def as_tools(functions: Iterable[JSONValue]) -> list[JSONValue]:
    """Return the definitions of functions as those of tools."""
    return [{"type": "function", "function": function} for function in functions]


def as_tool_choice(function_call: str | Mapping[str, JSONValue]) -> JSONValue:
    """Return what `function_call` asks for as a `tool_choice`."""
    if isinstance(function_call, str):
        return function_call
    return {"type": "function", "function": dict(function_call)}


def as_tool_messages(values: Iterable[JSONValue]) -> list[JSONValue]:
    """Return messages with their function calls and results as those of tools."""
    open_ids: dict[str, deque[str]] = {}
    return [_as_tool_message(index, value, open_ids) for index, value in enumerate(values)]


def _as_tool_message(index: int, value: JSONValue, open_ids: dict[str, deque[str]]) -> JSONValue:
    if not isinstance(value, dict):
        return value
    call, name = value.get("function_call"), value.get("name")
    if value.get("role") == "assistant" and isinstance(call, dict) and not value.get("tool_calls"):
        call_id = _made_id(index, call)
        open_ids.setdefault(str(call.get("name")), deque()).append(call_id)
        made: dict[str, JSONValue] = {"id": call_id, "type": "function", "function": call}
        return {**value, "tool_calls": [made]}
    if value.get("role") == "function" and isinstance(name, str):
        ids = open_ids.get(name)
        call_id = ids.popleft() if ids else _PREFIX + name
        return {"role": "tool", "tool_call_id": call_id, "content": value.get("content")}
    return value


def _made_id(index: int, call: Mapping[str, JSONValue]) -> str:
    parts = json.dumps([index, call.get("name"), call.get("arguments")])
    return _PREFIX + hashlib.sha256(parts.encode()).hexdigest()[:_ID_CHARACTERS]


def with_stored_ids(given: Sequence[Message], stored: Sequence[Message]) -> Sequence[Message]:
    """Return a request's messages with the ids that the session has for their calls.

    From the last message back, each call gets the id of the latest stored call of the same function
    with the same arguments; a result without its call that of the function's open call.
    """
    if not any(call_id.startswith(_PREFIX) for m in given for call_id in _ids(m)):
        return given
    ids = _known_ids(given, stored)
    return [_renamed(message, ids) for message in given]


def _ids(message: Message) -> list[str]:
    match message:
        case AssistantMessage():
            return [call.id for call in message.tool_calls]
        case ToolMessage():
            return [message.tool_call_id]
        case _:
            return []


def _known_ids(given: Sequence[Message], stored: Sequence[Message]) -> dict[str, str]:
    """Return the stored ids by those that were made here."""
    calls = [c for m in stored if isinstance(m, AssistantMessage) for c in m.tool_calls]
    settled = {m.tool_call_id for m in stored if isinstance(m, ToolMessage)}
    ids = {_PREFIX + call.name: call.id for call in calls if call.id not in settled}
    for message in reversed(given):
        for call in message.tool_calls if isinstance(message, AssistantMessage) else ():
            while call.id.startswith(_PREFIX) and calls:
                candidate = calls.pop()
                if _content(candidate) == _content(call):
                    ids[call.id] = candidate.id
                    break
    return ids


def _content(call: ToolCall) -> tuple[str, object]:
    is_object = is_json_object(call.arguments)
    return call.name, json.loads(call.arguments) if is_object else call.arguments


def _renamed(message: Message, ids: Mapping[str, str]) -> Message:
    match message:
        case AssistantMessage() if message.tool_calls:
            calls = tuple(
                call.model_copy(update={"id": ids.get(call.id, call.id)})
                for call in message.tool_calls
            )
            return message.model_copy(update={"tool_calls": calls})
        case ToolMessage():
            call_id = ids.get(message.tool_call_id, message.tool_call_id)
            return message.model_copy(update={"tool_call_id": call_id})
        case _:
            return message
