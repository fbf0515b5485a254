"""Reduce a tool's JSON Schema to what can be looked for in a sentence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pathors_agent.messages import JSONValue
from pathors_agent.offline.words import stems

Kind = Literal[
    "choice",
    "number",
    "integer",
    "boolean",
    "date",
    "expression",
    "list",
    "object",
    "text",
    "topic",
]

_EXPRESSION_NAMES = {"expression", "formula", "calculation", "equation", "arithmetic"}
_DATE_NAMES = stems("date day when")
_TOPIC_NAMES = stems(
    "body comment content description input keyword message note prompt query question reason"
    " subject task term text title topic"
) | {"q"}
_TOPIC_NAMES = stems(
    "body comment content description input keyword message note prompt query question reason"
    " subject task term text title topic"
) | {"q"}
_JSON_KINDS: dict[str, Kind] = {
    "number": "number",
    "integer": "integer",
    "boolean": "boolean",
    "array": "list",
    "object": "object",
}

# A schema that refers to itself ends here.
_DEPTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One argument to look for."""

    name: str
    kind: Kind
    required: bool
    stems: frozenset[str]
    choices: tuple[JSONValue, ...] = ()
    format: str = ""
    item: "Parameter | None" = None
    fields: tuple["Parameter", ...] = ()


def parameters(schema: Mapping[str, Any] | None) -> tuple[Parameter, ...]:
    """List the properties of an object schema."""
    return _fields(schema or {}, schema or {}, 0)


def _fields(
    schema: Mapping[str, Any], root: Mapping[str, Any], depth: int
) -> tuple[Parameter, ...]:
    required = schema.get("required", ())
    return tuple(
        _parameter(name, part, root, required=name in required, depth=depth + 1)
        for name, part in schema.get("properties", {}).items()
        if depth < _DEPTH
    )


def _parameter(
    name: str, schema: Any, root: Mapping[str, Any], *, required: bool, depth: int
) -> Parameter:
    plain = _resolve(schema, root, depth)
    kind = _kind(name, plain)
    return Parameter(
        name=name,
        kind=kind,
        required=required and "default" not in plain,
        stems=frozenset(stems(name)),
        choices=_choices(plain),
        format=plain.get("format", ""),
        item=_item(name, plain, root, depth) if kind == "list" else None,
        fields=_fields(plain, root, depth) if kind == "object" else (),
    )


def _item(name: str, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Parameter:
    items = schema.get("items") or {}
    return _parameter(name, items if depth < _DEPTH else {}, root, required=True, depth=depth + 1)


def _resolve(schema: Any, root: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
    """Follow references, and choose one alternative: a number, else the first that is not null."""
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return {}
    if "$ref" in schema:
        return {**_resolve(_target(schema["$ref"], root), root, depth + 1), **schema}
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            options = [_resolve(option, root, depth + 1) for option in schema[key]]
            return {**_preferred(options), **schema}
    return schema


def _target(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for key in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(key.replace("~1", "/").replace("~0", "~"), {}) if key else found
    return found


def _preferred(options: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    given = [option for option in options if option.get("type") != "null"]
    numeric = [option for option in given if option.get("type") in {"number", "integer"}]
    return next(iter(numeric or given), {})


def _choices(schema: Mapping[str, Any]) -> tuple[JSONValue, ...]:
    return (schema["const"],) if "const" in schema else tuple(schema.get("enum", ()))


def _kind(name: str, schema: Mapping[str, Any]) -> Kind:
    declared = schema.get("type")
    if isinstance(declared, list):
        declared = next((item for item in declared if item != "null"), None)
    if _choices(schema):
        return "choice"
    if declared in _JSON_KINDS:
        return _JSON_KINDS[declared]
    if "properties" in schema:
        return "object"
    if name.lower() in _EXPRESSION_NAMES:
        return "expression"
    if schema.get("format", "") in {"date", "date-time"} or stems(name) & _DATE_NAMES:
        return "date"
    return "topic" if stems(name) & _TOPIC_NAMES else "text"
