"""Answers of every type at every endpoint: asked for, read out of any text, shown while they arrive."""

import copy
import enum
import functools
import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import anyio
import anyio.lowlevel
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, TypeAdapter
from typing_extensions import TypeAliasType, TypedDict

from effort import examples
from pathors_agent import (
    PROFILES,
    Agent,
    AsyncAgent,
    Conversation,
    EndpointProfile,
    Limits,
    ToolContext,
    ToolError,
    ToolMessage,
    UserMessage,
    dump_messages,
    load_messages,
)
from pathors_agent.agents.answers import AnswerType, ArrivingAnswer
from pathors_agent.core import Status
from pathors_agent.errors import RunNotFinished
from pathors_agent.schema.arguments import ArgumentsRefused
from pathors_agent.testing import AsyncScriptedTransport, Entry, ScriptedTransport, calls
from pathors_agent.wire.message_builder import MessageBuilder
from ways import Way


class City(BaseModel):
    name: str
    people: int = 0


@dataclass
class River:
    length: float


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


def sent_schema(request: dict[str, Any], profile: EndpointProfile) -> dict[str, Any]:
    """Return the schema that a request asks for."""
    match profile.structured:
        case "tool":
            found = request["tools"][0]["function"]["parameters"]
        case "response_format":
            found = request["response_format"]["json_schema"]["schema"]
        case "prompt":
            found = json.loads(request["messages"][0]["content"].splitlines()[-1])
    schema: dict[str, Any] = found
    return schema


def as_sent(answers: AnswerType[Any], value: Any) -> str:
    """Return the answer as a model writes it: in the object that the schema asks for."""
    return json.dumps({"value": value} if answers.is_wrapped else value)


def entry(profile: EndpointProfile, text: str) -> Entry:
    return calls(("final_answer", text)) if profile.structured == "tool" else text


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


# - output functions -


def known_city(city: City) -> str:
    """Return the name of a city that is known."""
    if city.name == "Nowhere":
        raise ValueError("there is no city of this name")
    if city.name == "Atlantis":
        raise ToolError("the city sank")
    return f"{city.name}!"


WAYS_TO_ASK = pytest.mark.parametrize("structured", ["tool", "response_format", "prompt"])


def answers_of(structured: Any, *names: str) -> tuple[EndpointProfile, list[Entry]]:
    profile = EndpointProfile(structured=structured)
    return profile, [entry(profile, json.dumps({"name": name, "people": 1})) for name in names]


@WAYS_TO_ASK
def test_function_returns_the_answer_or_sends_it_back(way: Way, structured: str) -> None:
    profile, script = answers_of(structured, "Nowhere", "Atlantis", "Oslo")
    result = way.run(*script, prompt="?", profile=profile, output=known_city)

    assert result.output == "Oslo!"
    texts = [m.text for m in result.messages if isinstance(m, ToolMessage | UserMessage)]
    first, second = texts[1:3]
    assert " are refused: there is no city of this name" in first
    assert " are refused: the city sank" in second


@WAYS_TO_ASK
def test_refusals_count_as_tries(way: Way, structured: str) -> None:
    profile, script = answers_of(structured, "Nowhere", "Nowhere")
    result = way.run(
        *script,
        prompt="?",
        profile=profile,
        output=known_city,
        limits=Limits(output_retries=1),
    )

    assert (result.status, result.limit) == (Status.LIMIT_REACHED, "output_retries")
    with pytest.raises(RunNotFinished, match=r"within limits\.output_retries"):
        _ = result.output


@WAYS_TO_ASK
def test_function_is_called_once_for_each_answer(way: Way, structured: str) -> None:
    called: list[str] = []

    def noted(city: City) -> City:
        called.append(city.name)
        return known_city(city) and city  # type: ignore[return-value]  # raises, or is true

    profile, script = answers_of(structured, "Nowhere", "Oslo")
    result = way.run(*script, prompt="?", profile=profile, output=noted)

    assert result.output == result.output == City(name="Oslo", people=1)
    assert called == ["Nowhere", "Oslo"]


