"""Tools that are async generators report to the stream; their last value is their result."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from pathors_agent import ToolProgressDelta
from pathors_agent.agents.agent import AsyncAgent
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.messages import JSONValue, ToolMessage
from pathors_agent.testing import AsyncScriptedTransport, Entry, calls
from pathors_agent.tools.tool import tool
from ways import Way

ENDED: list[str] = []

Call = tuple[str, dict[str, JSONValue]]


@pytest.fixture(autouse=True)
def _nothing_ended() -> None:
    ENDED.clear()


@tool
async def count(to: int) -> AsyncIterator[int]:
    """Count to a number, telling each."""
    for number in range(1, to + 1):
        await anyio.lowlevel.checkpoint()
        yield number


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


@tool
async def say_and_hang() -> AsyncIterator[str]:
    """Say something and hang."""
    yield "begun"
    yield "still here"
    await anyio.sleep_forever()


TOOLS: list[Any] = [count, count_for_ever, fail_half_way, plain, say_and_hang]


def streamed(way: Way, *batch: Call) -> tuple[list[object], list[str]]:
    """Run a batch of calls; return what was reported, and the results."""
    way.stream(calls(*batch), "Done.", prompt="Go.", tools=TOOLS)
    results = [item.text for item in way.items if isinstance(item, ToolMessage)]
    return reports(way), results


def reports(way: Way) -> list[object]:
    return [item.value for item in way.items if isinstance(item, ToolProgressDelta)]


@pytest.mark.parametrize(
    ("call", "reported", "result"),
    [
        (("count", {"to": 4}), [1, 2, 3], "4"),
        (("count", {"to": 0}), [], "done (no value)"),
        (("fail_half_way", {}), ["one"], "ValueError: no three"),
    ],
    ids=["values", "no value", "failure"],
)
def test_values_but_the_last_are_reported_before_the_result(
    way: Way, call: Call, reported: list[object], result: str
) -> None:
    assert streamed(way, call) == (reported, [result])

    kinds = [type(item) for item in way.items]
    assert kinds[kinds.index(ToolMessage) :].count(ToolProgressDelta) == 0


def test_report_names_its_call(way: Way) -> None:
    streamed(way, ("count", {"to": 2}))

    [report] = [item for item in way.items if isinstance(item, ToolProgressDelta)]
    assert (report.call.name, report.call.arguments) == ("count", '{"to": 2}')
    assert "value=<int>" in repr(report)


def test_reports_of_a_batch_precede_its_results_which_are_in_call_order(way: Way) -> None:
    batch: list[Call] = [("count", {"to": 3}), ("plain", {"text": "p"}), ("count", {"to": 2})]
    reported, results = streamed(way, *batch)

    assert sorted(map(str, reported)) == ["1", "1", "2"]
    assert results == ["3", "p", "2"]


def test_reports_are_no_history(way: Way) -> None:
    result = way.run(calls(("count", {"to": 3})), "Done.", prompt="Go.", tools=TOOLS)

    assert [m.role for m in result.messages] == ["user", "assistant", "tool", "assistant"]
    assert result.messages[2].text == "3"


def test_leaving_the_stream_ends_the_tool_and_leaves_its_call_pending(way: Way) -> None:
    conversation = Conversation()
    script: Entry = calls(("count_for_ever", {}))

    # Two deltas and the message of the call precede the reports.
    way.stream(script, prompt="Go.", conversation=conversation, tools=TOOLS, stop_after=43)

    assert reports(way)[-1] == 40
    assert ENDED == ["count_for_ever"]
    assert [call.name for call in conversation.open_calls] == ["count_for_ever"]


@pytest.mark.anyio
async def test_cancelling_the_run_ends_the_tool() -> None:
    conversation = Conversation()
    agent = AsyncAgent(AsyncScriptedTransport(calls(("count_for_ever", {}))), tools=TOOLS)
    with anyio.CancelScope() as scope:
        async with agent.stream("Go.", conversation=conversation) as stream:
            async for item in stream:
                if isinstance(item, ToolProgressDelta):
                    scope.cancel()

    assert scope.cancelled_caught
    assert ENDED == ["count_for_ever"]
    assert len(conversation.open_calls) == 1


@pytest.mark.parametrize("limits", [Limits(tool_seconds=0.1), Limits(seconds=0.1)])
def test_tool_that_reports_is_stopped_at_its_time(way: Way, limits: Limits) -> None:
    way.stream(calls(("say_and_hang", {})), "Done.", prompt="Go.", tools=TOOLS, limits=limits)

    assert reports(way) == ["begun"]
    [message] = [item for item in way.items if isinstance(item, ToolMessage)]
    assert message.outcome == "timeout"
