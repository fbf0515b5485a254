"""Check the arguments of the toolkit's functions; each error suggests the probable intention."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from pathors_agent.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from pathors_agent.tools.registry import ToolRegistry, registry_of
from pathors_agent.tools.tool import Tool
from pathors_agent.transports.base import AsyncTransport, Transport

_MESSAGES = (SystemMessage, UserMessage, AssistantMessage, ToolMessage)


def tools_of(tools: Any, *, function: str) -> ToolRegistry:
    """Return the registry of `tools`; `function` is the name of the caller."""
    kind = type(tools).__name__
    if isinstance(tools, Tool) or hasattr(tools, "__tool__"):
        name = getattr(tools, "__name__", "tool")
        raise TypeError(f"{function} takes a list of tools, not one tool: write [{name}]")
    if kind == "MCPTools":
        raise TypeError(
            f"{function} takes tools that are connected: write `with mcp_tools as tools:` and "
            f"{function}(tools)"
        )
    if isinstance(getattr(tools, "tools", None), ToolRegistry):
        raise TypeError(f"{function} takes tools, not {with_article(kind)}: pass its .tools")
    if callable(tools):
        raise TypeError(
            f"{function} takes a list of tools, not a function that chooses them: call "
            "it, and pass the tools that it returns"
        )
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Iterable):
        raise TypeError(
            f"{function} takes a list of tools or a ToolRegistry, not {with_article(kind)}"
        )
    return registry_of(tools)


def one_tool(tool: Any, *, function: str) -> Tool:
    """Return a tool or decorated function as one registered tool."""
    if isinstance(tool, ToolRegistry | list | tuple | set | frozenset):
        hint = 'one of it: registry["name"]' if isinstance(tool, ToolRegistry) else "one of them"
        raise TypeError(f"{function} takes one tool, not a {type(tool).__name__}: pass {hint}")
    if isinstance(tool, str):
        raise TypeError(f"{function} takes a tool, not its name: pass the function {tool}")
    [registered] = ToolRegistry([tool])
    return registered


def messages_of(history: Any, *, function: str) -> list[Message]:
    """Return the messages of a history."""
    if hasattr(history, "messages"):
        kind = type(history).__name__
        raise TypeError(f"{function} takes messages, not a {kind}: pass its .messages")
    wrong = (str, bytes, Mapping, *_MESSAGES)
    if isinstance(history, wrong) or not isinstance(history, Iterable):
        raise TypeError(
            f"{function} takes a list of messages, not {with_article(type(history).__name__)}"
        )
    messages = list(history)
    for index, message in enumerate(messages):
        if not isinstance(message, _MESSAGES):
            raise TypeError(
                f"{function} takes messages, and messages[{index}] is "
                f"{with_article(type(message).__name__)}: load it with load_messages"
            )
    return messages


def maker_of(make: Any, *, function: str, wanted: str, example: str) -> Callable[..., Any]:
    """Return the function that builds the checked object; raise if the object itself was passed."""
    if inspect.iscoroutinefunction(make):
        raise TypeError(f"{function} takes a function that returns {wanted}, not an async function")
    if not callable(make):
        raise TypeError(
            f"{function} takes a function that returns {wanted}, not {with_article(type(make).__name__)}: "
            f"write {example}"
        )
    made: Callable[..., Any] = make
    return made


def check_made(made: object, kind: type[object], *, function: str, other: str = "") -> None:
    """Raise if what a maker returned is not of the right class."""
    if isinstance(made, kind):
        return
    if isinstance(made, Awaitable):
        if inspect.iscoroutine(made):
            made.close()
        raise TypeError(f"the function passed to {function} returned an awaitable; it must be sync")
    hint = f"; use {other}" if other and isinstance(made, Transport | AsyncTransport) else ""
    raise TypeError(
        f"the function passed to {function} returned {with_article(type(made).__name__)}, not "
        f"{with_article(kind.__name__)}{hint}"
    )


def count_of(value: Any, *, name: str, least: int) -> int:
    """Return a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of {least} or more, not {value!r}")
    return value


def with_article(kind: str) -> str:
    """Return the name of a class with its article."""
    return f"an {kind}" if kind[0] in "AEIOUaeiou" else f"a {kind}"
