"""Make small values that a schema may ask for, to show a model what is wanted. Pure."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

# An example of more values, or of more levels, is longer than what is shown.
_MAX_VALUES = 40
_MAX_DEPTH = 6
# Each of them is checked before one is shown.
_MAX_CANDIDATES = 4


def candidates(schema: Any) -> Iterator[Any]:
    """Give values that may fit a linked schema, the likeliest first."""
    return islice(_Maker().values(schema, _MAX_DEPTH), _MAX_CANDIDATES)


class _Maker:
    """One search for an example; it ends when it has looked at enough schemas."""

    def __init__(self) -> None:
        self._left = _MAX_VALUES

    def values(self, schema: Any, depth: int) -> Iterator[Any]:
        self._left -= 1
        if not isinstance(schema, Mapping) or depth == 0 or self._left < 0:
            return
        if "const" in schema:
            yield schema["const"]
        yield from islice(schema.get("examples", ()), 1)
        if "default" in schema:
            yield schema["default"]
        yield from islice(schema.get("enum", ()), 1)
        for target in getattr(schema, "targets", {}).values():
            yield from self.values(target, depth - 1)
        for keyword in ("anyOf", "oneOf", "allOf"):
            for member in schema.get(keyword, ())[:_MAX_VALUES]:
                yield from self.values(member, depth - 1)
        yield from self._of_types(schema, depth)

    def _of_types(self, schema: Mapping[str, Any], depth: int) -> Iterator[Any]:
        named = schema.get("type", "object" if "properties" in schema else [])
        for kind in [named] if isinstance(named, str) else named:
            match kind:
                case "object":
                    yield self._object(schema, depth)
                case "array":
                    yield self._array(schema, depth)
                case _:
                    yield _scalar(kind, schema)

    def _first(self, schema: Any, depth: int) -> Any:
        return next(self.values(schema, depth - 1), "")

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        known, names = schema.get("properties", {}), schema.get("required", [])[:_MAX_VALUES]
        return {name: self._first(known.get(name), depth) for name in names}

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        schemas = schema.get("prefixItems", ())[:_MAX_VALUES]
        first = [self._first(item, depth) for item in schemas]
        more = int(min(schema.get("minItems", 0), _MAX_VALUES)) - len(first)
        return first + [self._first(schema.get("items"), depth) for _ in range(more)]


def _scalar(kind: str, schema: Mapping[str, Any]) -> Any:
    match kind:
        case "string":
            return "a" * int(min(schema.get("minLength", 0), _MAX_VALUES))
        case "boolean":
            return False
        case "integer" | "number":
            return _number(schema)
        case _:
            return None


def _number(schema: Mapping[str, Any]) -> int | float:
    above: int | float | None = schema.get("exclusiveMinimum")
    lowest: int | float = schema.get("minimum", above + 1 if above is not None else 0)
    return lowest if lowest > 0 else min(0, schema.get("maximum", 0))
