"""Give the closed form of a schema, which endpoints can enforce while a model writes. Pure.

OpenAI documents it: every object names all of its properties, requires each of them, and allows
no others; only some keywords may be used.
"""

from collections.abc import Mapping
from typing import Any

_KEYWORDS = frozenset(
    {
        *("type", "properties", "required", "additionalProperties", "items", "anyOf", "enum"),
        *("const", "$ref", "$defs", "description", "title", "pattern", "format", "default"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minItems", "maxItems"),
    }
)
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)


class _Open(Exception):
    """The schema has no closed form."""


def closed_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give a schema's closed form, or None where it has none.

    What fits it also fits the schema. A property that may be left out is required: its default,
    or null where that is allowed, is what a model can write instead.
    """
    try:
        return _closed(schema)
    except _Open:
        return None


def _closed(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, Mapping) or not schema or schema.keys() - _KEYWORDS:
        raise _Open
    if schema.get("format", "date") not in _FORMATS:
        raise _Open
    closed = {name: value for name, value in schema.items() if name != "default"}
    for name in ("properties", "$defs"):
        if name in schema:
            closed[name] = {key: _closed(inner) for key, inner in schema[name].items()}
    if "items" in schema:
        closed["items"] = _closed(schema["items"])
    if "anyOf" in schema:
        closed["anyOf"] = [_closed(member) for member in schema["anyOf"]]
    return closed | _object_rules(schema)


def _object_rules(schema: Mapping[str, Any]) -> dict[str, Any]:
    if schema.get("type") != "object":
        return {}
    if schema.get("additionalProperties", False) is not False or "properties" not in schema:
        raise _Open
    return {"required": list(schema["properties"]), "additionalProperties": False}
