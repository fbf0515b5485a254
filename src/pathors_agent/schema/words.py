"""Say in words a model can act on what a schema refuses. Pure.

jsonschema's own texts quote whole values and name its keywords; they are not used.
"""

from collections.abc import Mapping
from json import dumps
from typing import Any

from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator

from pathors_agent.schema.arguments import (
    TYPE_WORDS,
    Problem,
    allowed,
    cut,
    given,
    json_pointer,
    missing,
    unknown,
)
from pathors_agent.schema.bounds import copied_arguments
from pathors_agent.schema.example import candidates
from pathors_agent.schema.references import resolved
from pathors_agent.schema.validator import TooMuchWork, first_errors

MAX_VALUES = 200
MAX_EXAMPLE = 100
MAX_EXAMPLE_STEPS = 5_000


def problem(error: ValidationError, validator: Validator) -> Problem:
    """Say what is wrong, and show what would be right."""
    path = list(error.absolute_path)
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    known = schema.get("properties", {})
    match error.validator:
        case "required":
            rule = resolved(known.get(path[-1]))
            return Problem(json_pointer(path), missing(rule), example=_example(rule, validator))
        case "additionalProperties" | "unevaluatedProperties":
            return Problem(json_pointer(path), unknown(str(path[-1]), known))
        case keyword:
            example = _example(schema, validator, strings=keyword == "pattern")
            return Problem(json_pointer(path), wanted(error), given(instance(error)), example)


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


def wanted(error: ValidationError) -> str:
    """Say what should be there."""
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


def _example(schema: Any, validator: Validator, *, strings: bool = False) -> str:
    """Show the smallest value that fits, where it says more than its type."""
    shown = (dict, list, str) if strings else (dict, list)
    for value in candidates(schema):
        if isinstance(value, shown) and value and _fits(validator.evolve(schema=schema), value):
            return _json(value)
    return ""


def _fits(validator: Validator, value: Any) -> bool:
    if len(_json(value)) > MAX_EXAMPLE:
        return False
    try:
        return not first_errors(
            validator, copied_arguments(value), count=1, steps=MAX_EXAMPLE_STEPS
        )
    except TooMuchWork:
        return False


def instance(error: ValidationError) -> Any:
    """Give the value that was refused."""
    return error.instance


def _json(value: Any) -> str:
    return dumps(value, ensure_ascii=False)
