"""Raw JSON Schemas are checked when they are registered, and check what models send."""

import json
import socket
from typing import Any

import pytest

from pathors_agent.arguments import Problem
from pathors_agent.errors import ToolDefinitionError
from pathors_agent.messages import ToolCall, ToolMessage
from pathors_agent.schema import InvalidSchema, compile_schema
from pathors_agent.tools import BoundCall, Tool, ToolRegistry

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 2},
        "days": {"type": ["integer", "null"], "minimum": 1, "maximum": 7},
        "unit": {"enum": ["c", "f"]},
        "place": {
            "type": "object",
            "properties": {"lat": {"type": "number"}},
            "required": ["lat"],
        },
        "when": {"anyOf": [{"type": "integer"}, {"type": "array"}]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2, "uniqueItems": True},
        "code": {"pattern": "^[a-z]+$"},
        "mode": {"const": "now"},
    },
    "required": ["city"],
    "additionalProperties": False,
}


def problems(**changes: Any) -> list[Problem]:
    return compile_schema(WEATHER).problems({"city": "Bonn"} | changes)


def test_value_that_fits_has_no_problems() -> None:
    assert problems() == []
    assert problems(days=None, unit="f", place={"lat": 1, "other": 2}, when=[], tags=["a"]) == []
    assert problems(days=5.0) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"city": 5}, Problem("/city", "should be a string", "the number 5")),
        (
            {"city": "B"},
            Problem("/city", "should have at least 2 characters", 'the string "B"'),
        ),
        ({"days": "x"}, Problem("/days", "should be an integer or null", 'the string "x"')),
        ({"days": 0}, Problem("/days", "should be at least 1", "the number 0")),
        ({"days": 8}, Problem("/days", "should be at most 7", "the number 8")),
        ({"unit": "k"}, Problem("/unit", 'should be "c" or "f"', 'the string "k"')),
        ({"place": {}}, Problem("/place/lat", "is missing, should be a number")),
        ({"tags": [1]}, Problem("/tags/0", "should be a string", "the number 1")),
        (
            {"tags": ["a", "b", "c"]},
            Problem("/tags", "should have at most 2 items", 'the array ["a","b","c"]'),
        ),
        (
            {"tags": ["a", "a"]},
            Problem("/tags", "does not satisfy uniqueItems: true", 'the array ["a","a"]'),
        ),
        (
            {"code": "A1"},
            Problem("/code", 'should match the pattern "^[a-z]+$"', 'the string "A1"'),
        ),
        ({"mode": "later"}, Problem("/mode", 'should be "now"', 'the string "later"')),
        ({"dayz": 1}, Problem("/dayz", 'is unknown, did you mean "days"?')),
    ],
)
def test_wrong_value_has_a_problem(changes: dict[str, Any], problem: Problem) -> None:
    assert problems(**changes) == [problem]


def test_every_member_of_a_union_says_what_it_wants() -> None:
    assert problems(when="soon") == [
        Problem("/when", "should be an integer", 'the string "soon"'),
        Problem("/when", "should be an array", 'the string "soon"'),
    ]


def test_arguments_of_raw_tool_become_keywords() -> None:
    def get_weather(**arguments: Any) -> Any:
        return arguments

    registry = ToolRegistry([Tool(name="w", parameters=WEATHER, function=get_weather)])
    bound = registry.bind(ToolCall(id="c1", name="w", arguments='{"city": "Bonn", "days": 2}'))

    assert isinstance(bound, BoundCall)
    assert bound.function(**bound.kwargs) == {"city": "Bonn", "days": 2}


