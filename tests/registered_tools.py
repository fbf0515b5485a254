"""Tools that are registered and called."""

from typing import Any

from pathors_agent.messages import ToolCall
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.tool import tool


@tool
def get_weather(city: str, days: int = 1) -> str:
    """Get the weather."""
    return f"{city}: {days} x sun"


@tool(name="find", description="Find things.")
async def search(query: str) -> list[str]:
    return [query]


def call(name: str, arguments: str = "") -> ToolCall:
    """Return a tool call."""
    return ToolCall(id="c1", name=name, arguments=arguments)


def bound(tools: Any, name: str, arguments: str = "", **options: Any) -> BoundCall:
    """Bind a call that fits."""
    result = ToolRegistry(tools).bind(call(name, arguments), **options)
    assert isinstance(result, BoundCall), result.text
    return result


def ask(question: str, key: str, depth: int = 1) -> str:
    """Ask an oracle.

    Args:
        question: What to ask.
        key: What opens the door.
    """
    return f"{question} {key} {depth}"
