"""Effects are performed, failed and cancelled, and the history says what was done."""

import asyncio
import threading
from typing import NoReturn

import anyio
import pytest
from anyio.lowlevel import checkpoint

from driven_agents import GO, add, calling, local, open_names, results, said, shape, stored
from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Status
from pathors_agent.errors import ToolError
from pathors_agent.messages import AssistantMessage, ToolMessage
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, answer, calls, raw
from pathors_agent.tools.tool import Tool
from pathors_agent.wire.deltas import TextDelta
from ways import Way

# - in which order


def test_deltas_precede_their_message_and_results_are_in_call_order(way: Way) -> None:
    script = (
        answer("Let me see.", calls=[("b", {}), ("a", {})], chunk_size=6),
        answer("Seen.", chunk_size=100),
    )

    result = way.stream(*script, prompt="Go.", tools=[local("a", lambda: 1), local("b", lambda: 2)])

    assert [shape(item) for item in way.items] == [
        "TextDelta",
        "TextDelta",
        *["ToolCallDelta"] * 4,
        "assistant",
        "tool",
        "tool",
        "TextDelta",
        "assistant",
    ]
    text = "".join(item.text for item in way.items[:2] if isinstance(item, TextDelta))
    assert text == "Let me see."
    assert way.items[7:9] == [
        ToolMessage(tool_call_id="call_1", content="2"),
        ToolMessage(tool_call_id="call_2", content="1"),
    ]
    assert [item for item in way.items if hasattr(item, "role")] == list(result.messages[1:])
    assert result.messages[0] == GO
    assert result.output == "Seen."


def test_plain_answer_yields_the_same_items(way: Way) -> None:
    body = b"""{"id": "1", "model": "m", "choices": [{"index": 0, "finish_reason": "stop",
        "message": {"role": "assistant", "content": "Hello"}}]}"""

    way.stream(raw(body), prompt="Go.")

    assert way.items == [
        TextDelta("Hello"),
        AssistantMessage(content="Hello", finish_reason="stop", model="m", id="1"),
    ]


def test_blocking_agent_runs_tools_one_after_another() -> None:
    now_running: list[str] = []
    seen: list[list[str]] = []

    def named(name: str) -> Tool:
        def function() -> str:
            now_running.append(name)
            seen.append(list(now_running))
            now_running.remove(name)
            return name

        async def function_async() -> str:
            return function()

        return local(name, function if name == "b" else function_async)

    with ScriptedTransport(calling("c", "b", "a"), "Done.") as transport:
        Agent(transport, tools=[named("a"), named("b"), named("c")]).run("Go.")

    assert seen == [["c"], ["b"], ["a"]]


# - side by side


@pytest.mark.anyio
async def test_async_tools_of_one_answer_run_side_by_side() -> None:
    here = {name: anyio.Event() for name in "abc"}

    def meeting(name: str) -> Tool:
        async def meet() -> str:
            here[name].set()
            for event in here.values():
                await event.wait()
            return name

        return local(name, meet)

    transport = AsyncScriptedTransport(calling("a", "b", "c"), "Done.")
    result = await AsyncAgent(transport, tools=[meeting(name) for name in "abc"]).run("Go.")

    assert said(result.messages) == ["Go.", "", "a", "b", "c", "Done."]


@pytest.mark.anyio
async def test_sync_tools_of_one_answer_run_side_by_side_in_threads() -> None:
    barrier = threading.Barrier(3, timeout=20)
    threads = set()

    def meet() -> str:
        barrier.wait()
        threads.add(threading.get_ident())
        return "met"

    transport = AsyncScriptedTransport(calling("a", "b", "c"), "Done.")
    result = await AsyncAgent(transport, tools=[local(name, meet) for name in "abc"]).run("Go.")

    assert said(result.messages) == ["Go.", "", "met", "met", "met", "Done."]
    assert len(threads) == 3
    assert threading.get_ident() not in threads


@pytest.mark.anyio
async def test_results_are_recorded_in_call_order_whatever_their_order() -> None:
    third, second = anyio.Event(), anyio.Event()
    finished: list[str] = []

    async def a() -> None:
        await second.wait()
        finished.append("a")

    async def b() -> None:
        await third.wait()
        finished.append("b")
        second.set()

    async def c() -> None:
        finished.append("c")
        third.set()

    transport = AsyncScriptedTransport(calling("a", "b", "c"), "Done.")
    tools = [local("a", a), local("b", b), local("c", c)]
    items = []
    async with AsyncAgent(transport, tools=tools).stream("Go.") as stream:
        async for item in stream:
            items.append(item)  # noqa: PERF401  (an async comprehension would hide the claim)

    assert finished == ["c", "b", "a"]
    yielded = [item.tool_call_id for item in items if isinstance(item, ToolMessage)]
    assert yielded == ["call_1", "call_2", "call_3"]
    sent = [m.get("tool_call_id") for m in transport.requests[1]["messages"]]
    assert sent == [None, None, "call_1", "call_2", "call_3"]