def test_problems_of_raw_tool_are_written_one_a_line() -> None:
    registry = ToolRegistry([Tool(name="w", parameters=WEATHER, function=dict)])
    arguments = '{"city": 5, "when": "soon", "zzz": 1}'
    message = registry.bind(ToolCall(id="c1", name="w", arguments=arguments))

    assert isinstance(message, ToolMessage)
    assert message.text == (
        "The arguments of w do not fit its parameters:\n"
        "- /city: should be a string, got the number 5\n"
        '- /when: should be an integer or an array, got the string "soon"\n'
        "- /zzz: is unknown, known are: city, days, unit, place, when, tags, code, mode"
    )


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({}, "parameters/type"),
        ([], "parameters/type"),
        ({"type": "string"}, "parameters/type"),
        ({"type": ["object"]}, "parameters/type"),
        (
            {"type": "object", "properties": {"city": {"type": "strin"}}},
            "parameters/properties/city/type",
        ),
        ({"type": "object", "required": "city"}, "parameters/required"),
        (
            {"type": "object", "properties": {"a": {"pattern": "("}}},
            "parameters/properties/a/pattern",
        ),
        ({"type": "object", "properties": {"a": {1, 2}}}, "parameters"),
        ({"type": "object", "default": float("nan")}, "parameters"),
        (
            {"type": "object", "properties": {"a": {"$ref": "http://localhost:1/schema"}}},
            "parameters/properties/a/$ref",
        ),
        (
            {"type": "object", "properties": {"a": {"items": {"$ref": "#/$defs/no"}}}},
            "parameters/properties/a/items/$ref",
        ),
        (
            {"type": "object", "allOf": [{}, {"$dynamicRef": "#no"}]},
            "parameters/allOf/1/$dynamicRef",
        ),
        (
            {"type": "object", "$id": "http://localhost:1/a", "not": {"$ref": "b"}},
            "parameters/not/$ref",
        ),
    ],
)
def test_definition_that_is_no_schema_is_refused(parameters: Any, path: str) -> None:
    raw = Tool(name="raw", parameters=parameters)

    with pytest.raises(ToolDefinitionError) as caught:
        ToolRegistry([raw])

    assert (caught.value.tool, caught.value.path) == ("raw", path)
    assert str(caught.value).startswith(f"tool 'raw': {path} ")


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {}}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"type": "object", "properties": {"a": {"$ref": "#b"}}, "$defs": {"b": {"$anchor": "b"}}},
        {
            "type": "object",
            "$id": "http://localhost:1/a",
            "properties": {"a": {"$ref": "b"}, "b": {"$id": "b"}},
        },
        {
            "type": "object",
            "properties": {"a": {"$ref": "https://json-schema.org/draft/2020-12/schema"}},
        },
        {"type": "object", "properties": {"$ref": {"type": "string"}}},
        {"type": "object", "const": {"$ref": "#/no"}},
        {"type": "object", "$schema": "http://localhost:1/unknown"},
        {"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"},
    ],
)
def test_references_inside_a_schema_are_followed(parameters: Any) -> None:
    assert len(ToolRegistry([Tool(name="raw", parameters=parameters)])) == 1


def test_nothing_is_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema"
        with pytest.raises(InvalidSchema):
            compile_schema({"type": "object", "properties": {"a": {"$ref": url}}})
        with pytest.raises(BlockingIOError):
            server.accept()


def test_schema_is_copied_when_it_is_compiled() -> None:
    schema: dict[str, Any] = json.loads(json.dumps(WEATHER))
    validator = compile_schema(schema)
    schema["properties"]["city"]["type"] = "integer"

    assert validator.problems({"city": "Bonn"}) == []


def test_schema_that_holds_itself_is_refused() -> None:
    schema: dict[str, Any] = {"type": "object"}
    schema["not"] = schema

    with pytest.raises(InvalidSchema, match="not JSON"):
        compile_schema(schema)


def test_endless_reference_is_an_error_message() -> None:
    looped = Tool(name="loop", parameters={"type": "object", "$ref": "#"}, function=dict)
    message = ToolRegistry([looped]).bind(ToolCall(id="c1", name="loop"))

    assert isinstance(message, ToolMessage)
    assert message.text == "The arguments of loop could not be checked (RecursionError)."
