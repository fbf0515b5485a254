"""Hostile schemas and values end soon, and ordinary ones as jsonschema says."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from effort import THOROUGH
from pathors_agent.schema.arguments import ArgumentsRefused
from pathors_agent.schema.compiled import InvalidSchema, compile_schema
from pathors_agent.schema.validator import MAX_STEPS, first_errors


def nested(depth: int, wrap: Callable[[Any], Any], core: Any) -> Any:
    for _ in range(depth):
        core = wrap(core)
    return core


def doubled(pair: Callable[[Any], Any], last: Any, times: int = 22) -> Any:
    """2 to the power of 22 ways to look at the same value."""
    links = {f"d{n + 1}": pair({"$ref": f"#/$defs/d{n}"}) for n in range(times)}
    return {"$ref": f"#/$defs/d{times}", "$defs": {"d0": last} | links}


def branching(keyword: str) -> Any:
    """8 ways to look at each item of each array in an array."""
    item = {"type": "array", "items": {"$ref": "#/$defs/a"}}
    return {"$ref": "#/$defs/a", "$defs": {"a": {keyword: [item] * 8 + [{"type": "string"}]}}}


LONG = "x" * 20_000_000
DEEP = nested(45, lambda inner: [inner], 1)
MANY_NAMES: dict[str, Any] = {"properties": {f"p{n}": {} for n in range(4_900)}}

ANSWERED: dict[str, tuple[Any, Any, bool]] = {
    "anyOf doubled": (doubled(lambda a: {"anyOf": [a, a]}, {"type": "string"}), 1, False),
    "oneOf doubled": (doubled(lambda a: {"oneOf": [a, {"not": a}]}, {}, 16), 1, True),
    "allOf doubled": (doubled(lambda a: {"allOf": [a, a]}, {}), {"a": 1}, True),
    "allOf doubled, wrong": (doubled(lambda a: {"allOf": [a, a]}, {"type": "string"}), 1, False),
    "allOf doubled, wrong, in a union": (
        {"anyOf": [doubled(lambda a: {"allOf": [a, a]}, {"type": "string"}) | {"$id": "http://a"}]},
        1,
        False,
    ),
    "not doubled": (doubled(lambda a: {"not": a, "if": a, "else": True}, {}), 1, True),
    "anyOf branching": (branching("anyOf"), DEEP, False),
    "oneOf branching": (branching("oneOf"), DEEP, False),
    "wide union, long string": (
        {"anyOf": [{"allOf": [{"type": "integer"}] * 3_000}, {"type": "null"}]},
        LONG,
        False,
    ),
    "many not, long string": ({"anyOf": [{"not": {"type": "string"}}] * 2_000}, LONG, False),
    "unique objects": ({"uniqueItems": True}, [{"a": n} for n in range(20_000)], True),
    "unique numbers of one hash": (
        {"uniqueItems": True},
        [n * (2**61 - 1) for n in range(50_000)],
        True,
    ),
    "many errors": ({"items": {"type": "string"}}, list(range(100_000)), False),
    "many unknown names": (
        {"additionalProperties": False, **MANY_NAMES},
        {f"k{n}": n for n in range(50_000)},
        False,
    ),
    "many missing names": ({"required": [f"p{n}" for n in range(9_000)]}, {}, False),
    "long number": ({"multipleOf": 1e-300}, 10**1_900, True),
    "far apart": ({"multipleOf": 0.1}, 1e308, True),
    "large bounds": ({"minLength": 10**30, "maximum": 10**30}, "x", False),
    "lone surrogate": ({"pattern": "^.$"}, "\ud800", False),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ANSWERED)
def test_hostile_schema_is_answered(name: str) -> None:
    schema, value, fits = ANSWERED[name]

    assert (compile_schema(schema).problems(value) == []) == fits


GIVEN_UP: dict[str, tuple[Any, Any]] = {
    "names of many objects": ({"items": MANY_NAMES}, [{}] * 100_000),
    "constants of many items": ({"items": {"enum": list(range(9_000))}}, [8_999] * 100_000),
    "large constants": (
        {"items": {"enum": [[*range(100), n] for n in range(90)]}},
        [[*range(100), 89]] * 1_900,
    ),
    "many ways over many items": ({"allOf": [{"items": {}}] * 4_000}, [1] * 190_000),
    "patterns of many names": (
        {"patternProperties": {f"^p{n}": {} for n in range(300)}},
        {f"k{n}": 1 for n in range(60_000)},
    ),
    "large pattern": ({"pattern": ".{4000}!"}, "a" * 100_000),
    "fractions": ({"items": {"multipleOf": 1e-300}}, [1e300] * 100_000),
    "unevaluated items": (
        {"allOf": [{"contains": {"type": "integer"}}] * 100, "unevaluatedItems": False},
        [1] * 100_000,
    ),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", GIVEN_UP)
def test_check_ends_with_its_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    schema, value = GIVEN_UP[name]
    validator = compile_schema(schema)
    if not THOROUGH:
        fewer = {**(first_errors.__kwdefaults__ or {}), "steps": MAX_STEPS // 10}
        monkeypatch.setattr(first_errors, "__kwdefaults__", fewer)

    with pytest.raises(ArgumentsRefused, match=r"take more than 1,000,000 steps to check"):
        validator.problems(value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "schema",
    [
        nested(5_000, lambda inner: {"allOf": [inner]}, {"type": "integer"}),
        nested(24, lambda inner: {"anyOf": [inner, inner]}, {"type": "string"}),
        nested(400, lambda inner: {"if": inner, "then": inner, "else": {}}, True),
        {"oneOf": [{"const": n} for n in range(20_000)]},
        {"enum": list(range(200_000))},
        {"multipleOf": 0},
        {"properties": []},
        {"required": "a"},
        {"type": "dict"},
        [],
        None,
    ],
    ids=str.split("allOf anyOf if oneOf enum multipleOf properties required type array null"),
)
def test_hostile_schema_is_refused_at_registration(schema: Any) -> None:
    with pytest.raises(InvalidSchema):
        compile_schema(schema)


def test_largest_schema_is_compiled() -> None:
    schema = {"properties": {f"p{n}": {"type": "string"} for n in range(4_990)}}

    assert compile_schema(schema).problems({"p7": 1}) != []


def test_large_ordinary_values_are_checked() -> None:
    row = {"properties": {"id": {"type": "integer"}, "tag": {"enum": ["a", "b"]}}}
    rows = {"type": "array", "items": {"type": "object", "required": ["id"], **row}}

    assert compile_schema(rows).problems([{"id": n, "tag": "a"} for n in range(20_000)]) == []
    assert compile_schema({"items": {"type": "number"}}).problems([1.5] * 150_000) == []


# - the slow version as the oracle -

leaves = st.sampled_from([None, True, False, 0, 1, 1.0, 2.5, "", "a", "ab"])
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=6,
)
kinds = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
small = st.integers(0, 3)


def extended(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some, named = st.lists(inner, min_size=1, max_size=3), st.sampled_from("abc")
    by_name = st.dictionaries(named, inner, max_size=2)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": kinds | st.lists(kinds, min_size=1, max_size=3, unique=True),
            "enum": st.lists(values, min_size=1, max_size=3),
            "const": values,
            "multipleOf": st.sampled_from([1, 2, 0.5]),
            "minimum": small,
            "maxLength": small,
            "pattern": st.sampled_from(["a", "^b", "^$"]),
            "uniqueItems": st.booleans(),
            "prefixItems": some,
            "items": inner,
            "contains": inner,
            "minContains": small,
            "maxContains": small,
            "unevaluatedItems": inner,
            "properties": by_name,
            "patternProperties": st.dictionaries(st.sampled_from(["a", "^b"]), inner, max_size=2),
            "additionalProperties": inner,
            "propertyNames": inner,
            "unevaluatedProperties": inner,
            "required": st.lists(named, max_size=2, unique=True),
            "dependentRequired": st.dictionaries(named, st.lists(named, unique=True), max_size=1),
            "dependentSchemas": by_name,
            "allOf": some,
            "anyOf": some,
            "oneOf": some,
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "$ref": st.sampled_from(["#/$defs/x", "#/$defs/y"]),
        },
    )


schemas = st.recursive(st.booleans() | extended(st.booleans()), extended, max_leaves=8)


@given(schemas, schemas, st.lists(values, min_size=1, max_size=4))
def test_answers_are_those_of_jsonschema(schema: Any, other: Any, given_values: Any) -> None:
    definitions = {"x": {"type": ["array", "object", "integer"]}, "y": {"items": {"$ref": "#"}}}
    whole = {"$defs": definitions, "allOf": [schema, other]}
    try:
        validator = compile_schema(whole)
    except InvalidSchema:  # refers to itself, at random
        return

    for value in given_values:
        assert (validator.problems(value) == []) == Draft202012Validator(whole).is_valid(value)
