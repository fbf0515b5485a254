"""Hooks around tools, and at the end of a run."""

import threading
from datetime import date
from typing import Any, NoReturn

import anyio
import pytest
from anyio import to_thread

from hook_kinds import Around, hook
from hooked_agents import ADDING, Steps, add, noting, results
from pathors_agent import Budget, ToolContext
from pathors_agent.agents import ModelContext, ModelRequest
from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import Status
from pathors_agent.errors import LimitReached, ProviderError, ToolError
from pathors_agent.messages import ToolCall, ToolMessage
from pathors_agent.testing import (
    AsyncScriptedTransport,
    Entry,
    ScriptedTransport,
    answer,
    calls,
    http_error,
)
from pathors_agent.tools.tool import tool
from pathors_agent.wire.deltas import ToolProgressDelta
from ways import Way

# - tools -


@tool
def book(day: date, seats: int = 1) -> str:
    """Book seats."""
    return f"{seats} on {day}"


def test_arguments_are_checked_and_converted_before_the_hook(way: Way) -> None:
    seen: list[dict[str, Any]] = []

    def look(call: ToolCall, arguments: dict[str, Any], context: ToolContext) -> Steps:
        seen.append(arguments)
        return (yield arguments)

    result = way.run(
        calls(("book", {"day": "soon"}), ("book", {"day": "2026-11-28"}), ("nothing", {})),
        "Done.",
        prompt="?",
        tools=[book],
        hooks=[hook(way.name, tool=look)],
    )

    assert seen == [{"day": date(2026, 11, 28)}]
    assert [outcome for outcome, _ in results(result.messages)] == ["error", "value", "error"]


def test_changed_arguments_and_results_take_their_place(way: Way) -> None:
    def change(call: ToolCall, arguments: dict[str, Any], context: ToolContext) -> Steps:
        message = yield {**arguments, "seats": 9}
        return message.model_copy(update={"content": f"<{message.text}>"})

    result = way.run(
        calls(("book", {"day": "2026-11-28"})),
        "Done.",
        prompt="?",
        tools=[book],
        hooks=[hook(way.name, tool=change)],
    )

    assert results(result.messages) == [("value", "<9 on 2026-11-28>")]


def test_hook_cannot_change_the_arguments_of_others(way: Way) -> None:
    def spoil(call: ToolCall, arguments: dict[str, Any], context: ToolContext) -> Steps:
        given = dict(arguments)
        arguments.clear()
        return (yield given)

    log: list[str] = []
    hooks = [hook(way.name, tool=spoil), hook(way.name, tool=noting("inner", log)["tool"])]
    way.run(ADDING, "Done.", prompt="?", tools=[add], hooks=hooks)

    assert log == ["inner add {'a': 1, 'b': 2}", "inner add 3"]


KEPT = ToolMessage(tool_call_id="another", content="7")


@pytest.mark.parametrize(
    ("value", "text"), [("seven", "seven"), ({"sum": 7}, '{"sum":7}'), (KEPT, "7")]
)
def test_value_of_a_hook_takes_the_place_of_the_tool(way: Way, value: object, text: str) -> None:
    def know(call: ToolCall, arguments: dict[str, Any], context: ToolContext) -> Steps:
        return value
        yield

    around = hook(way.name, tool=know)
    result = way.run(ADDING, "Done.", prompt="?", tools=[fail], hooks=[around])

    assert results(result.messages) == [("value", text)]


@tool(name="add")
def fail(a: int, b: int) -> NoReturn:
    """Fail."""
    raise AssertionError


def test_model_and_outer_hooks_read_the_tool_error_of_a_hook(way: Way) -> None:
    def refuse(call: ToolCall, arguments: dict[str, Any], context: ToolContext) -> Steps:
        raise ToolError("Ask a manager first.", retryable=False)
        yield

    log: list[str] = []
    hooks = [hook(way.name, tool=noting("outer", log)["tool"]), hook(way.name, tool=refuse)]
    result = way.run(
        ADDING, calls(("add", {"a": 3, "b": 4})), "Done.", prompt="?", tools=[fail], hooks=hooks
    )

    assert results(result.messages) == [
        ("error", "Ask a manager first."),
        ("not_run", "Not run: add has failed for good; do without it."),
    ]
    assert log == ["outer add {'a': 1, 'b': 2}", "outer add Ask a manager first."]


