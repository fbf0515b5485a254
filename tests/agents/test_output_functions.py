"""Functions as the type of an output: they return the answer, or send it back to the model."""

import copy
import functools
import json
import pickle
from collections.abc import Callable
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import Field

from pathors_agent import (
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
from pathors_agent.core import Status
from pathors_agent.errors import RunNotFinished
from pathors_agent.testing import AsyncScriptedTransport, Entry, ScriptedTransport, calls
from structured_answers import City, River, entry, sent_schema
from ways import Way

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
        *script, prompt="?", profile=profile, output=known_city, limits=Limits(output_retries=1)
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
        (
            has_no_type,
            "output=has_no_type must take one argument, the answer, annotated with its type",
        ),
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
