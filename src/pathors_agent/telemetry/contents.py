"""Write down what was said as OpenTelemetry's conventions have it: for spans, when it is asked for."""

import json
from collections.abc import Iterable

from pathors_agent.json_text import write_json
from pathors_agent.messages import (
    AssistantMessage,
    Content,
    JSONValue,
    Message,
    ToolCall,
    ToolMessage,
)

_Part = dict[str, JSONValue]


def instructions_text(instructions: str) -> str:
    """Write the instructions that go before a history."""
    return _json([_text(instructions)])


def input_text(messages: Iterable[Message]) -> str:
    """Write what a model was sent."""
    return _json([{"role": m.role, "parts": _parts(m)} for m in messages])


def output_text(message: AssistantMessage) -> str:
    """Write what a model answered."""
    said: _Part = {"role": message.role, "parts": _parts(message)}
    return _json([{**said, "finish_reason": message.finish_reason or ""}])


def _json(value: JSONValue) -> str:
    return write_json(value).decode()


def _parts(message: Message) -> list[JSONValue]:
    match message:
        case ToolMessage():
            answer: _Part = {"id": message.tool_call_id, "response": message.text}
            return [{"type": "tool_call_response", **answer}]
        case AssistantMessage():
            thought = [_reasoning(message.reasoning)] if message.reasoning else []
            return [*thought, *_content(message.content), *map(_call, message.tool_calls)]
        case _:
            return _content(message.content)


def _content(content: Content | None) -> list[JSONValue]:
    if not content:
        return []
    if isinstance(content, str):
        return [_text(content)]
    # Of images and files the kind: their bytes are larger than a span may be.
    return [_text(p.text) if p.text is not None else {"type": p.type} for p in content]


def _text(text: str) -> _Part:
    return {"type": "text", "content": text}


def _reasoning(text: str) -> _Part:
    return {"type": "reasoning", "content": text}


def _call(call: ToolCall) -> _Part:
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = call.arguments
    return {"type": "tool_call", "id": call.id, "name": call.name, "arguments": arguments}
