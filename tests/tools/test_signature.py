"""A function's signature becomes a schema, and its arguments become Python values."""

import dataclasses
import enum
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union
from uuid import UUID

import pytest
from pydantic import (
    UUID4,
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    Field,
    HttpUrl,
    Json,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from pathors_agent.agents.answers import AnswerType
from pathors_agent.errors import ToolDefinitionError
from pathors_agent.messages import ToolCall, ToolMessage
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.signature import ToolContext
from pathors_agent.tools.tool import Tool, tool


class Unit(enum.Enum):
    CELSIUS = "c"
    FAHRENHEIT = "f"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


ORIGIN = Point(0)


class Person(BaseModel):
    """Someone."""

    name: str
    born: date


class Options(TypedDict):
    deep: bool


class Pair(NamedTuple):
    left: int
    right: str


class Opaque:
    """A class that pydantic cannot describe."""


def parameters_of(function: Callable[..., Any]) -> Any:
    return Tool.from_function(function).parameters


def schema_of(annotation: Any) -> Any:
    """The schema of a required parameter `x` with this annotation."""
    return parameters_of(takes(annotation))["properties"]["x"]


def takes(annotation: Any) -> Callable[..., Any]:
    def function(x: Any) -> None: ...

    function.__annotations__["x"] = annotation
    return function


def bind_to(annotation: Any, json: str) -> BoundCall | ToolMessage:
    registry = ToolRegistry([Tool.from_function(takes(annotation))])
    return registry.bind(ToolCall(id="c1", name="function", arguments=f'{{"x": {json}}}'))


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


NAMES = "model_config model_x schema json self_ copy items keys validate dict title __doc__"


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


# - the schema that is sent, and what is read -


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Mixed(enum.Enum):
    PAIR = (1, 2)
    DAY = date(2026, 1, 2)
    YES = True


class Access(enum.Flag):
    """What may be done."""

    READ = 1
    WRITE = 2


class Gaps(enum.IntFlag):
    A = 2
    B = 8


class Many(enum.IntFlag):
    A, B, C, D, E, F = 1, 2, 4, 8, 16, 32
    G, H, K, L, M = 64, 128, 256, 512, 1024


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class RedBox(BaseModel):
    color: Literal[Color.RED] = Field(Color.RED, alias="paint")


class BlueBox(BaseModel):
    color: Literal[Color.BLUE] = Field(Color.BLUE, alias="paint")


BOX = Annotated[RedBox | BlueBox, Field(discriminator="color")]


class Aliased(BaseModel):
    deep: int = Field(validation_alias=AliasPath("inside", "deep"))
    other: int = Field(3, validation_alias=AliasChoices(AliasPath("list", 0), "first", "second"))


class ByName(BaseModel, populate_by_name=True):
    sender: str = Field("Ada", alias="from")


class NameOnly(BaseModel, validate_by_name=True, validate_by_alias=False):
    sender: str = Field(alias="from")


class Batch(BaseModel):
    ids: Iterable[int]


@dataclasses.dataclass
class Numbered:
    name: str
    number: int = dataclasses.field(default=7, init=False)


@pytest.mark.parametrize(
    ("annotation", "json", "value"),
    [
        (int, "1.0", 1),
        (int, "1e2", 100),
        (int, "-0.0", 0),
        (int, "12.50e1", 125),
        (int, "1e30", 10**30),
        (Annotated[int, Field(ge=1, le=3)], "3.0", 3),
        (int | None, "2.0", 2),
        (int | str, "2.0", 2),
        (list[int], "[1, 2.0, 3e0]", [1, 2, 3]),
        (dict[str, list[int]], '{"1.0": [1.0], "e": []}', {"1.0": [1], "e": []}),
        (tuple[int, float, Any], "[1.0, 2.0, 3.0]", (1, 2.0, 3.0)),
        (int | float, "1.0", 1.0),
        (Level, "2.0", Level.HIGH),
        (Literal[1, "1"], "1.0", 1),
        (Point, '{"x": 1.0, "y": 2}', Point(1, 2.0)),
        (Literal[Color.RED], '"red"', Color.RED),
        (Literal[Color.RED, 1], '"red"', Color.RED),
        (Literal[Color.RED] | int, '"red"', Color.RED),
        (Mixed, "[1, 2]", Mixed.PAIR),
        (Mixed, '"2026-01-02"', Mixed.DAY),
        (Mixed, "true", Mixed.YES),
        (Access, "3", Access.READ | Access.WRITE),
        (Access, "0", Access(0)),
        (Gaps, "10", Gaps.A | Gaps.B),
        (Many, "1024", Many.M),
        (Iterable[int], "[1, 2]", [1, 2]),
        (Collection[int], "[1, 2]", [1, 2]),
        (Iterable, "[1, null]", [1, None]),
        (Sequence[int], "[1, 2.0]", [1, 2]),
        (list[Iterable[int]], "[[1], []]", [[1], []]),
        (Iterable[int] | None, "[1]", [1]),
        (dict[int, str], '{"-1": "a"}', {-1: "a"}),
        (dict[bool, str], '{"true": "a"}', {True: "a"}),
        (dict[Level, str], '{"2": "a"}', {Level.HIGH: "a"}),
        (Decimal | str, '"1.5"', Decimal("1.5")),
        (Aliased, '{"deep": 1, "first": 2}', Aliased.model_construct(deep=1, other=2)),
        (ByName, '{"from": "Bob"}', ByName.model_construct(sender="Bob")),
        (NameOnly, '{"sender": "Bob"}', NameOnly.model_construct(sender="Bob")),
        (BOX, '{"paint": "blue"}', BlueBox(paint=Color.BLUE)),
        (Numbered, '{"name": "a"}', Numbered("a")),
        (Batch, '{"ids": [1, 2]}', Batch.model_construct(ids=[1, 2])),
    ],
)
def test_json_that_the_schema_allows_becomes_value(annotation: Any, json: str, value: Any) -> None:
    bound = bind_to(annotation, json)

    assert isinstance(bound, BoundCall), bound.text
    assert bound.kwargs == {"x": value}
    assert repr(bound.kwargs["x"]) == repr(value)


@pytest.mark.parametrize(
    ("annotation", "json", "problem"),
    [
        (int, "1.5", "- /x: should be a valid integer, got the number 1.5"),
        (int, "1e400", "- /x: should be a valid integer, got the number Infinity"),
        (bool, "1.0", "- /x: should be a valid boolean, got the number 1.0"),
        (Annotated[int, Field(le=3)], "4.0", "- /x: should be less than or equal to 3, got the number 4"),
        (Literal[1], "true", "- /x: should be 1, got the boolean true"),
        (Literal[True, None], "1", "- /x: should be true or null, got the number 1"),
        (Literal[Color.RED], '"blue"', "- /x: should be 'red', got the string \"blue\""),
        (Access, "4", "- /x: should be a sum of 1 (READ), 2 (WRITE), got the number 4"),
        (Access, "true", "- /x: should be a sum of 1 (READ), 2 (WRITE), got the boolean true"),
        (Iterable[int], '[1, "x"]', '- /x/1: should be a valid integer, got the string "x"'),
        (Iterator[int], "[null]", "- /x/0: should be a valid integer, got null"),
        (Generator[int, None, None], '"ab"', '- /x: should be a valid array, got the string "ab"'),
        (Sequence[str], '"ab"', '- /x: should be a valid array, got the string "ab"'),
        (Batch, '{"ids": [1.5]}', "- /x/ids/0: should be a valid integer, got a number with a fraction"),
        (set[int], "[1, 1.0]", "- /x: should not contain an item twice, got the array [1,1]"),
        (dict[int, str], '{"01": "a"}', '- /x/01: should be a number written as a string, got the string "01"'),
        (dict[Level, str], '{"3": "a"}', "- /x/3: should be '1' or '2', got the string \"3\""),
        (Annotated[Cat | Dog, Field(discriminator="kind")], '{"lives": 3}', "- /x/kind: is missing"),
        (BOX, "{}", "- /x/paint: is missing"),
        (BOX, '{"paint": "green"}', "- /x: tag 'green' found using 'paint' does not match any of the expected tags: 'red', 'blue', got"),
        (Aliased, '{"inside": {"deep": 1}}', "- /x/deep: is missing"),
        (ByName | int, '"a"', '- /x: should be an object or a valid integer, got the string "a"'),
        (UUID4, '"a"', "- /x: should be a valid UUID, invalid length"),
        (Json[list[int]], '"["', "- /x: invalid JSON: EOF"),
        (HttpUrl, '"ftp://a"', "- /x: URL scheme should be 'http' or 'https'"),
    ],
)  # fmt: skip
def test_json_that_the_schema_forbids_is_explained(
    annotation: Any, json: str, problem: str
) -> None:
    message = bind_to(annotation, json)

    assert isinstance(message, ToolMessage)
    assert message.text.partition("\n")[2].startswith(problem)


def test_words_of_an_author_are_kept() -> None:
    def check(value: int) -> int:
        raise PydanticCustomError("full", "Berlin is full")

    message = bind_to(Annotated[int, AfterValidator(check)], "1")

    assert isinstance(message, ToolMessage)
    assert "- /x: Berlin is full, got the number 1" in message.text


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (Access, {"type": "integer", "minimum": 0, "maximum": 3}),
        (Gaps, {"type": "integer", "enum": [0, 2, 8, 10]}),
        (Many, {"type": "integer", "enum": [0, *(2**bit for bit in range(11))]}),
    ],
)
def test_flag_is_described_by_the_sums_of_its_members(annotation: Any, schema: Any) -> None:
    definition = parameters_of(takes(annotation))["$defs"][annotation.__name__]
    description = definition.pop("description")

    assert definition == schema
    assert all(name in description for name in annotation.__members__)


