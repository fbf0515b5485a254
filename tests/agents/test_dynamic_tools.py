"""Tools that a function of the context chooses, once for each turn."""

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from pathors_agent import (
    Agent,
    AssistantMessage,
    AsyncAgent,
    Conversation,
    Limits,
    Tool,
    ToolCall,
    ToolDefinitionError,
    ToolMessage,
    ToolRegistry,
    UserMessage,
    tool,
)
from pathors_agent.agents.approvals import Approval
from pathors_agent.core import Status
from pathors_agent.testing import AsyncScriptedTransport, Entry, ScriptedTransport, calls
from pathors_agent.tools.registry import AsyncToolChoice
from ways import Way


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word}: found"


@tool
def delete(word: str) -> str:
    """Delete a word."""
    return f"{word}: deleted"


@tool(approve=True)
def publish() -> str:
    """Publish all words."""
    return "published"


ASK_USER = Tool(name="ask_user")
READER = ToolRegistry([look_up])
EDITOR = ToolRegistry([look_up, delete])


WORD = {"word": "a"}
DELETE = calls(("delete", WORD))
LOOK_UP = calls(("look_up", WORD))
DONE = "Done."


def sent_names(request: dict[str, Any]) -> list[str]:
    return [definition["function"]["name"] for definition in request.get("tools", [])]


def in_turn(*registries: object) -> Callable[[object], Any]:
    """Choose the next of these each time; one too many is an error."""
    rest: Iterator[object] = iter(registries)
    return lambda _: next(rest)


# - each turn -


def test_tools_are_chosen_by_the_context_of_the_run(way: Way) -> None:
    rights = {"Ada": EDITOR, "Bob": READER}

    for name, expected in [("Ada", ["look_up", "delete"]), ("Bob", ["look_up"])]:
        way.run(DONE, prompt="Hi", context=name, tools=lambda who: rights[who])
        assert [sent_names(request) for request in way.requests] == [expected]


def test_function_is_asked_once_for_each_model_call(way: Way) -> None:
    asked = []

    def choose(context: object) -> ToolRegistry:
        asked.append(context)
        return READER

    way.run(LOOK_UP, DONE, prompt="Hi", context="Ada", tools=choose)

    assert asked == ["Ada", "Ada"]


def test_list_of_tools_is_taken_as_well(way: Way) -> None:
    result = way.run(DELETE, DONE, prompt="Hi", tools=lambda _: [delete])

    assert [m.text for m in result.messages if isinstance(m, ToolMessage)] == ["a: deleted"]


def test_each_turn_sends_and_runs_its_own_tools(way: Way) -> None:
    result = way.run(DELETE, DELETE, DONE, prompt="Hi", tools=in_turn(EDITOR, READER, ()))

    results = [m.text for m in result.messages if isinstance(m, ToolMessage)]
    assert [sent_names(request) for request in way.requests] == [
        ["look_up", "delete"],
        ["look_up"],
        [],
    ]
    assert results == ["a: deleted", 'There is no tool "delete". The tools are: look_up.']


def test_client_tools_are_those_of_the_turn(way: Way) -> None:
    result = way.run(
        LOOK_UP,
        calls(("ask_user", {})),
        prompt="Hi",
        tools=in_turn(READER, ToolRegistry([ASK_USER])),
    )

    assert result.status is Status.SUSPENDED
    assert [call.name for call in result.open_calls] == ["ask_user"]


def test_calls_wait_for_approval_as_the_tools_of_the_turn_say(way: Way) -> None:
    result = way.run(LOOK_UP, calls(("publish", {})), prompt="Hi", tools=in_turn(READER, [publish]))

    assert result.status is Status.SUSPENDED
    assert [approval.call.name for approval in result.approvals] == ["publish"]


def test_function_is_not_asked_where_no_model_call_is_made(way: Way) -> None:
    result = way.run(LOOK_UP, prompt="Hi", tools=in_turn(READER), limits=Limits(turns=1))

    assert result.status is Status.LIMIT_REACHED


def test_exception_of_the_function_is_raised_by_the_run(way: Way) -> None:
    def choose(context: object) -> ToolRegistry:
        raise PermissionError("who are you?")

    with pytest.raises(PermissionError, match="who are you"):
        way.run(DONE, prompt="Hi", tools=choose)


def test_bad_definition_is_raised_by_the_run(way: Way) -> None:
    with pytest.raises(ToolDefinitionError, match="name is taken"):
        way.run(DONE, prompt="Hi", tools=lambda _: [delete, delete])


