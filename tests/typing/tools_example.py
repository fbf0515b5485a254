"""What type checkers see of tools: a decorated function keeps its type."""

from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.signature import ToolContext
from pathors_agent.tools.tool import Tool, tool


@tool
def plain(city: str, /, *, days: int = 1) -> str:
    return city * days


@tool(name="other", description="Do it.")
async def named(context: ToolContext[int]) -> float:
    return assert_type(context.context, int)


@tool()
def bare(context: ToolContext) -> None:
    assert_type(context.context, Any)


class Shop:
    @tool
    def count(self, more: int) -> int:
        return more


assert_type(plain("Bonn", days=2), str)
assert_type(Shop().count(1), int)
coroutine_function: Callable[[ToolContext[int]], Coroutine[Any, Any, float]] = named
plain(5)  # type: ignore[arg-type]
plain("Bonn", day=1)  # type: ignore[call-arg]
tool(5)  # type: ignore[call-overload]

registry = ToolRegistry([plain, named, bare, Shop().count, Tool(name="ask")])
assert_type(registry["plain"], Tool)


def run(bound: BoundCall) -> None:
    assert_type(bound.kwargs, dict[str, Any])
    assert_type(bound.is_async, bool)
