"""Read a tool from its definition in OpenAI's requests: a client tool. Pure."""

from collections.abc import Mapping
from typing import Any

from pathors_agent.errors import UnreadableDefinition
from pathors_agent.tools.tool import Tool


def read_definition(definition: object) -> Tool:
    """Make a client tool of `{"type": "function", "function": {...}}`."""
    function = _function(definition)
    name = _typed(function, "name", str, "must be a string")
    if name is None:
        raise UnreadableDefinition(".function.name", "must be a string")
    parameters = _typed(function, "parameters", Mapping, "must be an object, a JSON Schema")
    return Tool(
        name=name,
        description=_typed(function, "description", str, "must be a string") or "",
        parameters={"type": "object", "properties": {}} | dict(parameters or {}),
        strict=_typed(function, "strict", bool, "must be true or false") is True,
    )


def _function(definition: object) -> Mapping[str, Any]:
    if not isinstance(definition, Mapping):
        raise UnreadableDefinition("", "must be an object")
    if definition.get("type") != "function":
        raise UnreadableDefinition(".type", 'must be "function"')
    function = definition.get("function")
    if not isinstance(function, Mapping):
        raise UnreadableDefinition(".function", "must be an object")
    return function


def _typed(function: Mapping[str, Any], name: str, kind: type, problem: str) -> Any:
    value = function.get(name)
    if value is None or isinstance(value, kind):
        return value
    raise UnreadableDefinition(f".function.{name}", problem)
