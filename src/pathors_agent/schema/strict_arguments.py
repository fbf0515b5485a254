"""Read arguments that were written in the closed form of a schema. Pure.

There every property is required. One that may be left out takes null instead, and `StrictArguments`
reads such a null as "left out". A null that the property takes anyhow stays.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from json import dumps, loads
from typing import Any, Protocol

from pathors_agent.schema.arguments import parse_object
from pathors_agent.schema.bounds import copied_schema

ONLY_VALUES = frozenset({"enum", "const"})

_JSON_TYPES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}

Schema = Mapping[str, Any]


def kinds_of(schema: Schema) -> list[str]:
    """Name the types of a value, as said or as its values and parts tell."""
    if "type" in schema:
        kind = schema["type"]
        return [kind] if isinstance(kind, str) else list(kind)
    if schema.keys() & ONLY_VALUES:
        return list(dict.fromkeys(_JSON_TYPES[type(value)] for value in _values(schema)))
    parts = {"properties": "object", "items": "array"}
    return [kind for part, kind in parts.items() if part in schema]


def _values(branch: Schema) -> list[Any]:
    values: list[Any] = branch.get("enum", [branch.get("const")])
    return values


class Alternatives:
    """What the parts of one schema, read from JSON, can be: through references and unions."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._found: dict[int, list[Schema]] = {}

    def of(self, schema: Any) -> list[Schema]:
        """List what a part can be."""
        return list(self._branches(schema, set()))

    def kept(self, schema: Any) -> list[Schema]:
        """List what a part can be, and keep the list; the part belongs to the schema."""
        if id(schema) not in self._found:
            self._found[id(schema)] = self.of(schema)
        return self._found[id(schema)]

    def _branches(self, schema: Any, seen: set[str]) -> Iterator[Schema]:
        if not isinstance(schema, Mapping):
            return
        reference = schema.get("$ref")
        members = schema.get("anyOf", schema.get("oneOf"))
        if reference in seen:
            return
        if reference is not None:
            seen.add(reference)  # once is enough: its alternatives are listed
            yield from self._branches(self.definition(reference), seen)
        elif members is None:
            yield schema
        else:
            for member in members:
                yield from self._branches(member, seen)

    def definition(self, reference: str) -> Any:
        """Find what a reference means, None where it is not to the root or its definitions."""
        if reference == "#":
            return self._root
        for place in ("$defs", "definitions"):
            name = reference.removeprefix(f"#/{place}/")
            if name != reference and name in self._root.get(place, {}):
                return self._root[place][name]
        return None

    def is_nulled(self, name: str, schema: Schema) -> bool:
        """Whether a property takes null in the closed form only: it may be left out.

        One that has only one value is required instead.
        """
        if name in schema.get("required", ()):
            return False
        inner = schema["properties"][name]
        only = self._only_values(inner)
        return (only is None or len(only) > 1) and not any(map(_takes_null, self.kept(inner)))

    def are_told_apart(self, union: Schema) -> bool:
        """Whether the names or values of an object tell which one of a union it is.

        OpenAI refuses other unions, and in them no null could be read as "left out".
        """
        groups: dict[frozenset[str], list[Schema]] = {}
        for branch in self.kept(union):
            if "object" in kinds_of(branch):
                groups.setdefault(frozenset(branch.get("properties", {})), []).append(branch)
        pairs = (pair for group in groups.values() for pair in combinations(group, 2))
        return all(self._differ(one, other) for one, other in pairs)

    def _differ(self, one: Schema, other: Schema) -> bool:
        for name in one.get("properties", {}):
            a, b = self._closed_values(name, one), self._closed_values(name, other)
            if a is not None and b is not None and a.isdisjoint(b):
                return True
        return False

    def object_of(self, value: Schema, schema: Any) -> Schema:
        """Find which of the objects of a part a value in the closed form is."""
        objects = [branch for branch in self.kept(schema) if "properties" in branch]
        if len(objects) == 1:
            return objects[0]
        return next((branch for branch in objects if self._is_named_by(value, branch)), {})

    def _is_named_by(self, value: Schema, branch: Schema) -> bool:
        if value.keys() != branch["properties"].keys():
            return False
        allowed = ((name, self._closed_values(name, branch)) for name in value)
        return all(texts is None or dumps(value[name]) in texts for name, texts in allowed)

    def _closed_values(self, name: str, schema: Schema) -> set[str] | None:
        """Give the JSON texts of a property's only values, None where it takes any others."""
        if self.is_nulled(name, schema):
            return None
        return self._only_values(schema["properties"][name])

    def _only_values(self, schema: Any) -> set[str] | None:
        found: set[str] = set()
        for branch in self.kept(schema):
            if not branch.keys() & ONLY_VALUES:
                return None
            found.update(map(dumps, _values(branch)))
        return found


def _takes_null(branch: Schema) -> bool:
    return "null" in kinds_of(branch) and None in _values(branch)


class ArgumentsReader(Protocol):
    """What reads the arguments of a call."""

    def read(self, text: str) -> dict[str, Any]:
        """Give the arguments, or raise `ArgumentsRefused`."""


class StrictArguments:
    """Read arguments in which a null can mean "left out"."""

    def __init__(self, reader: ArgumentsReader, schema: Schema) -> None:
        self._reader = reader
        self._schema = loads(dumps(copied_schema(schema)))
        self._alternatives = Alternatives(self._schema)

    def read(self, text: str) -> dict[str, Any]:
        """Give the arguments, or raise `ArgumentsRefused`."""
        if "null" not in text:
            return self._reader.read(text)
        arguments = self._shortened(parse_object(text), self._schema)
        return self._reader.read(dumps(arguments, ensure_ascii=False))

    def _shortened(self, value: Any, schema: Any) -> Any:
        """Leave out the nulls that only the closed form takes."""
        if isinstance(value, dict):
            return self._shortened_object(value, self._alternatives.object_of(value, schema))
        if isinstance(value, list):
            arrays = (b for b in self._alternatives.kept(schema) if "items" in b)
            items = next(arrays, {}).get("items")
            return [self._shortened(item, items) for item in value]
        return value

    def _shortened_object(self, value: dict[str, Any], schema: Schema) -> dict[str, Any]:
        properties = schema.get("properties", {})
        return {
            name: self._shortened(item, properties.get(name))
            for name, item in value.items()
            if item is not None
            or name not in properties
            or not self._alternatives.is_nulled(name, schema)
        }