def test_description_of_a_flag_follows_that_of_its_class() -> None:
    definition = parameters_of(takes(Access))["$defs"]["Access"]

    assert definition["description"] == "What may be done. It is a sum of 1 (READ), 2 (WRITE)."


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (Iterable[int], {"type": "array", "items": {"type": "integer"}}),
        (Iterator[int], {"type": "array", "items": {"type": "integer"}}),
        (Generator[int, None, None], {"type": "array", "items": {"type": "integer"}}),
        (
            Annotated[Iterator[int], Field(min_length=1)],
            {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        ),
        (
            dict[int, str],
            {
                "type": "object",
                "patternProperties": {"^-?(0|[1-9][0-9]*)$": {"type": "string"}},
                "additionalProperties": False,
            },
        ),
        (
            dict[Level, bool],
            {
                "type": "object",
                "additionalProperties": {"type": "boolean"},
                "propertyNames": {"enum": ["1", "2"]},
            },
        ),
    ],
)
def test_schema_shows_what_is_read(annotation: Any, schema: Any) -> None:
    assert schema_of(annotation) == schema


def test_discriminator_is_required_in_all_members_of_a_union() -> None:
    union = Annotated[Cat | Dog, Field(discriminator="kind")]
    definitions = parameters_of(takes(union))["$defs"]

    assert definitions["Cat"]["required"] == ["kind"]
    assert definitions["Dog"]["required"] == ["kind"]
    assert parameters_of(takes(Cat))["$defs"]["Cat"].get("required") is None


