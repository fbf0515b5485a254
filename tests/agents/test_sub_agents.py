"""An agent as a tool: its answer, its progress, its tokens, its context and its cancellation."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from pathors_agent import AsyncAgent, Limits, TextDelta, ToolContext, ToolMessage, tool
from pathors_agent.agents.result import RunResult
from pathors_agent.testing import AsyncScriptedTransport, calls
from pathors_agent.wire.deltas import ToolProgressDelta
from ways import WAYS, Way

ASK = calls(("writer", {"prompt": "a poem"}))


def writer(*script: Any, **settings: Any) -> AsyncAgent[Any]:
    return AsyncAgent(AsyncScriptedTransport(*script), **settings)


def result(run: RunResult[Any]) -> ToolMessage:
    [message] = [m for m in run.messages if isinstance(m, ToolMessage)]
    return message


@pytest.mark.parametrize("way", WAYS)
def test_answer_of_the_agent_is_the_result_and_its_tokens_count(way: str) -> None:
    inner = writer("roses are red")
    alone = Way("asyncio").run("roses are red", prompt="a poem").usage
    outer = Way(way)
    run = outer.run(ASK, "done", prompt="go", tools=[inner.as_tool("writer", "Writes.")])

    assert (result(run).content, run.output) == ("roses are red", "done")
    assert isinstance(inner.transport, AsyncScriptedTransport)
    assert inner.transport.requests[0]["messages"] == [{"role": "user", "content": "a poem"}]
    [sent] = outer.requests[0]["tools"]
    assert sent["function"]["description"] == "Writes."
    assert list(sent["function"]["parameters"]["properties"]) == ["prompt"]
    assert run.spent == (alone,)


@pytest.mark.parametrize("way", WAYS)
def test_deltas_and_messages_of_the_agent_are_progress(way: str) -> None:
    outer = Way(way)
    tools = [writer("roses").as_tool("writer", "Writes.")]
    outer.stream(ASK, "done", prompt="go", tools=tools)

    progress = [item.value for item in outer.items if isinstance(item, ToolProgressDelta)]
    said = "".join(each.text for each in progress if isinstance(each, TextDelta))
    roles = [each.role for each in progress if hasattr(each, "role")]
    assert (said, roles) == ("roses", ["assistant"])


@pytest.mark.parametrize("way", WAYS)
def test_context_reaches_the_tools_of_agents_within_agents(way: str) -> None:
    seen: list[object] = []

    @tool
    async def look(context: ToolContext) -> str:
        seen.append(context.context)
        return "seen"

    inner = writer(calls(("look", {})), "inner", tools=[look])
    middle = writer(
        calls(("inner", {"prompt": "look"})), "middle", tools=[inner.as_tool("inner", "Looks.")]
    )
    tools = [middle.as_tool("writer", "Writes.")]
    run = Way(way).run(ASK, "done", prompt="go", tools=tools, context={"user": "ada"})

    assert seen == [{"user": "ada"}]
    assert result(run).content == "middle"


@pytest.mark.parametrize("way", WAYS)
def test_agent_without_an_answer_is_an_error_for_the_model(way: str) -> None:
    @tool(approve=True)
    async def pay() -> str:
        return "paid"

    held = writer(calls(("pay", {})), tools=[pay])
    limited = writer(
        calls(("pay", {})), tools=[tool(name="pay")(lambda: "paid")], limits=Limits(turns=1)
    )
    said = {}
    for name, agent in {"held": held, "limited": limited}.items():
        run = Way(way).run(ASK, "done", prompt="go", tools=[agent.as_tool("writer", "Writes.")])
        assert (result(run).outcome, run.output) == ("error", "done")
        said[name] = result(run).text

    assert said == {
        "held": "The agent has no answer: its calls of pay wait for a person.",
        "limited": "The agent has no answer: it reached its limit of turns.",
    }


@pytest.mark.parametrize("way", WAYS)
def test_cancelling_the_outer_run_cancels_the_agent(way: str) -> None:
    streams: list[Any] = []
    ended: list[str] = []

    @tool
    async def wait() -> str:
        streams[0].cancel()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")
        return "never"

    tools = [writer(calls(("wait", {})), "never", tools=[wait]).as_tool("writer", "Writes.")]

    def keep(_: int, stream: Any) -> None:
        streams.append(stream)

    run = Way(way).stream(ASK, "never", prompt="go", tools=tools, act=keep)

    assert (run.cancelled, ended) == (True, ["cancelled"])
    assert [call.name for call in run.open_calls] == ["writer"]


@pytest.mark.parametrize("way", WAYS)
def test_run_can_be_cancelled_between_two_reports_of_a_tool(way: str) -> None:
    @tool
    async def count() -> AsyncIterator[int]:
        for number in range(3):
            yield number
        await anyio.sleep_forever()
        yield 3

    outer = Way(way)

    def cancel_at_progress(_: int, stream: Any) -> None:
        if any(isinstance(item, ToolProgressDelta) for item in outer.items):
            stream.cancel()

    run = outer.stream(
        calls(("count", {})), "never", prompt="go", tools=[count], act=cancel_at_progress
    )

    assert run.cancelled


def test_calls_of_one_answer_run_agents_side_by_side() -> None:
    tools = [writer("one").as_tool("first", "1"), writer("two").as_tool("second", "2")]
    both = calls(("first", {"prompt": "x"}), ("second", {"prompt": "y"}))
    run = Way("asyncio").run(both, "done", prompt="go", tools=tools)

    assert [m.text for m in run.messages if isinstance(m, ToolMessage)] == ["one", "two"]
