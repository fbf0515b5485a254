"""Compile a JSON Schema (draft 2020-12 or 7) into a validator. Pure: nothing is ever fetched.

A schema is copied within bounds, checked against its draft, and linked: its references are resolved
once, within the schema. The validator then checks values in a bounded amount of work.
"""

from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from itertools import islice
from json import dumps, loads
from typing import TYPE_CHECKING, Any

from pathors_agent.messages import JSONValue
from pathors_agent.schema.arguments import (
    TYPE_WORDS,
    ArgumentProblem,
    ArgumentsRefused,
    SchemaValidator,
    allowed,
    given,
    json_pointer,
    missing,
    unknown,
)
from pathors_agent.schema.bounds import (
    DRAFT_2020_12,
    InvalidSchema,
    OutOfBounds,
    copied_arguments,
    copied_schema,
    cut,
    resolved,
    weight,
)
from pathors_agent.schema.references import Path, draft_of, link

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

__all__ = ["InvalidSchema", "compile_schema"]

# A server registers the tools of each request again, and most requests have the same ones. A unit of
# weight takes one or two kilobytes; the largest schema of 885 published tool sets has 200 units.
MAX_KEPT = 128
MAX_KEPT_WEIGHT = 1_000

MAX_VALUES = 200
MAX_EXAMPLE = 100
MAX_EXAMPLE_STEPS = 5_000


def compile_schema(schema: Mapping[str, Any]) -> SchemaValidator:
    """Check a schema and build its validator, cached; raise `InvalidSchema`."""
    try:
        return _kept(dumps(copied_schema(schema)))
    except _TooBigToKeep as big:
        return big.validator


@lru_cache(maxsize=MAX_KEPT)
def _kept(text: str) -> "_Validator":
    validator = _Validator(loads(text))
    if validator.weight > MAX_KEPT_WEIGHT:
        raise _TooBigToKeep(validator)
    return validator


class _TooBigToKeep(Exception):
    def __init__(self, validator: "_Validator") -> None:
        super().__init__()
        self.validator = validator


class _Validator:
    def __init__(self, published: Any) -> None:
        from pathors_agent.schema.validator import make_validator

        schema = copied_schema(published)
        draft = draft_of(schema)
        _check(schema, draft)
        patterns = link(schema, draft, lambda part, path: _check(part, draft, path))
        self.weight = weight(schema) + patterns
        self._validator = make_validator(schema, draft)

    def problems(self, value: JSONValue) -> list[ArgumentProblem]:
        """Return the problems of a value; raise `ArgumentsRefused` if the check exceeds a bound."""
        from pathors_agent.schema.validator import TooMuchWork, first_errors

        try:
            errors = first_errors(self._validator, copied_arguments(value))
        except OutOfBounds as error:
            raise ArgumentsRefused(f"hold {error}; send less.") from None
        except TooMuchWork as error:
            raise ArgumentsRefused(f"{error}; send less.") from None
        return [_problem(error, self._validator) for error in errors]


# - definitions -


def _check(schema: Any, draft: str, path: Path = ()) -> None:
    """Raise `InvalidSchema` if the meta-schema of the draft refuses a schema."""
    from pathors_agent.schema.validator import TooMuchWork, first_errors

    try:
        errors = first_errors(_meta_schema(draft), schema, count=1)
    except TooMuchWork:
        raise InvalidSchema("takes too much work to check") from None
    for error in errors:
        place = "/".join((*path, *map(str, error.absolute_path)))
        raise InvalidSchema(f"{_wanted(error)}, is {given(error.instance)}", path=place)


@cache
def _meta_schema(draft: str) -> "Validator":
    """Return the validator of the schemas of a draft."""
    from jsonschema import Draft7Validator

    from pathors_agent.schema.validator import make_validator

    published = _merged() if draft == DRAFT_2020_12 else Draft7Validator.META_SCHEMA
    schema = copied_schema(published)
    link(schema, draft, lambda part, path: None)
    return make_validator(schema, draft)


