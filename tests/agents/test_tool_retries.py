"""A failed call of an idempotent tool runs again as its policy allows, in every kind of run."""

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pathors_agent import Agent, AsyncAgent, Limits, Retry, Tool, ToolError, ToolMessage, tool
from pathors_agent.agents.result import RunResult
from pathors_agent.errors import InvalidSetting, ToolDefinitionError
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, calls
from ways import WAYS, Way

AT_ONCE = Retry(attempts=3, backoff=0)
# Never waited for when all is well.
HOUR = Retry(attempts=2, backoff=3600, max_wait=3600)
IN_AN_HOUR = Limits(seconds=3599)


def look(outcomes: list[object], *, is_async: bool, **options: Any) -> Tool:
    """Build a tool whose calls raise or return what a list holds, one after another."""

    def take() -> object:
        outcome = outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def take_async() -> object:
        return take()

    function = take_async if is_async else take
    return Tool(name="look", function=function, idempotent=True, **options)


def result(run: RunResult[Any]) -> ToolMessage:
    [message] = [m for m in run.messages if isinstance(m, ToolMessage)]
    return message


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("outcomes", "left", "content"),
    [
        (["fine"], 0, "fine"),
        ([OSError("away"), "fine"], 0, "fine"),
        ([OSError("away"), ValueError("odd"), "fine"], 0, "fine"),
        ([OSError("1"), OSError("2"), OSError("3"), "never"], 1, "OSError: 3"),
        ([ToolError("no such city"), "never"], 1, "no such city"),
    ],
    ids=["first", "second", "third", "never", "answer"],
)
def test_call_runs_until_it_succeeds_or_the_attempts_are_used_up(
    way: str, outcomes: list[object], left: int, content: str, is_async: bool
) -> None:
    mine = list(outcomes)
    tools = [look(mine, is_async=is_async, retries=AT_ONCE)]

    run = Way(way).run(calls(("look", {})), "done", prompt="go", tools=tools)

    assert (result(run).content, len(mine), run.output) == (content, left, "done")


@pytest.mark.parametrize("on", [OSError, (KeyError, OSError)], ids=["class", "tuple"])
def test_only_the_named_exceptions_are_retried(on: Any) -> None:
    outcomes: list[object] = [ConnectionError("away"), ValueError("odd"), "never"]
    tools = [look(outcomes, is_async=False, retries=Retry(backoff=0, on=on))]

    run = Way("blocking").run(calls(("look", {})), "done", prompt="go", tools=tools)

    assert (result(run).content, outcomes) == ("ValueError: odd", ["never"])


@pytest.mark.parametrize("way", WAYS)
def test_call_that_is_not_finished_in_time_is_retried(way: str) -> None:
    begun: list[int] = []
    go = threading.Event()

    @tool(idempotent=True, retries=AT_ONCE, timeout=0.01)
    def hang_once() -> str:
        begun.append(1)
        if len(begun) == 1:
            go.wait()
        return "fine"

    run = Way(way).run(calls(("hang_once", {})), "done", prompt="go", tools=[hang_once])
    go.set()

    assert result(run).content == "fine"


def test_model_sees_one_result_and_the_log_every_retry(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pathors_agent")
    outcomes: list[object] = [OSError("away"), "fine"]
    tools = [look(outcomes, is_async=True, retries=AT_ONCE)]

    Way("asyncio").run(calls(("look", {})), "done", prompt="go", tools=tools)

    [line] = [t for t in map(_text, caplog.records) if t.startswith("tool_retried")]
    assert "attempt=1" in line
    assert "error='OSError'" in line
    assert "away" not in line


def _text(record: Any) -> str:
    return str(record.getMessage())


@pytest.mark.parametrize("way", WAYS)
def test_no_wait_exceeds_the_time_of_the_run(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # tenacity's random number is the whole wait: an hour.
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    tools = [look([OSError("away"), "never"], is_async=True, retries=HOUR)]
    run = Way(way).run(calls(("look", {})), "done", prompt="go", tools=tools, limits=IN_AN_HOUR)

    assert (result(run).content, run.output) == ("OSError: away", "done")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancelling_the_run_ends_the_wait() -> None:
    failed = asyncio.Event()

    @tool(idempotent=True, retries=HOUR)
    async def fail() -> str:
        failed.set()
        raise OSError("away")

    agent = AsyncAgent(AsyncScriptedTransport(calls(("fail", {})), "never"), tools=[fail])
    async with agent.stream("go") as stream:
        asyncio.get_running_loop().create_task(_cancel_after(failed, stream.cancel))
        async for _ in stream:
            pass

    assert stream.result.cancelled
    assert [call.name for call in stream.result.open_calls] == ["fail"]


async def _cancel_after(event: asyncio.Event, cancel: Callable[[], None]) -> None:
    await event.wait()
    cancel()


def test_cancelling_a_blocking_run_ends_the_wait() -> None:
    cancels: list[Callable[[], None]] = []

    @tool(idempotent=True, retries=HOUR)
    def fail() -> str:
        threading.Timer(0.01, cancels[0]).start()
        raise OSError("away")

    agent = Agent(ScriptedTransport(calls(("fail", {})), "never"), tools=[fail])
    with agent.stream("go") as stream:
        cancels.append(stream.cancel)
        for _ in stream:
            pass

    assert stream.result.cancelled
    assert [call.name for call in stream.result.open_calls] == ["fail"]


def test_only_a_tool_that_may_run_twice_takes_retries() -> None:
    with pytest.raises(ToolDefinitionError, match="idempotent=True"):

        @tool(retries=Retry())
        def pay() -> str:
            return "paid"

    with pytest.raises(ToolDefinitionError, match="with a function"):
        Tool(name="ask", idempotent=True, retries=Retry())
    with pytest.raises(ToolDefinitionError, match="must be a Retry"):
        Tool(name="look", function=print, idempotent=True, retries=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"attempts": 0},
        {"attempts": 101},
        {"attempts": 2.5},
        {"attempts": True},
        {"backoff": -1},
        {"backoff": math.nan},
        {"backoff": math.inf},
        {"max_wait": 3601},
        {"on": (KeyboardInterrupt,)},
        {"on": OSError("away")},
    ],
    ids=str,
)
def test_policy_outside_its_bounds_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match=r"^Retry: "):
        Retry(**fields)
