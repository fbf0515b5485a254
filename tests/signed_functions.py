"""Types of parameters, and the schemas of functions that have them."""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

from pathors_agent.messages import ToolCall, ToolMessage
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.tool import Tool


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


class Opaque:
    """A class that pydantic cannot describe."""


def parameters_of(function: Callable[..., Any]) -> Any:
    """Return the schema of a function's parameters."""
    return Tool.from_function(function).parameters


def schema_of(annotation: Any) -> Any:
    """The schema of a required parameter `x` with this annotation."""
    return parameters_of(takes(annotation))["properties"]["x"]


def takes(annotation: Any) -> Callable[..., Any]:
    """Return a function with one parameter `x` of this type."""

    def function(x: Any) -> None: ...

    function.__annotations__["x"] = annotation
    return function


def bind_to(annotation: Any, json: str) -> BoundCall | ToolMessage:
    """Bind JSON to the parameter of a function of this type."""
    registry = ToolRegistry([Tool.from_function(takes(annotation))])
    return registry.bind(ToolCall(id="c1", name="function", arguments=f'{{"x": {json}}}'))
