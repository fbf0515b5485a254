"""Show a run as it goes: the text as it streams, calls and results as they come."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pathors_agent.cli.output import Screen, one_line
from pathors_agent.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.wire.deltas import Delta, TextDelta


@dataclass(slots=True)
class Scene:
    """Shows the items of one run, and what a server's own tools do meanwhile."""

    screen: Screen
    is_timed: bool = True
    _called_at: float = 0.0
    _batch: dict[str, ToolCall] = field(default_factory=dict)
    _shown: set[str] = field(default_factory=set)

    def show(self, item: Delta | Message) -> None:
        """Show one item of a stream."""
        match item:
            case TextDelta():
                self._show_text(item.text)
            case AssistantMessage():
                self._show_calls(item.tool_calls)
            case ToolMessage():
                self._show_result(item.tool_call_id, item.text, is_error=item.is_error)
            case _:
                pass

    def show_activity(self, activity: Mapping[str, Any]) -> None:
        """Show what a server says of its tools: a call, a result, or progress."""
        match activity:
            case {"call": {"id": str() as id, "function": {"name": str() as name} as function}}:
                arguments = str(function.get("arguments") or "")
                self._show_calls([ToolCall(id=id, name=name, arguments=arguments)])
            case {"result": {"tool_call_id": str() as id, "content": str() as content} as result}:
                self._show_result(id, content, is_error=result.get("outcome") != "value")
            case {"progress": {"value": value}}:
                self.screen.line("note", f"{value}")
            case _:
                pass

    def show_message(self, message: Message) -> None:
        """Show a stored message."""
        match message:
            case UserMessage():
                self.screen.line("you", message.text)
            case SystemMessage():
                self.screen.line("system", message.text)
            case AssistantMessage():
                if message.text:
                    self.screen.line("model", message.text)
                self._show_calls(message.tool_calls)
            case ToolMessage():
                self.show(message)

    def _show_text(self, text: str) -> None:
        # A server puts empty lines between the texts before and after its calls.
        text = text if self.screen.is_mid_line else text.lstrip("\n")
        if text:
            self.screen.stream("model", text)

    def _show_calls(self, calls: Iterable[ToolCall]) -> None:
        self.screen.end_line()
        if self._batch and self._batch.keys() <= self._shown:
            self._batch = {}
        for call in calls:
            if call.id in self._batch:  # told as it came, and again with the whole answer
                continue
            self._called_at = time.perf_counter()
            self._batch[call.id] = call
            self.screen.line("call", described(call))

    def _show_result(self, call_id: str, text: str, *, is_error: bool) -> None:
        milliseconds = (time.perf_counter() - self._called_at) * 1000
        call = self._batch.get(call_id)
        self._shown.add(call_id)
        name = f"{call.name}: " if call and len(self._batch) > 1 else ""
        note = f"{milliseconds:.1f} ms" if self.is_timed else ""
        self.screen.line("error" if is_error else "result", name + text, note)


def described(call: ToolCall) -> str:
    """Return a call on one line, as Python would write it."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return one_line(f"{call.name}({call.arguments})")
    given = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return one_line(f"{call.name}({', '.join(given)})")