def test_same_registry_is_encoded_once(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    definitions = ToolRegistry.definitions

    def counted(self: ToolRegistry) -> list[dict[str, Any]]:
        made.append(self)
        return definitions(self)

    monkeypatch.setattr(ToolRegistry, "definitions", counted)
    way.run(LOOK_UP, DONE, prompt="Hi", tools=lambda _: READER)

    assert made.count(READER) == 1


# - taking up a history -


def history(*open_calls: tuple[str, str]) -> Conversation:
    """A stored history whose last calls are open: their names and arguments."""
    conversation = Conversation([UserMessage(content="Hi")])
    if open_calls:
        stored = [
            ToolCall(id=f"call_{place}", name=name, arguments=arguments)
            for place, (name, arguments) in enumerate(open_calls)
        ]
        conversation.append(AssistantMessage(tool_calls=tuple(stored)))
    return conversation


def test_open_calls_of_a_stored_history_are_run_with_tools_asked_again(way: Way) -> None:
    asked = []

    def choose(context: object) -> ToolRegistry:
        asked.append(context)
        return EDITOR

    result = way.run(
        DONE, conversation=history(("delete", '{"word": "a"}')), context="Ada", tools=choose
    )

    assert [m.content for m in result.messages] == ["a: deleted", "Done."]
    assert asked == ["Ada", "Ada"]  # for the open calls, and for the model call


def test_open_client_calls_of_a_stored_history_suspend_it_again(way: Way) -> None:
    stored = history(("ask_user", "{}"))

    result = way.run(conversation=stored, tools=lambda _: [ASK_USER])

    assert result.status is Status.SUSPENDED
    assert result.messages == ()


def test_decisions_are_taken_with_tools_asked_again() -> None:
    stored = history(("publish", "{}"))
    agent = Agent(ScriptedTransport(DONE), tools=lambda _: [publish])
    [approval] = agent.run(conversation=stored).approvals

    result = agent.run(conversation=stored, decisions=[approval.approve()])

    assert [m.content for m in result.messages] == ["published", "Done."]


def test_agent_lists_approvals_with_tools_of_a_context() -> None:
    agent = Agent(ScriptedTransport(), tools=lambda who: [publish] if who == "Ada" else [])
    stored = history(("publish", "{}"))

    def names(approvals: list[Approval]) -> list[str]:
        return [approval.call.name for approval in approvals]

    assert names(agent.approvals(stored, context="Ada")) == ["publish"]
    assert names(agent.approvals(stored, context="Bob")) == []


# - async functions -


async def choose_later(context: object) -> ToolRegistry:
    await anyio.lowlevel.checkpoint()
    return EDITOR


def run_async(
    backend: str, *script: Entry, tools: AsyncToolChoice, conversation: Conversation
) -> list[Any]:
    async def main() -> list[Any]:
        transport = AsyncScriptedTransport(*script)
        result = await AsyncAgent(transport, tools=tools).run(conversation=conversation)
        return [message.content for message in result.messages]

    return anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_agent_awaits_an_async_function(backend: str) -> None:
    contents = run_async(backend, DELETE, DONE, tools=choose_later, conversation=history())

    assert contents == [None, "a: deleted", "Done."]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_function_is_awaited_for_open_calls_of_a_stored_history(backend: str) -> None:
    contents = run_async(
        backend, DONE, tools=choose_later, conversation=history(("delete", '{"word": "a"}'))
    )

    assert contents == ["a: deleted", "Done."]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_decisions_are_taken_with_tools_that_are_awaited(backend: str) -> None:
    async def choose(context: object) -> list[Callable[..., object]]:
        await anyio.lowlevel.checkpoint()
        return [publish]

    async def main() -> list[Any]:
        stored = history(("publish", "{}"))
        agent = AsyncAgent(AsyncScriptedTransport(DONE), tools=choose)
        [approval] = (await agent.run(conversation=stored)).approvals
        result = await agent.run(conversation=stored, decisions=[approval.deny("too early")])
        return [message.content for message in result.messages]

    contents = anyio.run(main, backend=backend)

    assert contents == ["Not run: a person said no: too early.", "Done."]


def test_agent_refuses_an_async_function_when_it_is_made() -> None:
    with pytest.raises(TypeError, match="which only AsyncAgent can await"):
        Agent(ScriptedTransport(), tools=choose_later)  # type: ignore[arg-type]  # the claim


def test_agent_refuses_an_async_function_when_it_is_constructed() -> None:
    agent = Agent(ScriptedTransport(DONE), tools=lambda who: choose_later(who))  # type: ignore[arg-type,return-value]  # the claim

    with pytest.raises(TypeError, match="which only AsyncAgent can await"):
        agent.run("Hi")


def test_tool_without_a_list_is_refused() -> None:
    with pytest.raises(TypeError, match=r"write tools=\[look_up\]"):
        Agent(ScriptedTransport(), tools=look_up)  # type: ignore[arg-type]  # the claim


def test_chosen_tool_named_like_the_final_tool_is_refused(way: Way) -> None:
    named = [Tool(name="final_answer")]
    conversation = Conversation()

    with pytest.raises(ToolDefinitionError, match=r"final_answer.* gives the answer"):
        way.run(prompt="Go.", conversation=conversation, output=int, tools=lambda _: named)

    assert len(conversation) == 1