def test_hook_may_run_a_tool_again(way: Way) -> None:
    runs: list[int] = []

    @tool
    def flaky() -> str:
        """Fail at first."""
        runs.append(1)
        if len(runs) < 3:
            raise ConnectionError("no route")
        return "there"

    def retry(call: ToolCall, arguments: dict[str, Any], context: ToolContext) -> Steps:
        for _ in range(5):
            message = yield arguments
            if message.outcome != "error":
                break
        return message

    around = hook(way.name, tool=retry)
    result = way.run(calls(("flaky", {})), "Done.", prompt="?", tools=[flaky], hooks=[around])

    assert results(result.messages) == [("value", "there")]
    assert len(runs) == 3


def test_context_of_a_tool_stays_its_own(way: Way) -> None:
    @tool
    def whose(context: ToolContext[str], shout: bool = False) -> str:
        """Say whose run this is."""
        return context.context.upper() if shout else context.context

    def shout(call: ToolCall, arguments: dict[str, Any], context: ToolContext) -> Steps:
        assert arguments == {}
        return (yield {"shout": True})

    result = way.run(
        calls(("whose", {})),
        "Done.",
        prompt="?",
        context="ada",
        tools=[whose],
        hooks=[hook(way.name, tool=shout)],
    )

    assert results(result.messages) == [("value", "ADA")]


def test_progress_of_a_tool_inside_a_hook_reaches_the_reader_at_once(way: Way) -> None:
    told = threading.Event()

    @tool
    async def report() -> Any:
        """Report, and wait until the report was read."""
        yield "begun"
        yield "half"  # a value is a report once another one follows
        await to_thread.run_sync(told.wait, 60)
        yield "all"

    def note(count: int, stream: object) -> None:
        if any(isinstance(item, ToolProgressDelta) for item in way.items):
            told.set()

    log: list[str] = []
    around = hook(way.name, tool=noting("hook", log)["tool"])
    script: list[Entry] = [calls(("report", {})), "Done."]
    result = way.stream(*script, prompt="?", tools=[report], hooks=[around], act=note)

    assert [i.value for i in way.items if isinstance(i, ToolProgressDelta)] == ["begun", "half"]
    assert results(result.messages) == [("value", "all")]
    assert log == ["hook report {}", "hook report all"]


# - the end of a run -


def stop_model(call: ModelContext, request: ModelRequest) -> Steps:
    if call.key == "model/1":
        raise LimitReached("review")
    return (yield request)


def stop_tool(call: ToolCall, arguments: dict[str, Any], context: ToolContext) -> Steps:
    raise LimitReached("review")
    yield


@pytest.mark.parametrize("reading", ["run", "stream"])
@pytest.mark.parametrize(
    "around", [{"model": stop_model}, {"tool": stop_tool}], ids=["model", "tool"]
)
def test_limit_of_a_hook_ends_the_run_as_limits_do(
    way: Way, reading: str, around: dict[str, Around]
) -> None:
    conversation = Conversation()
    script: list[Entry] = [ADDING, "Three."]

    stopped = getattr(way, reading)(
        *script,
        prompt="?",
        conversation=conversation,
        tools=[add],
        hooks=[hook(way.name, **around)],
    )

    assert (stopped.status, stopped.limit) == (Status.LIMIT_REACHED, "review")
    result = way.run(*script[1:], conversation=conversation, tools=[add])
    assert result.output == "Three."
    assert results(conversation.messages) == [("value", "3")]


class Broken(Exception):
    pass


def break_model(call: ModelContext, request: ModelRequest) -> Steps:
    raise Broken
    yield


def break_tool(call: ToolCall, arguments: dict[str, Any], context: ToolContext) -> Steps:
    raise Broken
    yield


@pytest.mark.parametrize("reading", ["run", "stream"])
@pytest.mark.parametrize(
    ("around", "length"),
    [({"model": break_model}, 1), ({"tool": break_tool}, 2)],
    ids=["model", "tool"],
)
def test_other_error_of_a_hook_reaches_the_caller_and_the_call_is_pending(
    way: Way, reading: str, around: dict[str, Around], length: int
) -> None:
    conversation = Conversation()

    with pytest.raises(Broken):
        getattr(way, reading)(
            ADDING,
            prompt="?",
            conversation=conversation,
            tools=[add],
            hooks=[hook(way.name, **around)],
        )

    assert len(conversation) == length
    assert way.run("Done.", conversation=conversation, tools=[add]).output == "Done."


