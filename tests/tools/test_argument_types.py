"""The schema of each type, and the values that it reads."""

import dataclasses
import enum
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import (
    UUID4,
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    Discriminator,
    Field,
    HttpUrl,
    Json,
    Tag,
)
from pydantic_core import PydanticCustomError

from pathors_agent.agents.answers import AnswerType
from pathors_agent.messages import ToolCall, ToolMessage
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.tool import Tool
from signed_functions import Level, Point, bind_to, parameters_of, schema_of, takes

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


class Pair(NamedTuple):
    left: int
    right: int


def _kind(value: Any) -> Any:
    return value.get("kind")


PETS = Annotated[Annotated[Cat, Tag("cat")] | Annotated[Dog, Tag("dog")], Discriminator(_kind)]
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
        (PETS, '{"lives": 3}', '- /x: is none of the alternatives, got the object {"lives":3}'),
        (Pair, "[1, 2, 3]", "- /x: NamedTuple should have at most 2 items"),
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
def test_schema_describes_the_accepted_values(annotation: Any, schema: Any) -> None:
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


def test_numbers_next_to_a_rewritten_one_keep_their_text() -> None:
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
