"""What takes the place of an agent's settings in one run, and instructions that depend on it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from pydantic import BaseModel

from pathors_agent import Agent, AsyncAgent, Limits, ModelOptions, ToolDefinitionError, tool
from pathors_agent.core import Status
from pathors_agent.testing import AsyncScriptedTransport, Entry, ScriptedTransport, calls
from pathors_agent.wire.profiles import DEFAULT_PROFILE
from ways import WAYS, Way


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def look(page: int) -> str:
    """Look at a page."""
    return f"page {page}"


@dataclass
class User:
    name: str


# - instructions -


def greeting(way: str, asked: list[User] | None = None) -> Any:
    """Return the instructions of a user, as a function of this way's kind."""

    def instructions(user: User) -> str:
        if asked is not None:
            asked.append(user)
        return f"You speak with {user.name}."

    async def instructions_async(user: User) -> str:
        return instructions(user)

    return instructions if way == "blocking" else instructions_async


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return Way(request.param)


def system_texts(way: Way) -> list[str | None]:
    texts = []
    for request in way.requests:
        first = request["messages"][0]
        texts.append(first["content"] if first["role"] == "system" else None)
    return texts


def test_instructions_are_made_from_the_context_before_each_model_call(way: Way) -> None:
    asked: list[User] = []
    script: list[Entry] = [calls(("add", {"a": 1, "b": 2})), "Three."]

    result = way.run(
        *script,
        prompt="1 + 2?",
        context=User("Ada"),
        tools=[add],
        instructions=greeting(way.name, asked),
    )

    assert system_texts(way) == ["You speak with Ada."] * 2
    assert asked == [User("Ada")] * 2
    assert [message.role for message in result.messages] == [
        *("user", "assistant", "tool", "assistant")
    ]


def test_blocking_function_instructs_an_async_agent(way: Way) -> None:
    way.run("Hi.", prompt="?", context=User("Ada"), instructions=lambda user: f"For {user.name}.")

    assert system_texts(way) == ["For Ada."]


def test_function_may_return_no_instructions_for_some_calls(way: Way) -> None:
    texts = iter([None, "Now be brief.", None])

    way.run(
        calls(("look", {"page": 1})),
        calls(("look", {"page": 2})),
        "Read.",
        prompt="?",
        tools=[look],
        instructions=lambda context: next(texts),
    )

    assert system_texts(way) == [None, "Now be brief.", None]


class Sum(BaseModel):
    value: int


def test_instructions_of_a_function_precede_the_request_for_a_type(way: Way) -> None:
    prompted = way.run(
        '{"value": 3}',
        prompt="1 + 2?",
        context=User("Ada"),
        output=Sum,
        profile=replace(DEFAULT_PROFILE, structured="prompt"),
        instructions=greeting(way.name),
    )

    [text] = system_texts(way)
    assert text is not None
    assert text.startswith("You speak with Ada.\n\n")
    assert '"value"' in text
    assert prompted.output == Sum(value=3)


@pytest.mark.parametrize("value", [5, b"text", ["text"]], ids=["int", "bytes", "list"])
def test_instructions_that_are_no_text_are_an_error(way: Way, value: object) -> None:
    kind = type(value).__name__
    with pytest.raises(TypeError, match=rf"instructions= returned a {kind}, and not a text"):
        way.run("Hi.", prompt="?", instructions=lambda context: value)


def test_blocking_agent_refuses_async_instructions() -> None:
    with pytest.raises(
        TypeError, match="instructions= is an async function, which only AsyncAgent"
    ):
        Agent(ScriptedTransport(), instructions=greeting("asyncio"))


def test_blocking_agent_names_instructions_that_turn_out_to_be_async() -> None:
    instructions: Callable[[User], Any] = lambda user: greeting("asyncio")(user)  # noqa: E731
    agent = Agent(ScriptedTransport("Hi."), instructions=instructions)

    with pytest.raises(TypeError, match="returned an awaitable, which only AsyncAgent can await"):
        agent.run("?", context=User("Ada"))


# - settings of one run -


async def run(agent: Any, *given: Any, **settings: Any) -> Any:
    """Run an agent of either kind."""
    if isinstance(agent, Agent):
        return agent.run(*given, **settings)
    return await agent.run(*given, **settings)


async def stream(agent: Any, *given: Any, **settings: Any) -> Any:
    """Stream a run of an agent of either kind to its end."""
    if isinstance(agent, Agent):
        with agent.stream(*given, **settings) as stream:
            for _ in stream:
                pass
        return stream.result
    async with agent.stream(*given, **settings) as stream:
        async for _ in stream:
            pass
    return stream.result