def test_field_with_an_alias_path_has_its_own_name() -> None:
    definition = parameters_of(takes(Aliased))["$defs"]["Aliased"]

    assert list(definition["properties"]) == ["deep", "first"]


def test_field_that_no_argument_sets_is_not_shown() -> None:
    definition = parameters_of(takes(Numbered))["$defs"]["Numbered"]

    assert list(definition["properties"]) == ["name"]


def test_iterator_can_be_read_once_and_iterable_twice() -> None:
    once, twice = bind_to(Iterator[int], "[1, 2]"), bind_to(Iterable[int], "[1, 2]")

    assert isinstance(once, BoundCall)
    assert isinstance(twice, BoundCall)
    assert [next(once.kwargs["x"]), *once.kwargs["x"], *once.kwargs["x"]] == [1, 2]
    assert [*twice.kwargs["x"], *twice.kwargs["x"]] == [1, 2, 1, 2]


def test_numbers_beside_a_rewritten_one_stay_as_they_were_written() -> None:
    def pay(times: int, amount: Decimal, note: str, rest: Any) -> None: ...

    registry = ToolRegistry([Tool.from_function(pay)])
    arguments = '{"note": "1.0 \\" 2.0", "times": 2.0, "amount": "0.10", "rest": [3.0, -4e0]}'
    bound = registry.bind(ToolCall(id="c1", name="pay", arguments=arguments))

    assert isinstance(bound, BoundCall)
    assert repr(bound.kwargs) == repr(
        {"times": 2, "amount": Decimal("0.10"), "note": '1.0 " 2.0', "rest": [3.0, -4.0]}
    )


@pytest.mark.parametrize("output", [Literal[Color.RED], Access, Iterable[int], int, Aliased])
def test_answer_of_a_type_is_read_as_an_argument_is(output: Any) -> None:
    texts = {
        Access: "3.0",
        Aliased: '{"deep": 1.0, "first": 2}',
        int: "1e2",
        Iterable[int]: "[1, 2.0]",
        Literal[Color.RED]: '"red"',
    }
    answers: AnswerType[Any] = AnswerType(output, "prompt")
    is_object = output is Aliased
    text = texts[output] if is_object else f'{{"value": {texts[output]}}}'
    bound = bind_to(output, texts[output])

    assert isinstance(bound, BoundCall)
    assert answers.read(text) == bound.kwargs["x"]


# - what is refused -


