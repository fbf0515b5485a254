"""A run as a few lines of text: who said what, which tool was called and what it gave."""

import json
from collections.abc import Iterable, Sequence

from pathors_agent.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)

LINE_CHARACTERS = 100
MOST_LINES = 40


def transcript(messages: Iterable[Message]) -> str:
    """Write messages as lines, each cut where it is long."""
    history = list(messages)
    names = {call.id: call.name for message in history for call in _calls(message)}
    lines = [line for message in history for line in _lines(message, names)]
    if len(lines) > MOST_LINES:
        left_out = f"({len(lines) - MOST_LINES} lines)"
        lines[MOST_LINES // 2 : -MOST_LINES // 2] = [left_out]
    return "\n".join(lines) or "(nothing was said)"


def call_text(call: ToolCall) -> str:
    """Write a call as Python would: `weather(city="Oslo")`."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return f"{call.name}({call.arguments})"
    return f"{call.name}({arguments_text(arguments)})"


def arguments_text(arguments: dict[str, object]) -> str:
    """Write arguments as Python would; values as JSON where they are."""
    return ", ".join(f"{name}={_value_text(value)}" for name, value in arguments.items())


def _value_text(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)


def _lines(message: Message, names: dict[str, str]) -> list[str]:
    match message:
        case SystemMessage():
            return [_line("system", message.text)]
        case UserMessage():
            return [_line("feedback" if message.feedback else "user", message.text)]
        case ToolMessage():
            outcome = "" if message.outcome == "value" else f" ({message.outcome})"
            said = f"{names.get(message.tool_call_id, '?')} -> {message.text}{outcome}"
            return [_line("tool", said)]
        case AssistantMessage():
            return _answer_lines(message)


def _answer_lines(message: AssistantMessage) -> list[str]:
    lines = [_line("assistant", message.text)] if message.text or not message.tool_calls else []
    lines += [_line("assistant", "calls " + call_text(call)) for call in message.tool_calls]
    if message.finish_reason not in (None, "stop", "tool_calls"):
        lines.append(_line("", f"(ended: {message.finish_reason})"))
    return lines


def _line(who: str, said: str) -> str:
    text = " ".join(said.split())
    if len(text) > LINE_CHARACTERS:
        text = text[: LINE_CHARACTERS - 1] + "…"
    return f"{who:<10} {text}".rstrip()


def _calls(message: Message) -> Sequence[ToolCall]:
    return message.tool_calls if isinstance(message, AssistantMessage) else ()
