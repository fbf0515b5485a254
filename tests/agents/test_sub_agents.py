"""An agent as a tool: its answer, its progress, its tokens, its context and its cancellation."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from driven_agents import stored
from pathors_agent import (
    Agent,
    AsyncAgent,
    Budget,
    Conversation,
    Limits,
    TextDelta,
    ToolContext,
    ToolMessage,
    Usage,
    dump_messages,
    load_messages,
    tool,
)
from pathors_agent.agents.result import RunResult
from pathors_agent.core.run import Status
from pathors_agent.errors import ConversationError
from pathors_agent.testing import (
    AsyncScriptedTransport,
    ScriptedTransport,
    answer,
    calls,
    http_error,
)
from pathors_agent.wire.deltas import ToolProgressDelta
from ways import WAYS, Way

ASK = calls(("writer", {"prompt": "a poem"}))


Writer = Callable[..., Any]


@pytest.fixture(params=["blocking", "async"])
def writer(request: pytest.FixtureRequest) -> Writer:
    """Build an inner agent of either kind."""

    def build(*script: Any, **settings: Any) -> Agent[Any] | AsyncAgent[Any]:
        if request.param == "blocking":
            return Agent(ScriptedTransport(*script), **settings)
        return AsyncAgent(AsyncScriptedTransport(*script), **settings)

    return build


def result(run: RunResult[Any]) -> ToolMessage:
    [message] = [m for m in run.messages if isinstance(m, ToolMessage)]
    return message


@pytest.mark.parametrize("way", WAYS)
def test_answer_of_the_agent_is_the_result_and_its_tokens_count(way: str, writer: Writer) -> None:
    inner = writer("roses are red")
    alone = Way("asyncio").run("roses are red", prompt="a poem").usage
    outer = Way(way)
    run = outer.run(ASK, "done", prompt="go", tools=[inner.as_tool("writer", "Writes.")])

    assert (result(run).content, run.output) == ("roses are red", "done")
    assert inner.transport.requests[0]["messages"] == [{"role": "user", "content": "a poem"}]
    [sent] = outer.requests[0]["tools"]
    assert sent["function"]["description"] == "Writes."
    assert list(sent["function"]["parameters"]["properties"]) == ["prompt"]
    assert run.spent == (alone,)


@pytest.mark.parametrize("way", WAYS)
def test_deltas_and_messages_of_the_agent_are_progress(way: str, writer: Writer) -> None:
    outer = Way(way)
    tools = [writer("roses").as_tool("writer", "Writes.")]
    outer.stream(ASK, "done", prompt="go", tools=tools)

    progress = [item.value for item in outer.items if isinstance(item, ToolProgressDelta)]
    said = "".join(each.text for each in progress if isinstance(each, TextDelta))
    roles = [each.role for each in progress if hasattr(each, "role")]
    assert (said, roles) == ("roses", ["assistant"])


@pytest.mark.parametrize("way", WAYS)
def test_context_reaches_the_tools_of_agents_within_agents(way: str, writer: Writer) -> None:
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
def test_agent_without_an_answer_is_an_error_for_the_model(way: str, writer: Writer) -> None:
    limited = writer(
        calls(("pay", {})), tools=[tool(name="pay")(lambda: "paid")], limits=Limits(turns=1)
    )
    run = Way(way).run(ASK, "done", prompt="go", tools=[limited.as_tool("writer", "Writes.")])

    assert (result(run).outcome, run.output) == ("error", "done")
    assert result(run).text == "The agent has no answer: it reached its limit of turns."
    assert [m.role for m in inner_messages(result(run))] == ["user", "assistant", "tool"]


@pytest.mark.parametrize("way", WAYS)
def test_failure_of_the_agents_endpoint_is_an_error_for_the_model(way: str, writer: Writer) -> None:
    failing = writer(http_error(400, "no such model"))
    run = Way(way).run(ASK, "done", prompt="go", tools=[failing.as_tool("writer", "Writes.")])

    assert (result(run).outcome, run.output) == ("error", "done")
    assert "no such model" in result(run).text


# - the history of the inner run -


def inner_messages(message: ToolMessage) -> list[Any]:
    run: Any = message.extra["run"]
    return load_messages(run)


@pytest.mark.parametrize("way", WAYS)
def test_result_keeps_the_run_of_the_agent_over_storage(way: str, writer: Writer) -> None:
    @tool
    def look() -> str:
        return "seen"

    inner = writer(calls(("look", {})), "roses", tools=[look])
    outer = Way(way)
    run = outer.run(ASK, "done", prompt="go", tools=[inner.as_tool("writer", "Writes.")])
    [stored] = [m for m in load_messages(dump_messages(run.messages)) if isinstance(m, ToolMessage)]

    assert [m.role for m in inner_messages(stored)] == ["user", "assistant", "tool", "assistant"]
    assert [m.text for m in inner_messages(stored)] == ["a poem", "", "seen", "roses"]
    assert "extra" not in outer.requests[1]["messages"][-1]


def test_transcript_shows_the_run_of_the_agent(writer: Writer) -> None:
    tools = [writer(calls(("note", {})), "roses", tools=[note]).as_tool("writer", "Writes.")]
    run = Way("asyncio").run(ASK, "done", prompt="go", tools=tools)

    assert run.transcript().splitlines()[1:] == [
        "user         go",
        'call         writer({"prompt": "a poem"})',
        "> user       a poem",
        "> call       note({})",
        "> result     noted",
        "> assistant  roses",
        "result       roses",
        "assistant    done",
    ]


def test_tokens_of_the_agent_count_to_the_limit_of_the_outer_run(writer: Writer) -> None:
    used = Usage(prompt_tokens=40, completion_tokens=60, total_tokens=100)
    inner = writer(answer("roses", usage=used))
    run = Way("asyncio").run(
        ASK,
        prompt="go",
        tools=[inner.as_tool("writer", "Writes.")],
        limits=Limits(total_tokens=100),
    )

    assert (run.status, run.limit) == (Status.LIMIT_REACHED, "total_tokens")
    again = Conversation(load_messages(dump_messages(run.conversation.messages)))
    resumed = Way("asyncio").run(conversation=again, limits=Limits(total_tokens=100))
    assert (resumed.status, resumed.limit) == (Status.LIMIT_REACHED, "total_tokens")


@pytest.mark.parametrize("way", WAYS)
def test_agent_stops_at_the_tokens_that_the_outer_run_has_left(way: str, writer: Writer) -> None:
    used = Usage(prompt_tokens=40, completion_tokens=60, total_tokens=100)
    inner = writer(answer("", calls=[("note", {})], usage=used), tools=[note])
    outer = answer("", calls=[("writer", {"prompt": "a poem"})], usage=used)
    run = Way(way).run(
        outer,
        prompt="go",
        tools=[inner.as_tool("writer", "Writes.")],
        limits=Limits(total_tokens=150),
    )

    assert result(run).text == "The agent has no answer: it reached its limit of total_tokens."
    assert (run.status, run.limit) == (Status.LIMIT_REACHED, "total_tokens")


@pytest.mark.parametrize("way", WAYS)
def test_budget_of_the_outer_run_is_that_of_the_agent(way: str, writer: Writer) -> None:
    inner = writer(calls(("note", {})), tools=[note])
    run = Way(way).run(
        ASK, prompt="go", tools=[inner.as_tool("writer", "Writes.")], budget=Budget(calls=2)
    )

    assert result(run).text == "The agent has no answer: it reached its limit of budget.calls."
    assert (run.status, run.limit) == (Status.LIMIT_REACHED, "budget.calls")


# - suspended runs -


def payment(paid: list[int]) -> Any:
    @tool(approve=True)
    async def pay(amount: int) -> str:
        paid.append(amount)
        return f"paid {amount}"

    return pay


@tool
def note() -> str:
    """Note."""
    return "noted"


CLIENT = {"type": "function", "function": {"name": "ask_user", "parameters": {"type": "object"}}}


@pytest.mark.parametrize("way", WAYS)
def test_run_waits_for_the_approval_of_its_sub_agent_and_continues_after_storage(
    way: str, writer: Writer
) -> None:
    paid: list[int] = []
    inner = writer(
        calls(("pay", {"amount": 5}), ("note", {})), "paid for", tools=[payment(paid), note]
    )
    tools = [inner.as_tool("writer", "Writes.")]

    first = Way(way).run(ASK, prompt="go", tools=tools)

    assert (first.status, paid) == (Status.SUSPENDED, [])
    assert [call.name for call in first.open_calls] == ["pay"]
    assert (result(first).outcome, result(first).text) == (
        "suspended",
        "Suspended: pay must be approved or answered.",
    )
    [approval] = first.approvals
    assert (approval.call.name, approval.call.arguments) == ("pay", '{"amount": 5}')

    again = stored(first.conversation)
    [approval] = Agent(ScriptedTransport(), tools=tools).approvals(again)
    second = Way(way).run("done", conversation=again, tools=tools, decisions=[approval.approve()])

    assert (second.status, second.output, paid) == (Status.FINISHED, "done", [5])
    assert [m.role for m in second.messages] == ["tool", "assistant"]
    assert [m.text for m in inner_messages(result(second))] == [
        "a poem",
        "",
        "paid 5",
        "noted",
        "paid for",
    ]
    assert [m.role for m in again.messages] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize("way", WAYS)
def test_denial_reaches_the_model_of_the_agent(way: str, writer: Writer) -> None:
    paid: list[int] = []
    inner = writer(calls(("pay", {"amount": 5})), "not paid", tools=[payment(paid)])
    tools = [inner.as_tool("writer", "Writes.")]
    first = Way(way).run(ASK, prompt="go", tools=tools)

    [approval] = first.approvals
    second = Way(way).run(
        "done", conversation=first.conversation, tools=tools, decisions=[approval.deny("too much")]
    )

    assert (second.output, result(second).text, paid) == ("done", "not paid", [])
    assert "too much" in inner.transport.requests[1]["messages"][-1]["content"]


@pytest.mark.parametrize("way", WAYS)
def test_agents_side_by_side_wait_for_decisions_of_their_own(way: str, writer: Writer) -> None:
    paid: list[int] = []
    script = (calls(("pay", {"amount": 5})), "paid for")
    tools = [
        writer(*script, tools=[payment(paid)]).as_tool("first", "1"),
        writer(*script, tools=[payment(paid)]).as_tool("second", "2"),
    ]
    both = calls(("first", {"prompt": "x"}), ("second", {"prompt": "y"}), ("note", {}))
    run = Way(way).run(both, prompt="go", tools=[*tools, note])

    assert len({approval.digest for approval in run.approvals}) == 2
    one, other = run.approvals
    run = Way(way).run(
        conversation=stored(run.conversation), tools=[*tools, note], decisions=[other.approve()]
    )
    assert (run.status, paid) == (Status.SUSPENDED, [5])
    assert run.approvals == (one,)
    run = Way(way).run(
        "done", conversation=stored(run.conversation), tools=[*tools, note], decisions=[one.deny()]
    )

    assert (run.output, paid) == ("done", [5])


@pytest.mark.parametrize("way", WAYS)
def test_nested_agents_wait_and_continue(way: str, writer: Writer) -> None:
    paid: list[int] = []
    innermost = writer(calls(("pay", {"amount": 5})), "paid for", tools=[payment(paid)])
    middle = writer(
        calls(("buyer", {"prompt": "buy"})), "bought", tools=[innermost.as_tool("buyer", "Buys.")]
    )
    tools = [middle.as_tool("writer", "Writes.")]
    first = Way(way).run(ASK, prompt="go", tools=tools)

    assert [call.name for call in first.open_calls] == ["pay"]
    [approval] = first.approvals
    second = Way(way).run(
        "done",
        conversation=stored(first.conversation),
        tools=tools,
        decisions=[approval.approve({"amount": 6})],
    )

    assert (second.output, result(second).text, paid) == ("done", "bought", [6])


@pytest.mark.parametrize("way", WAYS)
def test_run_waits_for_the_callers_result_within_its_agent(way: str, writer: Writer) -> None:
    inner = writer(
        calls(("ask_user", {}), ("ask_user", {"more": 1})), "two answers", tools=[CLIENT]
    )
    tools = [inner.as_tool("writer", "Writes.")]
    run = Way(way).run(ASK, prompt="go", tools=tools)
    conversation = stored(run.conversation)

    one, other = run.open_calls
    assert {one.name, other.name} == {"ask_user"}
    conversation.append(ToolMessage(tool_call_id=one.id, content="yes"))
    with pytest.raises(ConversationError):
        conversation.append(ToolMessage(tool_call_id=one.id, content="twice"))
    run = Way(way).run(conversation=stored(conversation), tools=tools)
    assert (run.status, run.open_calls) == (Status.SUSPENDED, (other,))

    run.conversation.append(ToolMessage(tool_call_id=other.id, content="no"))
    run = Way(way).run("done", conversation=stored(run.conversation), tools=tools)

    assert (run.output, result(run).text) == ("done", "two answers")
    assert [m["content"] for m in inner.transport.requests[1]["messages"][-2:]] == ["yes", "no"]


def test_new_prompt_closes_a_suspended_call_and_keeps_its_run(writer: Writer) -> None:
    inner = writer(calls(("pay", {"amount": 5})), tools=[payment([])])
    tools = [inner.as_tool("writer", "Writes.")]
    first = Way("asyncio").run(ASK, prompt="go", tools=tools)

    second = Way("asyncio").run(
        "Very well.", prompt="Never mind.", conversation=first.conversation, tools=tools
    )

    assert result(second).outcome == "cancelled"
    assert result(second).text.startswith("Interrupted: the user went on.")
    assert [m.role for m in inner_messages(result(second))] == ["user", "assistant"]


def test_suspended_run_that_is_not_answered_waits_on(writer: Writer) -> None:
    inner = writer(calls(("pay", {"amount": 5})), tools=[payment([])])
    tools = [inner.as_tool("writer", "Writes.")]
    first = Way("asyncio").run(ASK, prompt="go", tools=tools)

    second = Way("asyncio").run(conversation=stored(first.conversation), tools=tools)

    assert (second.status, second.messages) == (Status.SUSPENDED, ())
    assert [a.digest for a in second.approvals] == [a.digest for a in first.approvals]


@pytest.mark.parametrize("way", WAYS)
def test_cancelling_the_outer_run_cancels_the_agent(way: str, writer: Writer) -> None:
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


def test_calls_of_one_answer_run_agents_side_by_side(writer: Writer) -> None:
    tools = [writer("one").as_tool("first", "1"), writer("two").as_tool("second", "2")]
    both = calls(("first", {"prompt": "x"}), ("second", {"prompt": "y"}))
    run = Way("asyncio").run(both, "done", prompt="go", tools=tools)

    assert [m.text for m in run.messages if isinstance(m, ToolMessage)] == ["one", "two"]
