"""Raw JSON Schemas are checked when they are registered, and check what models send."""

import inspect
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pathors_agent.errors import ToolDefinitionError
from pathors_agent.messages import ToolCall, ToolMessage
from pathors_agent.schema.arguments import ArgumentProblem, ArgumentsRefused, report
from pathors_agent.schema.compiled import InvalidSchema, compile_schema
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.tool import Tool

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 2},
        "days": {"type": ["integer", "null"], "minimum": 1, "maximum": 7},
        "unit": {"enum": ["c", "f"]},
        "place": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]},
        "when": {"anyOf": [{"type": "integer"}, {"type": "array"}]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2, "uniqueItems": True},
        "code": {"pattern": "^[a-z]+$"},
        "mode": {"const": "now"},
    },
    "required": ["city"],
    "additionalProperties": False,
}


def problems(**changes: Any) -> list[ArgumentProblem]:
    return compile_schema(WEATHER).problems({"city": "Bonn"} | changes)


def test_value_that_fits_has_no_problems() -> None:
    assert problems() == []
    assert problems(days=None, unit="f", place={"lat": 1, "other": 2}, when=[], tags=["a"]) == []
    assert problems(days=5.0) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"city": 5}, ArgumentProblem("/city", "should be a string", "the number 5")),
        (
            {"city": "B"},
            ArgumentProblem("/city", "should have at least 2 characters", 'the string "B"'),
        ),
        ({"days": "x"}, ArgumentProblem("/days", "should be an integer or null", 'the string "x"')),
        ({"days": 0}, ArgumentProblem("/days", "should be at least 1", "the number 0")),
        ({"days": 8}, ArgumentProblem("/days", "should be at most 7", "the number 8")),
        ({"unit": "k"}, ArgumentProblem("/unit", 'should be "c" or "f"', 'the string "k"')),
        ({"place": {}}, ArgumentProblem("/place/lat", "is missing, should be a number")),
        ({"tags": [1]}, ArgumentProblem("/tags/0", "should be a string", "the number 1")),
        (
            {"tags": ["a", "b", "c"]},
            ArgumentProblem("/tags", "should have at most 2 items", 'the array ["a","b","c"]'),
        ),
        (
            {"tags": ["a", "a"]},
            ArgumentProblem("/tags", "does not satisfy uniqueItems: true", 'the array ["a","a"]'),
        ),
        (
            {"code": "A1"},
            ArgumentProblem("/code", 'should match the pattern "^[a-z]+$"', 'the string "A1"'),
        ),
        ({"mode": "later"}, ArgumentProblem("/mode", 'should be "now"', 'the string "later"')),
        ({"dayz": 1}, ArgumentProblem("/dayz", 'is unknown, did you mean "days"?')),
    ],
)
def test_wrong_value_has_a_problem(changes: dict[str, Any], problem: ArgumentProblem) -> None:
    assert problems(**changes) == [problem]


def test_problems_of_a_union_name_what_each_member_expects() -> None:
    assert problems(when="soon") == [
        ArgumentProblem("/when", "should be an integer", 'the string "soon"'),
        ArgumentProblem("/when", "should be an array", 'the string "soon"'),
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
        ({"type": "object", "$schema": "http://localhost:1/unknown"}, "parameters/$schema"),
        ({"type": "object", "not": {"pattern": "(?=a)"}}, "parameters/not/pattern"),
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
        {"type": "object", "properties": {"$ref": {"type": "string"}}},
        {"type": "object", "const": {"$ref": "#/no"}},
        {"type": "object", "$schema": "https://json-schema.org/draft/2020-12/schema"},
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


def test_endless_reference_is_refused_at_registration() -> None:
    with pytest.raises(ToolDefinitionError, match="parameters refers to itself endlessly"):
        ToolRegistry([Tool(name="loop", parameters={"type": "object", "$ref": "#"})])


def test_endless_work_is_an_error_message() -> None:
    schema = {"type": "object", "additionalProperties": {"items": {"enum": list(range(5_000))}}}
    arguments = json.dumps({"x": [4_999] * 5_000})
    tool = Tool(name="slow", parameters=schema, function=dict)
    message = ToolRegistry([tool]).bind(ToolCall(id="c1", name="slow", arguments=arguments))

    assert isinstance(message, ToolMessage)
    assert message.text == (
        "The arguments of slow take more than 1,000,000 steps to check; send less."
    )


def test_deep_arguments_are_an_error_message() -> None:
    tool = Tool(name="any", function=dict)

    def text(depth: int) -> str:
        message = ToolRegistry([tool]).bind(
            ToolCall(id="c1", name="any", arguments='{"x":' + "[" * depth + "]" * depth + "}")
        )
        return message.text if isinstance(message, ToolMessage) else "bound"

    assert text(49) == "bound"
    assert text(50) == (
        "The arguments of any hold more than 50 levels of arrays and objects; send less."
    )
    assert text(10_000) == (
        "The arguments of any are nested too deeply; send fewer levels of arrays and objects."
    )


def test_validator_works_deep_in_the_stack() -> None:
    validator = compile_schema(TREE)

    def below(frames: int) -> Any:
        return below(frames - 1) if frames else validator.problems({"left": {"left": {}}})

    left = sys.getrecursionlimit() - len(inspect.stack())
    refusals = 0
    for margin in range(200, 0, -1):
        try:
            assert below(left - margin) == []
        except ArgumentsRefused:
            refusals += 1
        except RecursionError:  # no frame is left to say so, or for this test
            break
    assert refusals


def test_same_schema_is_compiled_once() -> None:
    assert compile_schema(WEATHER) is compile_schema(json.loads(json.dumps(WEATHER)))
    assert compile_schema(WEATHER) is not compile_schema(WEATHER | {"title": "x"})


def test_large_schema_is_not_kept() -> None:
    schema = {"properties": {f"p{n}": {"type": "string"} for n in range(500)}}

    assert compile_schema(schema) is not compile_schema(schema)


def test_validator_is_shared_by_threads() -> None:
    validator = compile_schema(
        {"type": "array", "items": {"anyOf": [{"type": "string"}, {"$ref": "#"}]}}
    )
    values: list[Any] = [[["x"] * n, n] for n in range(200)]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(validator.problems, values))

    assert [problem.pointer for problems in found for problem in problems] == ["/1"] * 400