@pytest.mark.anyio
async def test_blocking_agent_runs_async_tools_inside_a_running_event_loop() -> None:
    async def look() -> str:
        await checkpoint()
        return "seen"

    with ScriptedTransport(calling("look", "look"), "Done.") as transport:
        result = Agent(transport, tools=[local("look", look)]).run("Go.")

    assert said(result.messages) == ["Go.", "", "seen", "seen", "Done."]


# - tools that fail


def fail() -> NoReturn:
    raise ValueError("no luck")


def refuse() -> NoReturn:
    raise ToolError("Ask again tomorrow.")


class Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


async def fall_silent() -> NoReturn:
    raise Mute


def test_failing_tool_is_a_message_and_its_siblings_are_kept(way: Way) -> None:
    tools = [
        add,
        local("fail", fail),
        local("refuse", refuse),
        local("fall_silent", fall_silent),
        local("give_object", object),
    ]
    script = calls(
        ("add", {"a": 1, "b": 2}),
        ("fail", {}),
        ("refuse", {}),
        ("fall_silent", {}),
        ("give_object", {}),
        ("ad", {"a": 1, "b": 2}),
        ("add", {"a": "one"}),
        ("add", '{"a": 1, "b": '),
        ("add", {"a": 3, "b": 4}),
    )

    result = way.run(script, "Done.", prompt="Go.", tools=tools)

    found = [m for m in result.messages if isinstance(m, ToolMessage)]
    assert [m.is_error for m in found] == [False, *[True] * 7, False]
    assert [m.text for m in found[:5]] == [
        "3",
        "ValueError: no luck",
        "Ask again tomorrow.",
        "Mute: (its text could not be read: ZeroDivisionError)",
        "give_object ran, but returned a value of type object. It should return text, numbers,"
        " lists, dicts, dataclasses, pydantic models or content parts.",
    ]
    assert 'There is no tool "ad". Did you mean "add"?' in found[5].text
    assert "/a" in found[6].text
    assert "are not JSON" in found[7].text
    assert found[8].text == "7"
    assert result.status is Status.FINISHED


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("is_async", [False, True])
def test_interrupted_batch_keeps_its_results_and_leaves_the_rest_pending(
    way: Way, error: type[BaseException], is_async: bool
) -> None:
    first_is_done = threading.Event()

    def first() -> str:
        first_is_done.set()
        return "first"

    async def first_async() -> str:
        return first()

    def interrupt() -> NoReturn:
        first_is_done.wait(20)
        raise error

    async def interrupt_async() -> NoReturn:
        while not first_is_done.is_set():
            await checkpoint()
        raise error

    conversation = Conversation()
    tools = [
        local("first", first_async),
        local("interrupt", interrupt_async if is_async else interrupt),
    ]

    with pytest.raises(error):
        way.run(calling("first", "interrupt"), prompt="Go.", conversation=conversation, tools=tools)

    assert results(conversation) == {"call_1": "first"}
    assert open_names(conversation) == ["interrupt"]
    ran: list[str] = []
    again = [local(name, lambda: ran.append("ran")) for name in ("first", "interrupt")]
    result = way.run("Done.", conversation=stored(conversation), tools=again)
    assert ran == ["ran"]
    assert said(result.messages) == ["done (no value)", "Done."]


def test_interrupted_blocking_batch_does_not_start_the_rest_and_knows_which_had_begun() -> None:
    ran: list[str] = []

    def interrupt() -> NoReturn:
        raise KeyboardInterrupt

    tools = [
        local("a", lambda: ran.append("a")),
        local("b", interrupt),
        local("c", lambda: ran.append("c")),
    ]
    conversation = Conversation()
    with pytest.raises(KeyboardInterrupt):
        Agent(ScriptedTransport(calling("a", "b", "c")), tools=tools).run(
            "Go.", conversation=conversation
        )

    assert ran == ["a"]
    assert open_names(conversation) == ["b", "c"]

    conversation.close_open_calls("Ctrl-C")
    outcomes = [m.outcome for m in conversation.messages if isinstance(m, ToolMessage)]
    assert outcomes == ["value", "cancelled", "not_run"]


@pytest.mark.parametrize("names", [["let_through"], ["first", "let_through"]])
def test_cancellation_that_a_tool_lets_through_is_its_own_failure(names: list[str]) -> None:
    async def let_through() -> None:
        other = asyncio.ensure_future(asyncio.Event().wait())
        other.cancel()
        await other

    async def first() -> str:
        return "first"

    conversation = Conversation()
    tools = [local("first", first), local("let_through", let_through)]
    agent = AsyncAgent(AsyncScriptedTransport(calling(*names), "Done."), tools=tools)

    result = asyncio.run(agent.run("Go.", conversation=conversation))

    assert said(result.messages)[-2:] == [
        "CancelledError: it was stopped, and not by its run.",
        "Done.",
    ]
