"""Tools that follow the rules pass, and each broken rule is named with the arguments."""

import asyncio
import datetime
import decimal
import enum
import json
import threading
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator

from effort import examples
from pathors_agent import Tool, ToolContext, ToolError, tool
from pathors_agent.schema.arguments import ArgumentsRefused
from pathors_agent.testing import check_tool, tool_arguments
from pathors_agent.testing.arguments import CannotDraw, SeededDraws, schema_value
from pathors_agent.tools.registry import ToolRegistry


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    """A place."""

    name: str = Field(min_length=2, max_length=5)
    tags: list[str] = Field(default=[], max_length=2)
    inner: "Place | None" = None


@dataclass
class Size:
    """A size."""

    width: int
    unit: Literal["cm", "inch"] = "cm"


@tool
def many(
    count: Annotated[int, Field(ge=3, lt=9)],
    color: Color,
    day: datetime.date,
    moment: datetime.datetime,
    place: Place,
    sizes: list[Size],
    key: uuid.UUID | None = None,
    price: decimal.Decimal | None = None,
    ratio: Annotated[float, Field(gt=0, le=1)] = 1,
    words: dict[str, int] | None = None,
    step: Annotated[int, Field(multiple_of=5)] = 5,
) -> str:
    """Take parameters of many types.

    Args:
        count: How many.
        color: Which color.
        day: When.
        moment: When exactly.
        place: Where.
        sizes: How large.
        key: Which.
        price: For how much.
        ratio: What part.
        words: Counts of words.
        step: By how much.
    """
    assert 3 <= count < 9
    assert 0 < ratio <= 1
    assert step % 5 == 0
    assert isinstance(day, datetime.date)
    assert all(isinstance(size, Size) for size in sizes)
    return place.name


@tool
def refuses(city: str) -> str:
    """Know no city.

    Args:
        city: Its name.
    """
    raise ToolError("no such city")


@tool
async def slowly(ctx: ToolContext[int], seconds: float = 0) -> int:
    """Wait a little, with a context.

    Args:
        seconds: How long.
    """
    await asyncio.sleep(0)
    return ctx.context


@tool
async def reporting(pages: list[int]) -> AsyncIterator[str]:
    """Say how far it is.

    Args:
        pages: Their numbers.
    """
    yield "half"
    yield "done"


SCHEMA = {
    "type": "object",
    "properties": {"q": {"type": "string", "description": "The question."}},
    "required": ["q"],
}


class Base:
    @tool
    def find(self, word: str) -> str:
        """Find a word.

        Args:
            word: Which.
        """
        return word


@pytest.mark.parametrize(
    "good",
    [
        many,
        refuses,
        reporting,
        Base().find,
        Tool(name="ask", description="Ask.", parameters=SCHEMA),
        Tool(name="look", description="Look.", parameters=SCHEMA, function=lambda q: q),
        Tool(name="nothing", description="Do nothing.", function=lambda: None),
    ],
    ids=lambda item: getattr(item, "name", None) or item.__name__,
)
def test_good_tool_passes(good: Any) -> None:
    check_tool(good)


def test_context_reaches_the_tool() -> None:
    check_tool(slowly, context=7)


def test_tool_is_run_as_often_as_is_said_with_the_simplest_first() -> None:
    seen: list[str] = []

    @tool
    def look(page: Annotated[int, Field(description="Which.")], note: str = "") -> str:
        """Look at a page.

        Args:
            page: Which.
            note: What for.
        """
        seen.append(f"{page} {note}")
        return "seen"

    check_tool(look, examples=10)

    assert seen[0] == "0 "
    assert 5 < len(seen) <= 10
    assert len(set(seen)) == len(seen)


def test_same_seed_makes_the_same_arguments() -> None:
    def made(seed: int) -> list[str]:
        seen: list[str] = []

        def look(q: str) -> None:
            seen.append(q)

        check_tool(
            Tool(name="look", description="Look.", parameters=SCHEMA, function=look), seed=seed
        )
        return seen

    assert made(1) == made(1)
    assert made(1) != made(2)


def undescribed(page: int) -> str:
    """Look."""
    return "seen"


def without_words(page: int) -> str:
    return "seen"


def fails_at_13(page: Annotated[int, Field(description="Which.", ge=13, le=14)]) -> str:
    """Look."""
    if page == 13:
        raise LookupError("no such page")
    return "seen"


def returns_a_value_that_cannot_be_sent() -> object:
    """Look."""
    return object()


def hangs() -> None:
    """Look."""
    threading.Event().wait(5)


async def hangs_async() -> None:
    """Look."""
    await asyncio.Event().wait()


class Picky(BaseModel):
    """What only a person can fill in."""

    text: str

    @field_validator("text")
    @classmethod
    def _check(cls, text: str) -> str:
        if text != "please":
            raise ValueError("say please")
        return text


class Careless(BaseModel):
    text: str = Field(description="Any.")

    @field_validator("text")
    @classmethod
    def _check(cls, text: str) -> str:
        _ = text[0]
        return text