# - examples and alternatives -

TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"left": {"$ref": "#/$defs/node"}, "size": {"type": "integer"}},
        }
    },
}
EXPRESSION: dict[str, Any] = {
    "$ref": "#/$defs/e",
    "$defs": {
        "e": {
            "oneOf": [{"type": "number"}]
            + [
                {
                    "type": "object",
                    "properties": {
                        "left": {"$ref": "#/$defs/e"},
                        "right": {"$ref": "#/$defs/e"},
                        "op": {"const": op},
                    },
                    "required": ["op", "left", "right"],
                }
                for op in ("add", "sub", "mul")
            ]
        }
    },
}


def words(schema: Any, value: Any) -> list[str]:
    return report(compile_schema(schema).problems(value)).splitlines()[1:]


@pytest.mark.parametrize(
    ("schema", "value", "line"),
    [
        (
            {"properties": {"a": {"$ref": "#/$defs/p"}}, "required": ["a"]}
            | {"$defs": {"p": {"properties": {"lat": {"type": "number"}}, "required": ["lat"]}}},
            {},
            '- /a: is missing; for example {"lat": 0}',
        ),
        (
            {"type": "array", "minItems": 2, "items": {"type": "integer", "minimum": 3}},
            [5],
            "- all: should have at least 2 items, got the array [5]; for example [3, 3]",
        ),
        (
            {"type": "object", "examples": [{"x": 1}], "maxProperties": 1},
            None,
            '- all: should be an object, got null; for example {"x": 1}',
        ),
        (
            {"pattern": "^[A-Z]{3}$", "examples": ["EUR"]},
            "eur",
            '- all: should match the pattern "^[A-Z]{3}$", got the string "eur"; for example "EUR"',
        ),
        (
            {"pattern": "^[A-Z]{3}$", "examples": ["eur"]},  # the example is wrong, too
            "eur",
            '- all: should match the pattern "^[A-Z]{3}$", got the string "eur"',
        ),
        (
            {"required": ["u"], "properties": {"u": {"enum": ["c", "f"]}}},
            {},
            '- /u: is missing, should be "c" or "f"',
        ),
        ({"properties": {"a": False}}, {"a": 1}, "- /a: is not allowed, got the number 1"),
        ({"unevaluatedProperties": False}, {"a": 1}, "- /a: is unknown"),
        ({"prefixItems": [{}], "items": False}, [1, 2], "- /1: is not allowed, got the number 2"),
        (
            {"oneOf": [{}, True]},
            1,
            "- all: should fit exactly one of 2 alternatives, got the number 1",
        ),
        ({"multipleOf": 0.01}, 1.005, "- all: should be a multiple of 0.01, got the number 1.005"),
        (
            {"enum": [f"v{n}" for n in range(100)]},
            "x",
            "- all: should be "
            + " or ".join(f'"v{n}"' for n in range(22))
            + ' or "…, got the string "x"',
        ),
    ],
)
def test_problem_lists_the_allowed_values(schema: Any, value: Any, line: str) -> None:
    assert words(schema, value) == [line]


def test_alternative_is_chosen_by_its_constant() -> None:
    inner = {"op": "add", "left": 1, "right": "x"}

    assert words(EXPRESSION, {"op": "mul", "left": inner, "right": 2}) == [
        '- /left/right: should be a number or an object, got the string "x"; '
        'for example {"op": "add", "left": 0, "right": 0}'
    ]


def test_unknown_alternative_is_answered_with_the_known_ones() -> None:
    assert words(EXPRESSION, {"op": "pow", "left": 1, "right": 2}) == [
        '- all: should be a number, got the object {"op":"pow","left":1,"right":2}',
        '- /op: should be "add" or "sub" or "mul", got the string "pow"',
    ]


def test_ten_problems_are_listed_and_the_others_counted() -> None:
    lines = words({"items": {"type": "string"}}, list(range(1_000)))

    assert len(lines) == 11
    assert lines[9:] == ["- /9: should be a string, got the number 9", "- and 40 more problems"]
