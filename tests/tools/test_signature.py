"""A function's signature becomes a schema, and its arguments become Python values."""

import enum
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union
from uuid import UUID

import pytest
from pydantic import AfterValidator, Base64Str, BaseModel, BeforeValidator, Field
from typing_extensions import Doc, TypedDict  # pydantic wants this one before Python 3.12

from pathors_agent.messages import ToolCall, ToolMessage
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.tool import Tool
from signed_functions import Level, Opaque, Point, bind_to, parameters_of, schema_of, takes


class Unit(enum.Enum):
    CELSIUS = "c"
    FAHRENHEIT = "f"


ORIGIN = Point(0)
UNSET: Any = None


class Person(BaseModel):
    """Someone."""

    name: str
    born: date


class Options(TypedDict):
    deep: bool


class Pair(NamedTuple):
    left: int
    right: str


POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": "number", "default": 0.0}},
    "required": ["x"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (None, {"type": "null"}),
        (Any, {}),
        (object, {}),
        (Literal["a", 1, None], {"enum": ["a", 1, None]}),
        (Optional[int], {"anyOf": [{"type": "integer"}, {"type": "null"}]}),  # noqa: UP045
        (Union[int, str], {"anyOf": [{"type": "integer"}, {"type": "string"}]}),  # noqa: UP007
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Annotated[int, Field(ge=1, le=7)], {"type": "integer", "minimum": 1, "maximum": 7}),
        (Annotated[str, Field(title="City")], {"type": "string", "title": "City"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (set[int], {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (dict[str, bool], {"type": "object", "additionalProperties": {"type": "boolean"}}),
        (datetime, {"type": "string", "format": "date-time"}),
        (date, {"type": "string", "format": "date"}),
        (time, {"type": "string", "format": "time"}),
        (timedelta, {"type": "string", "format": "duration"}),
        (UUID, {"type": "string", "format": "uuid"}),
    ],
)
def test_annotation_becomes_schema(annotation: Any, schema: Any) -> None:
    assert schema_of(annotation) == schema


@pytest.mark.parametrize(
    ("annotation", "name", "definition"),
    [
        (Unit, "Unit", {"type": "string", "enum": ["c", "f"]}),
        (Level, "Level", {"type": "integer", "enum": [1, 2]}),
        (Point, "Point", POINT),
        (
            Person,
            "Person",
            {
                "type": "object",
                "description": "Someone.",
                "properties": {
                    "name": {"type": "string"},
                    "born": {"type": "string", "format": "date"},
                },
                "required": ["name", "born"],
            },
        ),
        (
            Options,
            "Options",
            {
                "type": "object",
                "properties": {"deep": {"type": "boolean"}},
                "required": ["deep"],
                "additionalProperties": False,
            },
        ),
    ],
)
def test_class_becomes_definition_without_title(
    annotation: Any, name: str, definition: Any
) -> None:
    assert parameters_of(takes(annotation)) == {
        "type": "object",
        "properties": {"x": {"$ref": f"#/$defs/{name}"}},
        "required": ["x"],
        "additionalProperties": False,
        "$defs": {name: definition},
    }


def test_whole_schema_is_plain() -> None:
    def get_weather(city: str, unit: Unit = Unit.CELSIUS, days: int = 3) -> str: ...  # type: ignore[empty-body]

    assert parameters_of(get_weather) == {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"$ref": "#/$defs/Unit", "default": "c"},
            "days": {"type": "integer", "default": 3},
        },
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"Unit": {"type": "string", "enum": ["c", "f"]}},
    }


def test_function_without_parameters_has_empty_schema() -> None:
    def now() -> str: ...  # type: ignore[empty-body]

    assert parameters_of(now) == {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }


def test_property_called_title_is_kept() -> None:
    def search(title: str, name: Point) -> None: ...

    assert list(parameters_of(search)["properties"]) == ["title", "name"]


def test_parameter_without_annotation_accepts_any_json() -> None:
    def remember(value) -> None: ...  # type: ignore[no-untyped-def]

    assert parameters_of(remember)["properties"] == {"value": {}}
    assert parameters_of(remember)["required"] == ["value"]


@pytest.mark.parametrize("default", [float("nan"), float("inf"), Opaque(), Opaque])
def test_default_that_json_cannot_show_is_left_out(default: Any) -> None:
    def function(x: Any = default) -> None: ...

    assert parameters_of(function)["properties"] == {"x": {}}
    assert parameters_of(function)["required"] == []


