"""Compile a JSON Schema (draft 2020-12) into a validator. Pure: nothing is ever fetched."""

from collections.abc import Iterator, Mapping
from itertools import islice
from json import dumps, loads
from typing import TYPE_CHECKING, Any

from pathors_agent.arguments import (
    TYPE_WORDS,
    Problem,
    SchemaValidator,
    cut,
    given,
    json_pointer,
    missing,
    unknown,
)
from pathors_agent.messages import JSONValue

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from referencing import Registry
    from referencing._core import Resolver

# Five times what is reported: members of unions are merged before they are counted.
MAX_ERRORS = 50
MAX_VALUES = 200


class InvalidSchema(ValueError):
    """This is no JSON Schema that can be checked here; `path` points into it."""

    def __init__(self, text: str, *, path: str = "") -> None:
        super().__init__(text)
        self.path = path


def compile_schema(schema: Mapping[str, Any]) -> SchemaValidator:
    """Check a schema and make the validator for it, or raise `InvalidSchema`."""
    try:
        own = _copied(schema)
        _check(own)
    except RecursionError as error:
        raise InvalidSchema("is nested too deeply") from error
    return _Validator(own)


def _copied(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that no one else can change, and that is sure to be JSON."""
    try:
        copy: dict[str, Any] = loads(dumps(schema, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidSchema(f"is not JSON: {error}") from error
    return copy


class _Validator:
    def __init__(self, schema: dict[str, Any]) -> None:
        from jsonschema import Draft202012Validator

        self._validator = Draft202012Validator(schema, registry=_registry())

    def problems(self, value: JSONValue) -> list[Problem]:
        errors = islice(self._validator.iter_errors(value), MAX_ERRORS)
        return [p for error in errors for leaf in _leaves(error) for p in _problems(leaf)]


def _registry() -> "Registry[Any]":
    """The published meta-schemas; whatever else a `$ref` names is not found, and not fetched."""
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]

    published: Registry[Any] = REGISTRY
    return published


def _check(schema: Any) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from referencing.jsonschema import DRAFT202012

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        path = "/".join(map(str, error.absolute_path))
        raise InvalidSchema(f"is not valid: {cut(error.message, MAX_VALUES)}", path=path) from None
    resource = DRAFT202012.create_resource(schema)
    registry = resource @ _registry() if resource.id() else _registry().with_resource("", resource)
    _check_references(schema, (), registry.resolver_with_root(resource))


def _check_references(schema: Any, path: tuple[str, ...], resolver: "Resolver[Any]") -> None:
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    for key, child in _subschemas(schema):
        inside = resolver.in_subresource(DRAFT202012.create_resource(child))
        _check_references(child, (*path, *key), inside)
    for keyword in ("$ref", "$dynamicRef"):
        if isinstance(schema, dict) and keyword in schema:
            try:
                resolver.lookup(schema[keyword])
            except Unresolvable:
                where = "/".join((*path, keyword))
                target = cut(schema[keyword], MAX_VALUES)
                raise InvalidSchema(
                    f"points to {target!r}, which is not in this schema", path=where
                ) from None


_HOLDS_SCHEMA = frozenset(
    ("items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else")
) | {"unevaluatedItems", "unevaluatedProperties", "contentSchema"}
_HOLDS_LIST = frozenset(["allOf", "anyOf", "oneOf", "prefixItems"])
_HOLDS_MAPPING = frozenset(
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"]
)


def _subschemas(schema: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The schemas directly inside a schema, with their paths."""
    for keyword, value in schema.items() if isinstance(schema, dict) else ():
        if keyword in _HOLDS_SCHEMA:
            yield (keyword,), value
        elif keyword in _HOLDS_LIST:
            yield from (((keyword, str(index)), item) for index, item in enumerate(value))
        elif keyword in _HOLDS_MAPPING:
            yield from (((keyword, name), item) for name, item in value.items())


def _leaves(error: "ValidationError") -> Iterator["ValidationError"]:
    """The errors of all members of a union, or the error itself."""
    if not error.context:
        yield error
    for inner in error.context or ():
        yield from _leaves(inner)


def _problems(error: "ValidationError") -> list[Problem]:
    path, wanted, instance = list(error.absolute_path), _rule(error), _instance(error)
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    known = schema.get("properties", {})
    match error.validator:
        case "required":
            absent = [name for name in wanted if name not in instance]
            return [Problem(json_pointer([*path, n]), missing(known.get(n))) for n in absent]
        case "additionalProperties" if "patternProperties" not in schema:
            extra = [name for name in instance if name not in known]
            return [Problem(json_pointer([*path, n]), unknown(n, known)) for n in extra]
        case _:
            return [Problem(json_pointer(path), _wanted(error), given(instance))]


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
    wanted = _rule(error)
    match error.validator:
        case "type":
            kinds = [wanted] if isinstance(wanted, str) else wanted
            return "should be " + " or ".join(TYPE_WORDS[kind] for kind in kinds)
        case "enum":
            return cut("should be " + " or ".join(_json(value) for value in wanted), MAX_VALUES)
        case keyword:
            words = _WORDS.get(str(keyword), "does not satisfy " + str(keyword) + ": {}")
            return words.format(cut(_json(wanted), MAX_VALUES))


def _rule(error: "ValidationError") -> Any:
    """The value of the keyword that refused."""
    return error.validator_value


def _instance(error: "ValidationError") -> Any:
    return error.instance


def _json(value: Any) -> str:
    return dumps(value, ensure_ascii=False)