@WAYS_TO_ASK
def test_two_runs_share_no_value(structured: str) -> None:
    profile, script = answers_of(structured, "Oslo", "Oslo")
    agent = Agent(ScriptedTransport(*script, profile=profile), output=lambda_of_lists)
    first, second = agent.run("?").output, agent.run("?").output
    first.append("more")

    assert second == ["Oslo"]


def lambda_of_lists(city: City) -> list[str]:
    return [city.name]


@WAYS_TO_ASK
def test_error_of_the_function_reaches_the_caller_and_the_run_can_continue(structured: str) -> None:
    is_away = True

    def stored(city: City) -> str:
        if is_away:
            raise ConnectionError("the database is away")
        return city.name

    profile, script = answers_of(structured, "Oslo")
    agent = Agent(ScriptedTransport(*script, profile=profile), output=stored)
    conversation = Conversation()
    with pytest.raises(ConnectionError, match="the database is away"):
        agent.run("?", conversation=conversation)
    is_away = False
    again = Conversation(load_messages(dump_messages(conversation.messages)))

    assert agent.run(conversation=again).output == "Oslo"


@WAYS_TO_ASK
def test_wrapped_value_has_the_name_of_the_parameter(way: Way, structured: str) -> None:
    def longest(cities: list[City]) -> str:
        return max((city.name for city in cities), key=len)

    profile = EndpointProfile(structured=structured)  # type: ignore[arg-type]  # of a parameter
    text = json.dumps({"cities": [{"name": "Oslo", "people": 1}, {"name": "Berlin", "people": 2}]})
    result = way.run(entry(profile, text), prompt="?", profile=profile, output=longest)

    assert result.output == "Berlin"
    assert sent_schema(way.requests[0], profile)["required"] == ["cities"]


def place_in(names: list[str], name: str) -> int:
    return names.index(name)


