"""Compile a JSON Schema (draft 2020-12 or 7) into a validator. Pure: nothing is ever fetched.

A schema is copied within bounds, checked against its draft, and linked: its references are resolved
once, within the schema. The validator then checks values in a bounded amount of work.
"""

from collections.abc import Mapping
from functools import cache, lru_cache
from json import dumps, loads
from typing import TYPE_CHECKING, Any

from pathors_agent.messages import JSONValue
from pathors_agent.schema.arguments import ArgumentsRefused, Problem, SchemaValidator, given
from pathors_agent.schema.bounds import (
    InvalidSchema,
    OutOfBounds,
    copied_arguments,
    copied_schema,
    weight,
)
from pathors_agent.schema.references import DRAFT_2020_12, Path, draft_of, link

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

__all__ = ["InvalidSchema", "compile_schema"]

# A server registers the tools of each request again, and most requests have the same ones. A unit of
# weight takes one or two kilobytes; the largest schema of 885 published tool sets has 200 units.
MAX_KEPT = 128
MAX_KEPT_WEIGHT = 1_000


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

    def problems(self, value: JSONValue) -> list[Problem]:
        """Return the problems of a value; raise `ArgumentsRefused` if the check exceeds a bound."""
        from pathors_agent.schema.validator import TooMuchWork, first_errors
        from pathors_agent.schema.words import problem

        try:
            errors = first_errors(self._validator, copied_arguments(value))
        except OutOfBounds as error:
            raise ArgumentsRefused(f"hold {error}; send less.") from None
        except TooMuchWork as error:
            raise ArgumentsRefused(f"{error}; send less.") from None
        return [problem(error, self._validator) for error in errors]


# - definitions -


def _check(schema: Any, draft: str, path: Path = ()) -> None:
    """Raise `InvalidSchema` if the meta-schema of the draft refuses a schema."""
    from pathors_agent.schema.validator import TooMuchWork, first_errors
    from pathors_agent.schema.words import instance, wanted

    try:
        errors = first_errors(_meta_schema(draft), schema, count=1)
    except TooMuchWork:
        raise InvalidSchema("takes too much work to check") from None
    for error in errors:
        place = "/".join((*path, *map(str, error.absolute_path)))
        raise InvalidSchema(f"{wanted(error)}, is {given(instance(error))}", path=place)


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