def agent_of(kind: str, *script: Entry, **settings: Any) -> Any:
    if kind == "Agent":
        return Agent(ScriptedTransport(*script), **settings)
    return AsyncAgent(AsyncScriptedTransport(*script), **settings)


BOTH = pytest.mark.parametrize("kind", ["Agent", "AsyncAgent"])
READING = pytest.mark.parametrize("reading", [run, stream])
pytestmark = pytest.mark.anyio


@BOTH
@READING
async def test_settings_of_a_run_take_the_place_of_the_agents_for_that_run(
    kind: str, reading: Callable[..., Any]
) -> None:
    agent = agent_of(
        kind,
        *("One.", "Two."),
        model="large",
        tools=[add],
        options=ModelOptions(temperature=1.0, max_tokens=100, extra={"a": 1}),
    )

    await reading(
        agent,
        "?",
        model="small",
        tools=[look],
        options=ModelOptions(temperature=0.0, seed=7, extra={"b": 2}),
    )
    await reading(agent, "?")

    first, second = agent.transport.requests
    assert [t["function"]["name"] for t in first["tools"]] == ["look"]
    assert (first["model"], first["temperature"], first["seed"]) == ("small", 0.0, 7)
    assert (first["a"], first["b"]) == (1, 2)
    assert [value for name, value in first.items() if "max" in name] == [100]
    assert [t["function"]["name"] for t in second["tools"]] == ["add"]
    assert (second["model"], second["temperature"]) == ("large", 1.0)
    assert {"seed", "b"}.isdisjoint(second)


@BOTH
@READING
async def test_tools_of_a_run_are_run_and_those_of_the_agent_are_not(
    kind: str, reading: Callable[..., Any]
) -> None:
    script: list[Entry] = [calls(("look", {"page": 1}), ("add", {"a": 1, "b": 2})), "Done."]
    agent = agent_of(kind, *script, tools=[add])

    result = await reading(agent, "?", tools=[look])

    assert [m.outcome for m in result.messages if m.role == "tool"] == ["value", "error"]


@BOTH
@READING
async def test_tools_of_a_run_may_be_chosen_by_a_function(
    kind: str, reading: Callable[..., Any]
) -> None:
    agent = agent_of(kind, "Hi.", "Hi.", tools=[add])

    for name in ("look", "add"):
        await reading(agent, "?", context=name, tools=lambda name: [look] if name == "look" else [])

    assert [len(r.get("tools", [])) for r in agent.transport.requests] == [1, 0]


@BOTH
@READING
async def test_limits_of_a_run_stop_it(kind: str, reading: Callable[..., Any]) -> None:
    script = [calls(("look", {"page": number})) for number in range(3)]
    agent = agent_of(kind, *script, tools=[look])

    result = await reading(agent, "?", limits=Limits(turns=1))
    assert (result.status, result.limit) == (Status.LIMIT_REACHED, "turns")

    result = await reading(agent, conversation=result.conversation, limits=Limits(turns=3))
    assert len(agent.transport.requests) == 3
    assert (result.status, result.limit) == (Status.LIMIT_REACHED, "turns")


@BOTH
async def test_answers_of_a_type_are_requested_with_the_tools_of_the_run(kind: str) -> None:
    agent = agent_of(kind, calls(("final_answer", {"value": 3})), output=Sum, tools=[add])

    result = await run(agent, "?", tools=[look], model="small")

    [request] = agent.transport.requests
    assert result.output == Sum(value=3)
    assert [t["function"]["name"] for t in request["tools"]] == ["look", "final_answer"]


@BOTH
async def test_final_tools_name_is_refused_for_the_tools_of_a_run(kind: str) -> None:
    @tool
    def final_answer() -> None:
        """Take the name."""

    agent = agent_of(kind, output=Sum)

    with pytest.raises(ToolDefinitionError, match="final_answer"):
        await run(agent, "?", tools=[final_answer])


def test_blocking_run_refuses_tools_that_are_chosen_by_async_code() -> None:
    async def choose(context: object) -> list[Any]:
        return [look]

    choice: Any = choose
    with pytest.raises(TypeError, match="tools= is an async function, which only AsyncAgent"):
        Agent(ScriptedTransport()).run("?", tools=choice)


@BOTH
async def test_setting_that_a_run_does_not_have_is_refused(kind: str) -> None:
    settings: dict[str, Any] = {"temperature": 0.0}
    with pytest.raises(TypeError, match=r"a run has no temperature=; pass options=ModelOptions"):
        await run(agent_of(kind), "?", **settings)