class Registry:
    """Cities that are known."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find(self, name: str) -> int:
        return self.names.index(name)


@pytest.mark.parametrize(
    "function",
    [Registry("Rome", "Oslo").find, functools.partial(place_in, ["Rome", "Oslo"])],
    ids=["bound-method", "partial"],
)
def test_bound_methods_and_partial_functions_are_functions(function: Any) -> None:
    model = ScriptedTransport(calls(("final_answer", {"name": "Oslo"})))

    assert Agent(model, output=function).run("?").output == 1


async def is_async(city: City) -> City:
    return city


def has_no_type(city):  # type: ignore[no-untyped-def]
    return city


def has_two(city: City, river: River) -> City:
    return city


def has_none() -> None:
    return None


def has_context(city: City, context: ToolContext) -> City:
    return city


def has_no_json(agent: Agent) -> Agent:
    return agent


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (is_async, "output= is an async function, which only AsyncAgent can await"),
        (has_two, "output=has_two must take one argument"),
        (has_none, "output=has_none must take one argument"),
        (has_context, "output=has_context must take one argument"),
        (has_no_type, "output=has_no_type must take one argument, the answer, with its type"),
        (has_no_json, "output=has_no_json is not a function of a model's answer"),
        (Registry.find, "output=find must take one argument"),
        (functools.partial(int, base=8), "output=a partial function "),
    ],
)
def test_function_that_cannot_take_an_answer_is_refused(function: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        Agent(ScriptedTransport(), output=function)


# - async output functions -


class Directory:
    """Cities that are looked up, each with a checkpoint; `asked` are those so far."""

    def __init__(self, *known: str) -> None:
        self.known = known
        self.asked: list[str] = []
        self.is_away = False

    async def find(self, city: City) -> int:
        self.asked.append(city.name)
        await anyio.lowlevel.checkpoint()
        if self.is_away:
            raise ConnectionError("the directory is away")
        if city.name not in self.known:
            raise ValueError(f"{city.name} is not in the directory")
        return self.known.index(city.name)


@pytest.mark.anyio
@WAYS_TO_ASK
async def test_async_function_is_awaited_once_for_each_answer(structured: str) -> None:
    profile, script = answers_of(structured, "Nowhere", "Oslo")
    directory = Directory("Rome", "Oslo")
    agent = AsyncAgent(AsyncScriptedTransport(*script, profile=profile), output=directory.find)
    result = await agent.run("?")

    assert result.output == result.output == 1
    assert directory.asked == ["Nowhere", "Oslo"]
    assert any("Nowhere is not in the directory" in message.text for message in result.messages)


@pytest.mark.anyio
@WAYS_TO_ASK
async def test_async_function_reads_the_answer_of_a_stored_history_again(structured: str) -> None:
    profile, script = answers_of(structured, "Oslo")
    directory = Directory("Oslo")
    agent = AsyncAgent(AsyncScriptedTransport(*script, profile=profile), output=directory.find)
    first = await agent.run("?")
    stored = Conversation(load_messages(dump_messages(first.conversation.messages)))
    again = await agent.run(conversation=stored)

    assert (first.output, again.output) == (0, 0)
    assert directory.asked == ["Oslo", "Oslo"]


@pytest.mark.anyio
@WAYS_TO_ASK
async def test_error_of_an_async_function_reaches_the_caller_and_the_run_can_continue(
    structured: str,
) -> None:
    profile, script = answers_of(structured, "Oslo")
    directory = Directory("Oslo")
    directory.is_away = True
    agent = AsyncAgent(AsyncScriptedTransport(*script, profile=profile), output=directory.find)
    conversation = Conversation()
    with pytest.raises(ConnectionError, match="the directory is away"):
        await agent.run("?", conversation=conversation)
    directory.is_away = False

    assert (await agent.run(conversation=conversation)).output == 0


@pytest.mark.anyio
@WAYS_TO_ASK
async def test_run_is_cancelled_while_it_awaits_the_function(structured: str) -> None:
    profile, script = answers_of(structured, "Oslo")

    async def waits(city: City) -> City:
        stream.cancel()
        await anyio.sleep_forever()
        return city

    agent = AsyncAgent(AsyncScriptedTransport(*script, profile=profile), output=waits)
    async with agent.stream("?") as stream:
        async for _ in stream:
            pass

    assert stream.result.cancelled


@pytest.mark.anyio
@WAYS_TO_ASK
async def test_time_limit_ends_the_wait_for_the_function(structured: str) -> None:
    profile, script = answers_of(structured, "Oslo")

    async def waits(city: City) -> City:
        await anyio.sleep_forever()
        return city

    model = AsyncScriptedTransport(*script, profile=profile)
    result = await AsyncAgent(model, output=waits, limits=Limits(seconds=0.5)).run("?")

    assert result.limit == "seconds"


def abs_of(number: int) -> int:
    return abs(number)


class _Doubled:
    """A callable object that is an output function."""

    def __call__(self, number: int) -> int:
        return 2 * number


class _DoubledLater:
    async def __call__(self, number: int) -> int:
        await anyio.lowlevel.checkpoint()
        return 2 * number


def test_output_may_be_a_callable_object() -> None:
    model = ScriptedTransport(calls(("final_answer", {"number": 4})))

    assert Agent(model, output=_Doubled()).run("Two times four?").output == 8


def test_output_of_an_async_agent_may_be_an_object_with_an_async_call() -> None:
    async def main() -> int:
        model = AsyncScriptedTransport(calls(("final_answer", {"number": 4})))
        return (await AsyncAgent(model, output=_DoubledLater()).run("Two times four?")).output

    assert anyio.run(main) == 8


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))]
)
@pytest.mark.parametrize("output", [int, int | None, Annotated[int, Field(ge=0)], abs_of])
def test_result_with_a_typed_answer_is_copied_and_pickled_with_its_answer(
    output: Any, copied: Callable[[Any], Any]
) -> None:
    member = "number" if output is abs_of else "value"
    model = ScriptedTransport(calls(("final_answer", {member: 4})))
    result: Any = Agent(model, output=output).run("Two times two?")

    twin = copied(result)

    assert twin.output == 4
    assert twin.conversation.messages == result.conversation.messages
    assert twin.status == result.status


def test_result_without_an_answer_is_pickled() -> None:
    model = ScriptedTransport(calls(("final_answer", {"value": "four"})))
    result = Agent(model, output=int, limits=Limits(output_retries=0)).run("Two times two?")

    twin = pickle.loads(pickle.dumps(result))

    assert twin.limit == "output_retries"
    with pytest.raises(RunNotFinished):
        _ = twin.output
