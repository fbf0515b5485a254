"""Answers of every type at every endpoint: asked for, read out of any text, shown while they arrive."""

import enum
import json
from contextlib import suppress
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, TypeAdapter
from typing_extensions import TypeAliasType, TypedDict

from effort import examples
from pathors_agent import PROFILES, Agent
from pathors_agent.agents.answers import AnswerType, ArrivingAnswer
from pathors_agent.schema.arguments import ArgumentsRefused
from pathors_agent.testing import ScriptedTransport
from pathors_agent.wire.message_builder import MessageBuilder
from structured_answers import City, River, entry, sent_schema


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Route(TypedDict):
    stops: list[City]


class Numbers(RootModel[list[int]]):
    """Some numbers."""


Names = TypeAliasType("Names", list[str])
Pet = Annotated[Cat | Dog, Field(discriminator="kind")]

# Each type with a value of it, as JSON.
TYPES: dict[str, tuple[Any, Any]] = {
    "model": (City, {"name": "Oslo", "people": 7}),
    "dataclass": (River, {"length": 1.5}),
    "typed dict": (Route, {"stops": [{"name": "Oslo", "people": 1}]}),
    "dict": (dict[str, int], {"a": 1, "value": 2}),
    "list": (list[int], [1, 2, 3]),
    "list of models": (list[City], [{"name": "Oslo", "people": 7}, {"name": "Rome", "people": 8}]),
    "empty list": (list[City], []),
    "nested lists": (list[list[str]], [["a"], [], ["b", "c"]]),
    "tuple": (tuple[int, str], [1, "a"]),
    "set": (set[int], [1, 2]),
    "alias": (Names, ["a", "b"]),
    "root model": (Numbers, [4, 5]),
    "union of models": (City | River, {"length": 2.5}),
    "discriminated union": (Pet, {"kind": "dog", "name": "Rex"}),
    "union of scalars": (int | str, "seven"),
    "list or text": (list[int] | str, [1]),
    "optional model": (City | None, {"name": "Oslo", "people": 7}),
    "none": (City | None, None),
    "literal": (Literal["yes", "no"], "no"),
    "enum": (Color, "blue"),
    "integer": (int, 42),
    "number": (float, -1.5e10),
    "boolean": (bool, True),
    "date": (date, "2026-11-28"),
    "text with a bound": (Annotated[str, Field(max_length=20)], 'a "b" {c} [1]'),
}

EACH_TYPE = pytest.mark.parametrize(
    ("output", "value"), TYPES.values(), ids=[name.replace(" ", "-") for name in TYPES]
)
EACH_PROFILE = pytest.mark.parametrize("name", PROFILES)


def as_sent(answers: AnswerType[Any], value: Any) -> str:
    """Return the answer as a model writes it: in the object that the schema asks for."""
    return json.dumps({"value": value} if answers.is_wrapped else value)


# - every type at every endpoint -


@EACH_PROFILE
@EACH_TYPE
def test_type_is_requested_as_an_object_and_unwrapped(name: str, output: Any, value: Any) -> None:
    profile = PROFILES[name]
    text = as_sent(AnswerType(output, profile.structured), value)
    model = ScriptedTransport(entry(profile, text), profile=profile)
    agent: Agent[Any] = Agent(model, output=output)
    seen: list[str] = []
    with agent.stream("?") as stream:
        seen += [json.dumps(stream.partial) for _ in stream]

    assert sent_schema(model.requests[0], profile)["type"] == "object"
    adapter: TypeAdapter[Any] = TypeAdapter(output)
    assert stream.result.output == adapter.validate_json(json.dumps(value))
    assert json.loads(seen[-1]) == value


@EACH_TYPE
def test_value_grows_from_piece_to_piece(output: Any, value: Any) -> None:
    for way in ("response_format", "prompt"):
        answers = AnswerType(output, way)
        builder = MessageBuilder()
        arriving = ArrivingAnswer(answers)
        arriving.watch(builder)
        for character in as_sent(answers, value):
            builder.add_text(character, [])
            begun = json.loads(json.dumps(arriving.value))
            assert begun is None or is_beginning(begun, value)

        assert arriving.value == value


def is_beginning(begun: Any, whole: Any) -> bool:
    """Return True if a value may be the beginning of another."""
    match begun, whole:
        case dict(), dict():
            return all(name in whole and is_beginning(begun[name], whole[name]) for name in begun)
        case list(), list():
            pairs = zip(begun, whole, strict=False)
            return len(begun) <= len(whole) and all(is_beginning(a, b) for a, b in pairs)
        case str(), str():
            return whole.startswith(begun)
        case _:
            return bool(begun == whole)


# - JSON with text around it -

CITY = '{"name": "Oslo", "people": 7}'
OSLO = City(name="Oslo", people=7)