def test_error_of_next_reaches_the_caller_through_the_hook(way: Way) -> None:
    log: list[str] = []
    hooks = [hook(way.name, model=noting("hook", log)["model"])]

    with pytest.raises(ProviderError) as raised:
        way.stream(http_error(400, "Bad."), prompt="Go.", hooks=hooks)

    assert [m.text for m in raised.value.messages] == ["Go."]
    assert log == ["hook model/0"]


def test_run_is_cancelled_while_a_blocking_hook_waits() -> None:
    waits, end = threading.Event(), threading.Event()

    class Wait:
        def around_model(self, call: ModelContext, request: ModelRequest, next_: Any) -> Any:
            waits.set()
            end.wait(60)
            return next_(request)

    agent = Agent(ScriptedTransport("Never."), hooks=[Wait()])
    with agent.stream("Go.") as stream:

        def cancel() -> None:
            waits.wait(60)
            stream.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        items = [*stream]
        canceller.join(60)
    end.set()

    assert items == []
    assert stream.result.cancelled
    assert [m.text for m in stream.result.conversation.messages] == ["Go."]


@pytest.mark.parametrize("method", ["around_model", "around_tool"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_run_is_cancelled_while_an_async_hook_waits(backend: str, method: str) -> None:
    ended: list[str] = []

    async def main() -> Any:
        waits = anyio.Event()

        async def around(self: object, *given: Any) -> Any:
            waits.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(method)

        hooks: list[Any] = [type("Wait", (), {method: around})()]
        agent = AsyncAgent(AsyncScriptedTransport(ADDING), tools=[add], hooks=hooks)
        async with agent.stream("Go.") as stream, anyio.create_task_group() as tasks:

            async def cancel() -> None:
                await waits.wait()
                stream.cancel()

            tasks.start_soon(cancel)
            async for _ in stream:
                pass
        return stream.result

    result = anyio.run(main, backend=backend)

    assert ended == [method]
    assert result.cancelled


def test_reader_that_leaves_ends_the_hook(way: Way) -> None:
    ended: list[type[BaseException]] = []

    class Look:
        def around_model(self, call: ModelContext, request: ModelRequest, next_: Any) -> Any:
            try:
                return next_(request)
            except BaseException as error:
                ended.append(type(error))
                raise

    class AsyncLook:
        async def around_model(self, call: ModelContext, request: ModelRequest, next_: Any) -> Any:
            try:
                return await next_(request)
            except BaseException as error:
                ended.append(type(error))
                raise

    hooks: list[Any] = [Look() if way.name == "blocking" else AsyncLook()]
    result = way.stream(answer("word " * 100), prompt="?", hooks=hooks, stop_after=1, cut=100)

    assert len(ended) == 1
    assert not issubclass(ended[0], Exception)
    assert result.status is Status.RUNNING


def test_time_of_the_run_ends_a_waiting_hook(way: Way) -> None:
    end = threading.Event()

    class Wait:
        def around_model(self, call: ModelContext, request: ModelRequest, next_: Any) -> Any:
            end.wait(60)

    class AsyncWait:
        async def around_model(self, call: ModelContext, request: ModelRequest, next_: Any) -> Any:
            await anyio.sleep_forever()

    hooks: list[Any] = [Wait() if way.name == "blocking" else AsyncWait()]
    result = way.stream("?", prompt="Go.", hooks=hooks, limits=Limits(seconds=0.01))
    end.set()

    assert (result.status, result.limit) == (Status.LIMIT_REACHED, "seconds")


def test_run_that_a_tool_hook_starts_is_charged_to_the_budget_of_the_run(way: Way) -> None:
    budget = Budget(calls=10)

    def asked(call: Any, arguments: Any, context: Any) -> Any:
        Agent(ScriptedTransport("It is allowed.")).run("May it be done?")
        return (yield arguments)

    way.run(
        ADDING,
        "3.",
        prompt="1 + 2?",
        tools=[add],
        hooks=[hook(way.name, tool=asked)],
        budget=budget,
    )

    assert budget.spent["calls"] == 3
