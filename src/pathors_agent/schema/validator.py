"""Check values against a linked schema with jsonschema, in a bounded amount of work. Pure.

Safe keywords of jsonschema are used unchanged. Keywords that fetch, search with backtracking, compare
all pairs, or apply the same schemas to the same value repeatedly are replaced.
"""

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from fractions import Fraction
from functools import cache
from itertools import islice
from json import dumps
from typing import Any

from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from referencing import Registry

from pathors_agent.schema.bounds import DRAFT_7, resolved, weight

# A step takes about a microsecond: 200,000 numbers, or 20,000 small objects, can be checked.
MAX_STEPS = 1_000_000
# Five times the reported number: problems at one place are merged before they are counted.
MAX_ERRORS = 50
_STEPS_PER_KEYWORD = 3
_STEPS_PER_MEMBER = 2
# Characters times weight of a pattern that a search handles in a microsecond, in the worst case.
_SEARCHED_PER_STEP = 100

Errors = Iterator[ValidationError]
Keyword = Callable[[Any, Any, Any, Any], Any]


class TooMuchWork(Exception):
    """The check of a value exceeds a bound; the text continues "The arguments "."""


class _Work:
    """The remaining budget of one check, and its cached results."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.fits: dict[tuple[int, int], bool] = {}
        self.explained: set[tuple[int, int]] = set()
        self.asked = 0  # depth of nested checks that need no error details


_WORK: ContextVar[_Work] = ContextVar("_WORK")


def _spend(steps: int) -> _Work:
    work = _WORK.get()
    work.steps -= steps
    if work.steps < 0:
        raise TooMuchWork(f"take more than {MAX_STEPS:,} steps to check")
    return work


def make_validator(schema: Any, draft: str) -> Validator:
    """Build jsonschema's validator for a linked schema; use it with `first_errors` only."""
    validator: Validator = _class(draft)(schema, registry=Registry())
    return validator


def first_errors(
    validator: Validator, value: Any, *, count: int = MAX_ERRORS, steps: int = MAX_STEPS
) -> list[ValidationError]:
    """Return the first errors of a copied value, in unions those of each member.

    Raises `TooMuchWork`.
    """
    token = _WORK.set(_Work(steps))
    try:
        return list(islice(_leaves(validator.iter_errors(value)), count))
    except RecursionError as error:  # called at a deep stack, or many frames per level
        raise TooMuchWork("are nested too deeply to check") from error
    finally:
        _WORK.reset(token)


def _leaves(errors: Iterable[ValidationError]) -> Errors:
    for error in errors:
        if error.context:
            yield from _leaves(error.context)
        else:
            yield error


def _fits(validator: Any, schema: Any, value: Any) -> bool:
    """Return True if a value is valid; cached by identity, as schema and value outlive the check."""
    work, key = _spend(1), (id(schema), id(value))
    if key not in work.fits:
        work.asked += 1
        work.fits[key] = next(validator.descend(value, schema), None) is None
        work.asked -= 1
    return work.fits[key]


# - keywords that apply other schemas to the same value -


def _ref(keyword: str) -> Keyword:
    def reference(validator: Any, _: Any, value: Any, schema: Any) -> Errors:
        target = schema.targets[keyword]
        if not _fits(validator, target, value):
            yield from validator.descend(value, target)

    return reference


def _any_of(validator: Any, members: Any, value: Any, schema: Any) -> Errors:
    if not any(_fits(validator, member, value) for member in members):
        yield from _explained(validator, members, value)


def _one_of(validator: Any, members: Any, value: Any, schema: Any) -> Errors:
    fitting = sum(_fits(validator, member, value) for member in members)
    if not fitting:
        yield from _explained(validator, members, value)
    elif fitting > 1:
        yield ValidationError("fits several")


def _explained(validator: Any, members: Any, value: Any) -> Errors:
    """Return one error with those of its members, without them if they were listed before."""
    work, key, context = _spend(1), (id(members), id(value)), list[ValidationError]()
    if not work.asked and key not in work.explained:
        work.explained.add(key)
        meant = [member for member in members if _has_tag(member, value)] or members
        found = (error for member in meant for error in validator.descend(value, member))
        context = list(islice(found, MAX_ERRORS))
    yield ValidationError("fits none", context=context)