def positional_only(x: int, /) -> None: ...
def star_args(*x: int) -> None: ...
def star_kwargs(**x: int) -> None: ...
def opaque(y: int, x: Opaque) -> None: ...
def nested_opaque(x: list[dict[str, Opaque]]) -> None: ...
def callback(x: Callable[[], int]) -> None: ...
def two_contexts(y: ToolContext, x: ToolContext[int]) -> None: ...
def list_of_contexts(x: list[ToolContext]) -> None: ...
def context_or_text(x: ToolContext | str) -> None: ...
def field_as_default(x: int = Field(3)) -> None: ...
def default_in_annotation(x: Annotated[int, Field(default=3)] = 4) -> None: ...
def no_type(x: 5) -> None: ...  # type: ignore[valid-type]
def no_expression(x: "int int") -> None: ...  # type: ignore[valid-type] # noqa: F722
def no_attribute(x: "enum.Missing") -> None: ...  # type: ignore[name-defined]
def a_class(x: type[int]) -> None: ...
def classes(x: list[type[Opaque]]) -> None: ...
def bad_pattern(x: Annotated[str, Field(pattern="(")]) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        positional_only,
        star_args,
        star_kwargs,
        opaque,
        nested_opaque,
        callback,
        two_contexts,
        list_of_contexts,
        context_or_text,
        field_as_default,
        default_in_annotation,
        no_type,
        no_expression,
        no_attribute,
        a_class,
        classes,
        bad_pattern,
    ],
)
def test_signature_that_no_model_can_use_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        tool(function)

    assert caught.value.tool == function.__name__
    assert caught.value.path == "parameters/properties/x"
    assert str(caught.value).startswith(f"tool {function.__name__!r}: parameters/properties/x ")
    assert not hasattr(function, "__tool__")


def test_refusal_says_what_to_do() -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        tool(star_args)

    assert str(caught.value) == (
        "tool 'star_args': parameters/properties/x is *args, arguments come by name"
    )


@pytest.mark.parametrize(
    "name", ["", "get weather", "a.b", "größe", "a" * 65, "a\n", "<lambda>", "x/y"]
)
def test_name_that_providers_refuse_is_refused(name: str) -> None:
    with pytest.raises(ToolDefinitionError, match="1 to 64 of the characters") as caught:
        tool(name=name)(callable_function)

    assert caught.value.path == "name"


def callable_function(x: int) -> int:
    return x


@pytest.mark.parametrize(
    "item",
    [Opaque, staticmethod(callable_function), "text", 5],
)
def test_only_functions_become_tools(item: Any) -> None:
    with pytest.raises(ToolDefinitionError, match="is no function"):
        Tool.from_function(item, name="item")


# - descriptions -


def google(city: str, days: int, tags: list[str]) -> str:  # type: ignore[empty-body]
    """Get the weather of a city.

    Knows tomorrow, too.

    Args:
        city: Name of the city,
            in English.
        days (int): How many days.

    Returns:
        A sentence.
    """


def numpy(city: str, days: int, tags: list[str]) -> str:  # type: ignore[empty-body]
    """Get the weather of a city.

    Knows tomorrow, too.

    Parameters
    ----------
    city : str
        Name of the city,
        in English.
    days : int
        How many days.

    Returns
    -------
    str
        A sentence.
    """


def sphinx(city: str, days: int, tags: list[str]) -> str:  # type: ignore[empty-body]
    """Get the weather of a city.

    Knows tomorrow, too.

    :param city: Name of the city,
        in English.
    :param int days: How many days.
    :returns: A sentence.
    """


@pytest.mark.parametrize("function", [google, numpy, sphinx])
def test_docstring_describes_tool_and_parameters(function: Callable[..., Any]) -> None:
    made = Tool.from_function(function)

    assert made.description == "Get the weather of a city.\n\nKnows tomorrow, too."
    assert made.parameters["properties"] == {
        "city": {"type": "string", "description": "Name of the city,\nin English."},
        "days": {"type": "integer", "description": "How many days."},
        "tags": {"type": "array", "items": {"type": "string"}},
    }


def test_numpy_docstring_describes_two_parameters_at_once() -> None:
    def distance(x: float, y: float) -> None:
        """Measure.

        Parameters
        ----------
        x, y : float
            A coordinate.
        """

    described = {n: p["description"] for n, p in parameters_of(distance)["properties"].items()}
    assert described == {"x": "A coordinate.", "y": "A coordinate."}


def test_field_description_goes_before_docstring() -> None:
    def search(query: Annotated[str, Field(description="Words.")], page: int = 1) -> None:
        """Search.

        Args:
            query: From the docstring.
            page: Which page.
        """

    assert parameters_of(search)["properties"] == {
        "query": {"type": "string", "description": "Words."},
        "page": {"type": "integer", "description": "Which page.", "default": 1},
    }


def test_plain_docstring_is_the_description() -> None:
    def one_line() -> None:
        """Do: it."""

    def two_lines() -> None:
        """Do it
        at once: now.
        """

    def none() -> None: ...

    assert Tool.from_function(one_line).description == "Do: it."
    assert Tool.from_function(two_lines).description == "Do it\nat once: now."
    assert Tool.from_function(none).description == ""


def test_given_description_replaces_the_docstring() -> None:
    assert Tool.from_function(google, description="Short.").description == "Short."
