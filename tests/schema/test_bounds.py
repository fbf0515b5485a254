"""Copies of JSON end at bounds, whatever they are copies of."""

from typing import Any

import pytest

from pathors_agent.schema.bounds import (
    MAX_ARGUMENT_VALUES,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_SCHEMA_TEXT,
    MAX_SCHEMA_VALUES,
    InvalidSchema,
    OutOfBounds,
    copied_arguments,
    copied_schema,
    weight,
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_copy_is_equal_and_another() -> None:
    value = {"a": [1, 2.5, None, True, "x" * 500], "b": {"c": {}}}
    copy = copied_arguments(value)

    assert copy == value
    assert copy is not value
    assert copy["a"] is not value["a"]


def test_copy_hides_long_values() -> None:
    copy = copied_arguments({"a": ["secret"], "b": "secret" * 20})

    assert repr([copy, copy["a"], copy["b"]]) == "[{...}, [...], '...']"


def test_weight_counts_values_names_and_text() -> None:
    copy = copied_arguments({"a": [1, 2], "b": "x" * 1_000})

    assert weight(copy) == 1 + 2 + (1 + 2) + 10


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (nested(MAX_DEPTH + 1), "more than 50 levels of arrays and objects"),
        (nested(10_000), "more than 50 levels of arrays and objects"),
        ([0] * MAX_ARGUMENT_VALUES, "more than 200,000 values"),
        ([float("nan")], "a number that is not finite"),
        ({"a": float("-inf")}, "a number that is not finite"),
        (10 ** (MAX_DIGITS + 10), "a number of more than 2,000 digits"),
        ({1: 2}, "a name that is not a string: int"),
        ([{1}], "a value that is not JSON: set"),
        (b"", "a value that is not JSON: bytes"),
    ],
    ids=str.split("deep deeper many NaN infinity digits name set bytes"),
)
def test_value_out_of_bounds_is_refused(value: Any, problem: str) -> None:
    with pytest.raises(OutOfBounds) as caught:
        copied_arguments(value)

    assert str(caught.value) == problem


def test_value_on_the_bounds_is_copied() -> None:
    for value in (nested(MAX_DEPTH), [0] * (MAX_ARGUMENT_VALUES - 1), 10 ** (MAX_DIGITS - 10)):
        assert copied_arguments(value) == value


def test_schema_that_is_one_value_many_times_is_refused() -> None:
    schema: Any = {"type": "string"}
    for _ in range(20):
        schema = {"anyOf": [schema, schema]}

    with pytest.raises(InvalidSchema, match="holds more than 10,000 values"):
        copied_schema(schema)


def test_schema_that_holds_itself_is_refused() -> None:
    schema: dict[str, Any] = {"type": "object"}
    schema["not"] = schema

    with pytest.raises(InvalidSchema, match="holds more than 50 levels"):
        copied_schema(schema)


def test_schema_of_too_much_text_is_refused() -> None:
    with pytest.raises(InvalidSchema, match="holds more than 250,000 characters"):
        copied_schema({"description": "x" * MAX_SCHEMA_TEXT})
    with pytest.raises(InvalidSchema, match="holds more than 10,000 values"):
        copied_schema({"enum": [0] * MAX_SCHEMA_VALUES})