def _merged() -> Any:
    """Return draft 2020-12 merged from its eight documents: equivalent, and five times faster."""
    from jsonschema import Draft202012Validator
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]

    whole: Any = Draft202012Validator.META_SCHEMA
    base = whole["$id"].removesuffix("schema")
    names = [part["$ref"] for part in whole["allOf"]]
    parts = [whole, *(REGISTRY.contents(base + name) for name in names)]
    properties = {name: rule for part in parts for name, rule in part["properties"].items()}
    shared = {name: rule for part in parts for name, rule in part.get("$defs", {}).items()}
    text = dumps({"type": whole["type"], "properties": properties, "$defs": shared})
    for name in names:
        text = text.replace(f'"{name}#/', '"#/')
    return loads(text.replace('{"$dynamicRef": "#meta"}', '{"$ref": "#"}'))


# - problems -
#
# They help a model to correct its call. The texts of jsonschema quote whole values and name keywords, and
# are not used.


def _problem(error: "ValidationError", validator: "Validator") -> ArgumentProblem:
    """Return the problem that an error reports, with an example of a valid value."""
    path = list(error.absolute_path)
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    known = schema.get("properties", {})
    match error.validator:
        case "required":
            rule = resolved(known.get(path[-1]))
            return ArgumentProblem(
                json_pointer(path), missing(rule), example=_example(rule, validator)
            )
        case "additionalProperties" | "unevaluatedProperties":
            return ArgumentProblem(json_pointer(path), unknown(str(path[-1]), known))
        case keyword:
            example = _example(schema, validator, strings=keyword == "pattern")
            return ArgumentProblem(
                json_pointer(path), _wanted(error), given(error.instance), example
            )


_WORDS = {
    "minimum": "should be at least {}",
    "maximum": "should be at most {}",
    "exclusiveMinimum": "should be more than {}",
    "exclusiveMaximum": "should be less than {}",
    "multipleOf": "should be a multiple of {}",
    "minLength": "should have at least {} characters",
    "maxLength": "should have at most {} characters",
    "minItems": "should have at least {} items",
    "maxItems": "should have at most {} items",
    "pattern": "should match the pattern {}",
    "const": "should be {}",
}


def _wanted(error: "ValidationError") -> str:
    """Return what the schema requires, in words."""
    rule: Any = error.validator_value
    match error.validator:
        case None:
            return "is not allowed"
        case "anyOf" | "oneOf":
            return f"should fit {_HOW_MANY[error.message]} of {len(rule)} alternatives"
        case "type":
            kinds = [rule] if isinstance(rule, str) else rule
            return "should be " + " or ".join(TYPE_WORDS[kind] for kind in kinds)
        case "enum":
            return allowed(rule) if rule else "is not allowed"
        case keyword:
            words = _WORDS.get(str(keyword), "does not satisfy " + str(keyword) + ": {}")
            return words.format(cut(_json(rule), MAX_VALUES))


_HOW_MANY = {"fits none": "one", "fits several": "exactly one"}


def _example(schema: Any, validator: "Validator", *, strings: bool = False) -> str:
    """Return a small valid value as JSON text, or "" if the type alone says as much."""
    shown = (dict, list, str) if strings else (dict, list)
    for value in _candidates(schema):
        if isinstance(value, shown) and value and _fits(validator.evolve(schema=schema), value):
            return _json(value)
    return ""


def _fits(validator: "Validator", value: Any) -> bool:
    from pathors_agent.schema.validator import TooMuchWork, first_errors

    if len(_json(value)) > MAX_EXAMPLE:
        return False
    try:
        return not first_errors(
            validator, copied_arguments(value), count=1, steps=MAX_EXAMPLE_STEPS
        )
    except TooMuchWork:
        return False


def _json(value: Any) -> str:
    return dumps(value, ensure_ascii=False)


# - examples -

# An example with more values or levels would be too long to show.
_MAX_VALUES = 40
_MAX_DEPTH = 6
# Each candidate is validated before it is shown.
_MAX_CANDIDATES = 4


def _candidates(schema: Any) -> Iterator[Any]:
    """Yield values that may be valid for a linked schema, the most likely first."""
    return islice(_ExampleMaker().values(schema, _MAX_DEPTH), _MAX_CANDIDATES)


class _ExampleMaker:
    """One search for an example, bounded by the number of schemas visited."""

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
