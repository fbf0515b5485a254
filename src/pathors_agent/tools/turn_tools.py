"""Say which tools a turn has: always the same, or those that a function of the context gives. Pure.

A turn is one model call and the calls of its answer: both are of the same registry.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from pathors_agent.tools.registry import GivenTool, ToolRegistry

Tools = ToolRegistry | Iterable[GivenTool]
"""Decorated functions, `Tool`s and OpenAI's definitions, or a registry of them."""

ToolChoice = Callable[[Any], Tools]
"""A function of a run's context that gives the tools of the turn that comes."""

AsyncToolChoice = Callable[[Any], Tools | Awaitable[Tools]]
"""`ToolChoice`, or an async function of that kind."""


def registry_of(tools: Tools) -> ToolRegistry:
    """Give the registry that the tools are, or make one."""
    return tools if isinstance(tools, ToolRegistry) else ToolRegistry(tools)


def choice_of(tools: Tools | AsyncToolChoice) -> AsyncToolChoice | None:
    """Give the function that chooses the tools; None where they are tools themselves."""
    if isinstance(tools, ToolRegistry) or not callable(tools):
        return None
    if hasattr(tools, "__tool__"):
        name = getattr(tools, "__name__", "it")
        raise TypeError(f"tools= was given a tool itself; write tools=[{name}]")
    return tools


def refuse_async(tools: object) -> None:
    """Raise for a function that must be awaited."""
    called = getattr(tools, "__call__", None)  # noqa: B004  (wanted: its method)
    if inspect.iscoroutinefunction(tools) or inspect.iscoroutinefunction(called):
        raise TypeError(_NOT_AWAITED)


def chosen(choice: AsyncToolChoice, context: object) -> ToolRegistry:
    """Ask for the tools of a turn."""
    given = choice(context)
    if isinstance(given, Awaitable):
        if inspect.iscoroutine(given):
            given.close()
        raise TypeError(_NOT_AWAITED)
    return registry_of(given)


async def chosen_async(choice: AsyncToolChoice, context: object) -> ToolRegistry:
    """As `chosen`, awaiting what is to be awaited."""
    given = choice(context)
    return registry_of(await given if isinstance(given, Awaitable) else given)


_NOT_AWAITED = "tools= is an async function; it must be awaited, which AsyncAgent does"
