"""Hooks that note their steps."""

from collections.abc import Generator
from typing import Any

from hook_kinds import Around
from pathors_agent import ToolContext
from pathors_agent.agents import ModelContext, ModelRequest
from pathors_agent.messages import Message, ToolCall, ToolMessage
from pathors_agent.testing import calls
from pathors_agent.tools.tool import tool

Steps = Generator[Any, Any, Any]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


ADDING = calls(("add", {"a": 1, "b": 2}))


def results(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    """Return the outcomes and texts of tool messages."""
    return [(m.outcome, m.text) for m in messages if isinstance(m, ToolMessage)]


def noting(name: str, log: list[str]) -> dict[str, Around]:
    """Return a hook that notes calls before and after they are made."""

    def around_model(call: ModelContext, request: ModelRequest) -> Steps:
        log.append(f"{name} {call.key}")
        message = yield request
        log.append(f"{name} {call.key} {message.text or 'calls'}")
        return message

    def around_tool(call: ToolCall, arguments: dict[str, Any], context: ToolContext) -> Steps:
        log.append(f"{name} {call.name} {arguments}")
        message = yield arguments
        log.append(f"{name} {call.name} {message.text}")
        return message

    return {"model": around_model, "tool": around_tool}
