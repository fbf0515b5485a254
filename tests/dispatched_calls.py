"""Functions called as tools in each way there is."""

from collections.abc import Callable
from typing import Any

from pathors_agent.messages import ToolCall, ToolMessage
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.tool import Tool

Function = Callable[..., Any]

# Never waited for when all is well.
LONG = 50.0
# Enough for a thread or a task to begin.
SHORT = 0.3


def bound(function: Function, arguments: str = "{}", **options: Any) -> BoundCall:
    """Bind a call of a function as the tool `look`."""
    parameters = {"type": "object", "properties": {}}
    tool = Tool(name="look", parameters=parameters, function=function, **options)
    registry = ToolRegistry([tool])
    call = registry.bind(ToolCall(id="call_1", name="look", arguments=arguments))
    assert isinstance(call, BoundCall)
    return call


Dispatch = Callable[..., ToolMessage]