def wants_to_be_asked(what: Annotated[Picky, Field(description="Please.")]) -> str:
    """Do."""
    return "done"


def has_a_careless_validator(what: Annotated[Careless, Field(description="Any.")]) -> str:
    """Do."""
    return "done"


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (without_words, "a tool must be described, so that the model knows when to call it"),
        (
            undescribed,
            "the parameters of a tool must be described; undescribed does not describe page",
        ),
        (
            fails_at_13,
            r"nothing but ToolError for arguments that fit; fails_at_13\(page=13\) "
            "raised LookupError: no such page",
        ),
        (
            returns_a_value_that_cannot_be_sent,
            r"must return a value that can be sent; .*\(\): .* returned",
        ),
        (hangs, r"must be done in time; hangs\(\) was not after 0\.2 s"),
        (hangs_async, r"must be done in time; hangs_async\(\) was not after 0\.2 s"),
        (wants_to_be_asked, r"could not be made from its schema: .*say please.*arguments=\["),
        (
            has_a_careless_validator,
            r"a validator must raise ValueError .*; one of .* raised IndexError",
        ),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_broken_rule_is_named(function: Any, sentence: str) -> None:
    with pytest.raises(AssertionError, match=rf"(?s){sentence}"):
        check_tool(tool(function), seconds=0.2)


def test_definition_that_is_refused_is_a_broken_rule() -> None:
    with pytest.raises(AssertionError, match=r"a tool's definition must be valid: .*decorate it"):
        check_tool(lambda: None)


def test_own_timeout_of_the_tool_holds() -> None:
    with pytest.raises(AssertionError, match=r"was not after 0\.1 s"):
        check_tool(Tool(name="look", description="Look.", function=hangs, timeout=0.1))


def test_own_arguments_are_tried_first() -> None:
    check_tool(tool(wants_to_be_asked), arguments=[{"what": {"text": "please"}}])
    with pytest.raises(AssertionError, match=r"(?s)must take arguments that fit.*say please"):
        check_tool(tool(wants_to_be_asked), arguments=[{"what": {"text": "now"}}])


# - the arguments -


@given(st.data())
@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow])
def test_strategy_makes_arguments_that_the_tool_takes(data: st.DataObject) -> None:
    [registered] = ToolRegistry([many])

    made = data.draw(tool_arguments(many))

    registered.arguments.read(json.dumps(made))
    jsonschema.validate(made, registered.parameters)


SCHEMAS: list[Any] = [
    True,
    {"const": 7},
    {"enum": ["a", 2]},
    {"type": ["integer", "null"]},
    {"type": "string", "minLength": 20, "maxLength": 20},
    {"type": "string", "pattern": "^[a-z]+$", "examples": ["abc"]},
    {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
    {"type": "number", "minimum": 0.5, "maximum": 1.5},
    {"type": "integer", "minimum": 2000},
    {"type": "integer", "maximum": -2000, "multipleOf": 7},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
    {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False},
    {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True},
    {"anyOf": [{"type": "string"}, {"type": "null"}]},
    {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    {
        "allOf": [
            {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": "null"}}, "required": ["b"]},
        ],
        "type": "object",
    },
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {
        "$defs": {"n/de": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n~1de"}}}},
        "$ref": "#/$defs/n~1de",
    },
    {
        "type": "object",
        "required": ["a"],
        "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    },
    {"type": "string", "pattern": "^[0-9]+$"},
    *({"type": "string", "format": name} for name in ("date", "uuid", "email", "ipv4", "x")),
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_values_fit_their_schema(schema: Any) -> None:
    for seed in range(50):
        jsonschema.validate(schema_value(schema, SeededDraws(seed)), schema)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (False, "takes no value at all"),
        ({"$ref": "#/$defs/absent"}, "leads nowhere"),
        ({"type": "string", "pattern": "^b{9}$"}, "no text can be made for the pattern"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "leave no whole number"),
        ({"$ref": "#"}, "more than 8 levels"),
    ],
)
def test_value_that_cannot_be_made_is_explained(schema: Any, reason: str) -> None:
    with pytest.raises(CannotDraw, match=reason):
        schema_value(schema, SeededDraws(0))


def test_hypothesis_makes_texts_of_patterns() -> None:
    @tool
    def find(code: Annotated[str, Field(pattern=r"^[A-Z]{3}-\d{4}$", description="c")]) -> str:
        """Find."""
        return code

    @given(tool_arguments(find))
    @settings(max_examples=10)
    def check(arguments: dict[str, Any]) -> None:
        assert arguments["code"][3] == "-"

    check()
    with pytest.raises(AssertionError, match="no text can be made for the pattern"):
        check_tool(find)
    check_tool(find, arguments=[{"code": "ABC-1234"}])


def test_arguments_that_do_not_fit_are_never_made() -> None:
    [registered] = ToolRegistry([many])

    with pytest.raises(ArgumentsRefused):
        registered.arguments.read('{"count": 9}')