def test_default_of_rich_type_is_shown_as_json() -> None:
    def function(
        when: date = date(2026, 1, 2), where: Point = ORIGIN, limit: Decimal | None = None
    ) -> None: ...

    shown = {name: p["default"] for name, p in parameters_of(function)["properties"].items()}
    assert shown == {"when": "2026-01-02", "where": {"x": 0, "y": 0.0}, "limit": None}


@pytest.mark.parametrize(
    ("annotation", "json", "value"),
    [
        (str, '"a"', "a"),
        (int, "5", 5),
        (int, "100000000000000000000000", 100000000000000000000000),
        (float, "5", 5.0),
        (float, "1.5", 1.5),
        (bool, "true", True),
        (None, "null", None),
        (Any, '[1, {"a": null}]', [1, {"a": None}]),
        (Any, '"NaN and Infinity"', "NaN and Infinity"),
        (Literal["a", 1], "1", 1),
        (Unit, '"f"', Unit.FAHRENHEIT),
        (Level, "2", Level.HIGH),
        (int | None, "null", None),
        (int | str, '"5"', "5"),
        (int | str, "5", 5),
        (list[int], "[1, 2]", [1, 2]),
        (set[int], "[1, 2]", {1, 2}),
        (frozenset[str], '["a"]', frozenset("a")),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (dict[int, str], '{"1": "a"}', {1: "a"}),
        (Point, '{"x": 1}', Point(1, 0.0)),
        (Options, '{"deep": true}', {"deep": True}),
        (Pair, '{"left": 1, "right": "b"}', Pair(1, "b")),
        (
            Person,
            '{"name": "Ada", "born": "1815-12-10"}',
            Person(name="Ada", born=date(1815, 12, 10)),
        ),
        (datetime, '"2026-01-02T03:04:05Z"', datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (date, '"2026-01-02"', date(2026, 1, 2)),
        (time, '"10:30"', time(10, 30)),
        (timedelta, '"PT90S"', timedelta(seconds=90)),
        (Decimal, '"1.10"', Decimal("1.10")),
        (Decimal, "1.5", Decimal("1.5")),
        (
            UUID,
            '"12345678-1234-5678-1234-567812345678"',
            UUID("12345678-1234-5678-1234-567812345678"),
        ),
        (bytes, '"é"', "é".encode()),
        (Annotated[int, Field(strict=False)], '"5"', 5),
        (
            Annotated[date, Field(strict=False), BeforeValidator(str.strip)],
            '" 2026-01-02 "',
            date(2026, 1, 2),
        ),
    ],
)
def test_json_becomes_value(annotation: Any, json: str, value: Any) -> None:
    bound = bind_to(annotation, json)

    assert isinstance(bound, BoundCall)
    assert bound.kwargs == {"x": value}
    assert type(bound.kwargs["x"]) is type(value)


@pytest.mark.parametrize(
    ("annotation", "json", "problem"),
    [
        (str, "5", "- /x: should be a valid string, got the number 5"),
        (int, '"5"', '- /x: should be a valid integer, got the string "5"'),
        (int, "5.5", "- /x: should be a valid integer, got the number 5.5"),
        (int, "true", "- /x: should be a valid integer, got the boolean true"),
        (float, '"5"', '- /x: should be a valid number, got the string "5"'),
        (float, "1e999", "- /x: should be a finite number, got the number Infinity"),
        (bool, '"yes"', '- /x: should be a valid boolean, got the string "yes"'),
        (bool, "1", "- /x: should be a valid boolean, got the number 1"),
        (None, '"a"', '- /x: should be null, got the string "a"'),
        (Unit, '"k"', "- /x: should be 'c' or 'f', got the string \"k\""),
        (Literal["a", 1], '"b"', "- /x: should be 'a' or 1, got the string \"b\""),
        (
            int | list[int] | None,
            '"a"',
            '- /x: should be a valid integer or a valid array, got the string "a"',
        ),
        (list[int], '[1, "2"]', '- /x/1: should be a valid integer, got the string "2"'),
        (list[int], "5", "- /x: should be a valid array, got the number 5"),
        (dict[str, int], '{"a/b~": null}', "- /x/a~1b~0: should be a valid integer, got null"),
        (Point, '{"x": "1"}', '- /x/x: should be a valid integer, got the string "1"'),
        (Point, '{"x": 1, "z": 1}', "- /x/z: is unknown"),
        (Point, "5", "- /x: should be an object, got the number 5"),
        (Person | None, '{"name": "Ada"}', "- /x/born: is missing"),
        (list[Options], '[{"deep": true}, {}]', "- /x/1/deep: is missing"),
        (
            Annotated[int, Field(ge=1)],
            "0",
            "- /x: should be greater than or equal to 1, got the number 0",
        ),
        (
            Annotated[str, Field(min_length=2)],
            '"a"',
            '- /x: string should have at least 2 characters, got the string "a"',
        ),
    ],
)
def test_wrong_value_is_explained(annotation: Any, json: str, problem: str) -> None:
    message = bind_to(annotation, json)

    assert isinstance(message, ToolMessage)
    assert message.is_error
    assert message.text == f"The arguments of function do not fit its parameters:\n{problem}"


@pytest.mark.parametrize("json", ['"2026-13-01"', "5", '"soon"'])
@pytest.mark.parametrize("annotation", [datetime, date, time, UUID])
def test_text_of_other_format_is_refused(annotation: Any, json: str) -> None:
    assert isinstance(bind_to(annotation, json), ToolMessage)


@pytest.mark.parametrize("json", ["NaN", "Infinity", "-Infinity", '{"a": NaN}'])
@pytest.mark.parametrize("annotation", [Any, float, dict[str, float]])
def test_numbers_that_json_does_not_have_are_refused(annotation: Any, json: str) -> None:
    message = bind_to(annotation, json)

    assert isinstance(message, ToolMessage)
    assert message.text.startswith("The arguments of function are not JSON: ")


def test_pydantic_model_keeps_its_own_rules() -> None:
    class Lax(BaseModel):
        count: int

    bound = bind_to(Lax, '{"count": "5"}')

    assert isinstance(bound, BoundCall)
    assert bound.kwargs == {"x": Lax(count=5)}


NAMES = "self cls context callable model_config model_x schema json self_ copy items keys validate dict title __doc__"


@pytest.mark.parametrize("name", NAMES.split())
def test_any_parameter_name_works(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def function({name}: int) -> int: return {name}", namespace)
    registry = ToolRegistry([Tool.from_function(namespace["function"])])

    bound = registry.bind(ToolCall(id="c1", name="function", arguments=f'{{"{name}": 7}}'))

    assert isinstance(bound, BoundCall)
    assert bound.function(**bound.kwargs) == 7


def test_alias_is_the_name_that_the_model_sees() -> None:
    def fetch(sender: Annotated[str, Field(alias="from")]) -> None: ...

    registry = ToolRegistry([Tool.from_function(fetch)])
    bound = registry.bind(ToolCall(id="c1", name="fetch", arguments='{"from": "Ada"}'))

    assert parameters_of(fetch)["properties"] == {"from": {"type": "string"}}
    assert isinstance(bound, BoundCall)
    assert bound.kwargs == {"sender": "Ada"}


def test_annotated_text_describes_the_parameter() -> None:
    def look(
        city: Annotated[str, "The city."],
        day: Annotated[str, Doc("The day.")] = "today",
        hour: Annotated[int, Field(description="The hour."), "a note"] = 12,
        unit: Annotated[str, Field(description="The unit."), AfterValidator(str.upper)] = UNSET,
    ) -> str:
        return city

    tool = Tool.from_function(look)

    assert [p["description"] for p in tool.sent_parameters["properties"].values()] == [
        *("The city.", "The day.", "The hour.", "The unit.")
    ]


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (int, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Annotated[int, Field(gt=2)], {"anyOf": [{"exclusiveMinimum": 2, "type": "integer"}, {"type": "null"}]}),
        (str | None, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        (Annotated[str, AfterValidator(str.upper)], {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        (Annotated[int, BeforeValidator(abs)], {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Base64Str, {"anyOf": [{"type": "string", "format": "base64"}, {"type": "null"}]}),
        (Any, {}),
    ],
)  # fmt: skip
def test_default_of_none_may_be_sent(annotation: Any, schema: dict[str, Any]) -> None:
    def look(city=None):  # type: ignore[no-untyped-def]  # the annotation follows
        return city

    look.__annotations__["city"] = annotation
    tool = Tool.from_function(look)

    assert tool.sent_parameters["properties"]["city"] == {**schema, "default": None}
    call = ToolCall(id="c1", name="look", arguments='{"city": null}')
    bound = ToolRegistry([tool]).bind(call)
    assert isinstance(bound, BoundCall)
    assert bound.kwargs == {"city": None}
