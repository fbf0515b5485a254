"""Tools that are async generators report to the stream; their last value is their result."""

from collections.abc import AsyncIterator

import anyio
import pytest

from pathors_agent import ToolProgressDelta
from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.messages import Message, ToolMessage
from pathors_agent.testing import AsyncScriptedTransport, Entry, ScriptedTransport, calls
from pathors_agent.tools.tool import tool
from pathors_agent.wire.deltas import Delta

pytestmark = pytest.mark.anyio

ENDED: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ended() -> None:
    ENDED.clear()


@tool
async def count(to: int) -> AsyncIterator[int]:
    """Count to a number, telling each."""
    try:
        for number in range(1, to + 1):
            await anyio.lowlevel.checkpoint()
            yield number
    finally:
        ENDED.append("count")


@tool
async def count_for_ever() -> AsyncIterator[int]:
    """Count, and never stop."""
    number = 0
    try:
        while True:
            await anyio.lowlevel.checkpoint()
            yield (number := number + 1)
    finally:
        ENDED.append("count_for_ever")


@tool
async def fail_half_way() -> AsyncIterator[str]:
    """Say something, say something else, fail."""
    yield "one"
    yield "two"
    raise ValueError("no three")


@tool
def plain(text: str) -> str:
    """Give a text back."""
    return text


def agent(*script: Entry) -> AsyncAgent:
    return AsyncAgent(
        AsyncScriptedTransport(*script), tools=[count, count_for_ever, fail_half_way, plain]
    )


async def items_of(*script: Entry) -> list[Delta | Message]:
    async with agent(*script).stream("Go.") as stream:
        return [item async for item in stream]


def reports(items: list[Delta | Message]) -> list[object]:
    return [item.value for item in items if isinstance(item, ToolProgressDelta)]


def results(items: list[Delta | Message]) -> list[str]:
    return [item.text for item in items if isinstance(item, ToolMessage)]


async def test_values_but_the_last_are_reported_before_the_result() -> None:
    items = await items_of(calls(("count", {"to": 4})), "Done.")

    assert reports(items) == [1, 2, 3]
    assert results(items) == ["4"]
    kinds = [type(item) for item in items]
    assert kinds.index(ToolMessage) > len(kinds) - 1 - kinds[::-1].index(ToolProgressDelta)


async def test_report_names_its_call() -> None:
    items = await items_of(calls(("count", {"to": 2})), "Done.")

    [report] = [item for item in items if isinstance(item, ToolProgressDelta)]
    assert (report.call.name, report.call.arguments) == ("count", '{"to": 2}')
    assert "value=<int>" in repr(report)


async def test_generator_without_a_value_has_none_for_its_result() -> None:
    items = await items_of(calls(("count", {"to": 0})), "Done.")

    assert reports(items) == []
    assert results(items) == ["done (no value)"]


async def test_failure_is_the_result_and_earlier_reports_are_kept() -> None:
    items = await items_of(calls(("fail_half_way", {})), "Done.")

    assert reports(items) == ["one"]
    assert results(items) == ["ValueError: no three"]


async def test_reports_of_a_batch_arrive_while_it_runs_and_results_are_in_call_order() -> None:
    batch = calls(("count", {"to": 3}), ("plain", {"text": "p"}), ("count", {"to": 2}))

    items = await items_of(batch, "Done.")

    assert sorted(map(str, reports(items))) == ["1", "1", "2"]
    assert results(items) == ["3", "p", "2"]


async def test_reports_are_no_history() -> None:
    result = await agent(calls(("count", {"to": 3})), "Done.").run("Go.")

    assert [m.role for m in result.messages] == ["user", "assistant", "tool", "assistant"]


async def test_leaving_the_stream_ends_the_tool_and_leaves_its_call_pending() -> None:
    conversation = Conversation()
    async with agent(calls(("count_for_ever", {}))).stream(
        "Go.", conversation=conversation
    ) as stream:
        async for item in stream:
            if isinstance(item, ToolProgressDelta) and item.value == 40:
                break

    assert ENDED == ["count_for_ever"]
    assert [call.name for call in conversation.open_calls] == ["count_for_ever"]


async def test_cancelling_the_run_ends_the_tool() -> None:
    conversation = Conversation()
    with anyio.CancelScope() as scope:
        async with agent(calls(("count_for_ever", {}))).stream(
            "Go.", conversation=conversation
        ) as stream:
            async for item in stream:
                if isinstance(item, ToolProgressDelta):
                    scope.cancel()

    assert scope.cancelled_caught
    assert ENDED == ["count_for_ever"]
    assert len(conversation.open_calls) == 1


async def test_tool_that_reports_is_stopped_at_its_time() -> None:
    @tool(timeout=0.1)
    async def slow() -> AsyncIterator[str]:
        """Say something and hang."""
        yield "begun"
        yield "still here"
        await anyio.sleep_forever()

    transport = AsyncScriptedTransport(calls(("slow", {})), "Done.")
    async with AsyncAgent(transport, tools=[slow]).stream("Go.") as stream:
        items = [item async for item in stream]

    assert reports(items) == ["begun"]
    [message] = [item for item in items if isinstance(item, ToolMessage)]
    assert message.outcome == "timeout"


# - blocking code


def blocking(*script: Entry, limits: Limits | None = None) -> Agent:
    return Agent(
        ScriptedTransport(*script),
        tools=[count, count_for_ever, fail_half_way, say_and_hang],
        limits=limits,
    )


@tool
async def say_and_hang() -> AsyncIterator[str]:
    """Say something and hang."""
    yield "begun"
    yield "still here"
    await anyio.sleep_forever()


def test_blocking_agent_reports_before_the_result() -> None:
    batch = calls(("count", {"to": 4}), ("fail_half_way", {}))
    with blocking(batch, "Done.").stream("Go.") as stream:
        items = list(stream)

    assert reports(items) == [1, 2, 3, "one"]
    assert results(items) == ["4", "ValueError: no three"]
    kinds = [type(item) for item in items]
    assert kinds.index(ToolMessage) == kinds.index(ToolProgressDelta) + 3


def test_blocking_agent_reports_while_the_tool_runs() -> None:
    conversation = Conversation()
    with blocking(calls(("count_for_ever", {}))).stream("Go.", conversation=conversation) as stream:
        for item in stream:
            if isinstance(item, ToolProgressDelta) and item.value == 40:
                break

    assert ENDED == ["count_for_ever"]
    assert [call.name for call in conversation.open_calls] == ["count_for_ever"]


@pytest.mark.parametrize("limits", [Limits(tool_seconds=0.1), Limits(seconds=0.1)])
def test_tool_of_blocking_code_that_reports_is_stopped_at_its_time(limits: Limits) -> None:
    with blocking(calls(("say_and_hang", {})), "Done.", limits=limits).stream("Go.") as stream:
        items = list(stream)

    assert reports(items) == ["begun"]
    [message] = [item for item in items if isinstance(item, ToolMessage)]
    assert message.outcome == "timeout"


def test_blocking_run_returns_only_the_last_value() -> None:
    result = blocking(calls(("count", {"to": 3})), "Done.").run("Go.")

    assert [m.role for m in result.messages] == ["user", "assistant", "tool", "assistant"]
    assert result.messages[2].text == "3"