def _has_tag(member: Any, value: Any) -> bool:
    """Return True if a constant identifies a member of a union as the intended one."""
    properties = _object(_object(resolved(member)).get("properties"))
    _spend(1 + len(properties))
    return isinstance(value, dict) and any(
        name in value and _object(rule).get("const", _ABSENT) == value[name]
        for name, rule in properties.items()
    )


def _object(schema: Any) -> dict[str, Any]:
    return schema if isinstance(schema, dict) else {}


_ABSENT = object()


def _not(validator: Any, member: Any, value: Any, schema: Any) -> Errors:
    if _fits(validator, member, value):
        yield ValidationError("fits")


def _if(validator: Any, condition: Any, value: Any, schema: Any) -> Errors:
    keyword = "then" if _fits(validator, condition, value) else "else"
    yield from validator.descend(value, schema.get(keyword, True))


# - keywords about names -


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Errors:
    if isinstance(value, str) and not _found(pattern, value, schema):
        yield ValidationError("does not match")


def _found(pattern: str, text: str, schema: Any) -> bool:
    compiled = schema.patterns[pattern]
    _spend(1 + len(text) * compiled.weight // _SEARCHED_PER_STEP)
    return bool(compiled.found_in(text))


def _pattern_properties(validator: Any, members: Any, value: Any, schema: Any) -> Errors:
    for pattern, member in members.items() if isinstance(value, dict) else ():
        for name, item in value.items():
            if _found(pattern, name, schema):
                yield from validator.descend(item, member, path=name)


def _required(validator: Any, names: Any, value: Any, schema: Any) -> Errors:
    for name in names if isinstance(value, dict) else ():
        if name not in value:
            yield ValidationError("is missing", path=(name,))


def _named(name: str, schema: Any) -> bool:
    return name in schema.get("properties", ()) or any(
        _found(pattern, name, schema) for pattern in schema.get("patternProperties", ())
    )


def _additional_properties(validator: Any, member: Any, value: Any, schema: Any) -> Errors:
    for name, item in value.items() if isinstance(value, dict) else ():
        if not _named(name, schema):
            yield from _others(validator, member, name, item)


def _others(validator: Any, member: Any, name: str, item: Any) -> Errors:
    if member is False:
        yield ValidationError("is unknown", path=(name,))
    else:
        yield from validator.descend(item, member, path=name)


# - what other keywords evaluated -


def _unevaluated_properties(validator: Any, member: Any, value: Any, schema: Any) -> Errors:
    if isinstance(value, dict):
        seen = _evaluated(validator, value, schema, _evaluated_names, "unevaluatedProperties")
        for name in (name for name in value if name not in seen):
            yield from _others(validator, member, name, value[name])


def _unevaluated_items(validator: Any, member: Any, value: Any, schema: Any) -> Errors:
    if isinstance(value, list):
        seen = _evaluated(validator, value, schema, _evaluated_indexes, "unevaluatedItems")
        for index in (index for index in range(len(value)) if index not in seen):
            yield from validator.descend(value[index], member, path=index)


def _evaluated(
    validator: Any, value: Any, schema: Any, own: Callable[..., set[Any]], but: str = ""
) -> set[Any]:
    """Return the names or indexes that a schema evaluates, also by schemas for the same value."""
    _spend(_STEPS_PER_KEYWORD + _STEPS_PER_MEMBER * len(value))
    if not isinstance(schema, dict):
        return set()
    seen = own(validator, value, schema, but)
    for applied in _applied(validator, value, schema):
        seen |= _evaluated(validator, value, applied, own)
    return seen


def _applied(validator: Any, value: Any, schema: Any) -> Iterator[Any]:
    yield from schema.targets.values()
    for keyword in ("allOf", "anyOf", "oneOf"):
        yield from (m for m in schema.get(keyword, ()) if _fits(validator, m, value))
    for name, member in schema.get("dependentSchemas", {}).items():
        if name in value:
            yield member
    if "if" in schema:
        fits = _fits(validator, schema["if"], value)
        yield from (schema["if"], schema.get("then", True)) if fits else [schema.get("else", True)]


def _evaluated_names(validator: Any, value: Any, schema: Any, but: str) -> set[str]:
    if "additionalProperties" in schema or "unevaluatedProperties" in schema.keys() - {but}:
        return set(value)
    return {name for name in value if _named(name, schema)}


def _evaluated_indexes(validator: Any, value: Any, schema: Any, but: str) -> set[int]:
    if "items" in schema or "unevaluatedItems" in schema.keys() - {but}:
        return set(range(len(value)))
    seen = set(range(min(len(value), len(schema.get("prefixItems", ())))))
    if "contains" in schema:
        inner = schema["contains"]
        seen |= {index for index, item in enumerate(value) if _fits(validator, inner, item)}
    return seen


# - keywords that compare -


def _multiple_of(validator: Any, factor: Any, value: Any, schema: Any) -> Errors:
    """Check `multipleOf` by the decimal numbers: 0.3 is a multiple of 0.1."""
    if validator.is_type(value, "number") and Fraction(repr(value)) % Fraction(repr(factor)):
        yield ValidationError("is no multiple")


def _unique_items(validator: Any, unique: Any, value: Any, schema: Any) -> Errors:
    if unique and isinstance(value, list) and len({_text(item) for item in value}) < len(value):
        yield ValidationError("repeats")


def _text(value: Any) -> str:
    """Return a text that is equal for equal values only; its hash cannot be forced to collide."""
    return dumps(_integral(value), sort_keys=True)


def _integral(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_integral(item) for item in value]
    if isinstance(value, dict):
        return {name: _integral(item) for name, item in value.items()}
    return value


# - the work of each -


def _by_weight(rule: Any, value: Any) -> int:
    return weight(rule)


def _by_members(rule: Any, value: Any) -> int:
    return _STEPS_PER_MEMBER * len(rule)


def _by_value(rule: Any, value: Any) -> int:
    return _STEPS_PER_MEMBER * len(value) if isinstance(value, dict | list) else 0


_COSTS = (
    dict.fromkeys(("enum", "const", "required", "type"), _by_weight)
    | dict.fromkeys(("dependentRequired", "dependentSchemas", "dependencies"), _by_weight)
    | dict.fromkeys(("allOf", "anyOf", "oneOf"), _by_members)
    | dict.fromkeys(("items", "prefixItems", "additionalItems", "contains"), _by_value)
    | dict.fromkeys(("propertyNames", "additionalProperties"), _by_value)
    | {"properties": lambda rule, value: len(rule) // 8}
    | {"multipleOf": lambda rule, value: 20}
    | {"uniqueItems": lambda rule, value: 2 * weight(value)}
)


def _format(validator: Any, rule: Any, value: Any, schema: Any) -> tuple[()]:
    """Accept any value: `format` is an annotation."""
    return ()


_REPLACED: dict[str, Keyword] = {
    "$ref": _ref("$ref"),
    "$dynamicRef": _ref("$dynamicRef"),
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
    "format": _format,
    "required": _required,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "unevaluatedProperties": _unevaluated_properties,
    "unevaluatedItems": _unevaluated_items,
    "multipleOf": _multiple_of,
    "uniqueItems": _unique_items,
}


def _counted(name: str, keyword: Keyword) -> Keyword:
    cost = _COSTS.get(name, lambda rule, value: 0)

    def counted(validator: Any, rule: Any, value: Any, schema: Any) -> Any:
        _spend(_STEPS_PER_KEYWORD + cost(rule, value))
        return keyword(validator, rule, value, schema)

    return counted


@cache
def _class(draft: str) -> Any:
    base: Any = Draft7Validator if draft == DRAFT_7 else Draft202012Validator
    # Renamed in draft 2020-12, but schemas without `$schema` may still have it.
    keywords = {"dependencies": Draft7Validator.VALIDATORS["dependencies"], **base.VALIDATORS}
    counted = {name: _counted(name, _REPLACED.get(name, own)) for name, own in keywords.items()}
    return extend(base, counted)  # type: ignore[no-untyped-call]  # jsonschema has no types