@pytest.mark.parametrize(
    "text",
    [
        CITY,
        f" \n{CITY}\n ",
        f"```json\n{CITY}\n```",
        f"```\n{CITY}\n```",
        f"```JSON\r\n{CITY}\r\n```",
        f"```python\n{CITY}\n```",
        f"~~~json\n{CITY}\n~~~",
        f"```json\n{CITY}",
        f"`{CITY}`",
        f"Sure:\n```json\n{CITY}\n```",
        f"Sure:\n\n```json\n{CITY}\n```\n\nAnything else?",
        f"Here is the answer: {CITY} I hope it helps.",
        f"<think>{{x}} or [see below]?</think>\n{CITY}",
        f"Of the sources [1] and [2 of 3], {CITY} follows [1].",
        f'An example is {{"name": "X"}}. The answer is {CITY}',
        f"**{CITY}**",
        json.dumps(json.loads(CITY), indent=2).join(["Sure!\n", "\nDone."]),
    ],
)
def test_object_is_read_out_of_the_text_around_it(text: str) -> None:
    answers: AnswerType[Any] = AnswerType(City, "prompt")

    assert answers.read(text) == OSLO


@pytest.mark.parametrize(
    ("output", "text", "value"),
    [
        (list[int], "[1, 2]", [1, 2]),
        (list[int], "```json\n[1, 2]\n```", [1, 2]),
        (list[int], 'Sure: {"value": [1, 2]}', [1, 2]),
        (list[City], f"Both:\n[{CITY}, {CITY}]", [OSLO, OSLO]),
        (City | River, CITY, OSLO),
        (City | River, f"```json\n{CITY}\n```", OSLO),
        (City | None, "null", None),
        (int, "42", 42),
        (Literal["yes", "no"], '"no"', "no"),
        (Pet, 'It is {"kind": "dog", "name": "Rex"}.', Dog(kind="dog", name="Rex")),
    ],
    ids=str,
)
def test_value_without_its_wrapper_is_read(output: Any, text: str, value: Any) -> None:
    assert AnswerType(output, "prompt").read(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "are empty"),
        ("I do not know.", "are not JSON"),
        ("```", "are not JSON"),
        (f"[{CITY}]", "should be one JSON object, not the array"),
        (f"Sure: [{CITY}]", "should be one JSON object, not the array"),
        ('Sure: {"people": 1}', "/name: is missing"),
        (f'{CITY} No, it is {{"people": 1}}', "/name: is missing"),
        # What is inside of a broken answer, or before it, is no answer.
        (f'{{"city": {CITY}, }}', "are not JSON"),
        (f'{{"city": {CITY}', "are not JSON"),
        (f'An example is {CITY}. The answer is {{"name": "Ro', "are not JSON"),
        (f"[{CITY}, {{", "are not JSON"),
        ("[" * 100_000, "are "),
        ('{"a":' * 100_000, "are "),
    ],
    ids=lambda text: text[:40],
)
def test_text_without_the_whole_answer_is_refused(text: str, words: str) -> None:
    with pytest.raises(ArgumentsRefused) as refused:
        AnswerType(City, "prompt").read(text)

    assert words in str(refused.value)


# Text without brackets that could begin JSON.
PROSE = st.text(st.characters(exclude_characters='{}[]"', exclude_categories=["Cs"]), max_size=40)
VALUES: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    people=st.integers(-(2**53), 2**53),
)


@settings(max_examples=examples(100))
@example("```json\n", {"name": "```", "people": 0}, "\n```", [1, 2, 3])
@example("{ ", {"name": '"}', "people": 0}, "", [1])
@given(PROSE, VALUES, PROSE, st.lists(st.integers(1, 30), max_size=6))
def test_object_in_any_text_is_read_and_shown(
    before: str, value: dict[str, Any], after: str, cuts: list[int]
) -> None:
    text = f"{before}{json.dumps(value)}{after}"
    answers: AnswerType[Any] = AnswerType(City, "prompt")
    builder = MessageBuilder()
    arriving = ArrivingAnswer(answers)
    arriving.watch(builder)
    rest = text
    for size in [*cuts, len(text)]:
        builder.add_text(rest[:size], [])
        rest = rest[size:]
        begun = arriving.value
        assert begun is None or is_beginning(begun, value)

    assert answers.read(text) == City(**value)
    assert arriving.value == value


@settings(max_examples=examples(100))
@given(st.text(st.sampled_from('{}[]":,\\ \n`1a'), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for output in (City, list[int], City | River):
        answers = AnswerType(output, "prompt")
        arriving = ArrivingAnswer(answers)
        builder = MessageBuilder()
        arriving.watch(builder)
        for character in text:
            builder.add_text(character, [])
            json.dumps(arriving.value)
        with suppress(ArgumentsRefused):
            answers.read(text)
