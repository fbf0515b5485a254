"""Tools that do not finish in time, and calls that are cancelled from outside."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from ctrl_c import CtrlC
from dispatched_calls import LONG, SHORT, Dispatch, Function, bound
from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.agents.perform.bound import call_tool, call_tool_async
from pathors_agent.agents.perform.tasks import MAX_HUNG_CALLS, FunctionCall, hung_calls
from pathors_agent.agents.perform.threads import thread_limit
from pathors_agent.agents.perform.tool_thread import ToolThread
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.errors import ToolError
from pathors_agent.messages import ToolMessage
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, calls
from pathors_agent.tools.tool import Tool

# - tools that are not finished in time

STOPPED = "Not finished after 0.3 s; it was stopped, and how far it came is not known."
LEFT = "Not finished after 0.3 s; it goes on by itself, and its result will not be known."


@pytest.mark.parametrize("limits", [{"timeout": SHORT}, {"seconds": SHORT}])
def test_async_tool_is_cancelled_when_its_time_is_over(
    dispatch: Dispatch, limits: dict[str, float]
) -> None:
    seen: list[type[BaseException]] = []

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            seen.append(type(error))
            raise

    message = dispatch(wait, **limits)

    assert message == ToolMessage(tool_call_id="call_1", content=STOPPED, outcome="timeout")
    assert [kind.__name__ for kind in seen] in (["CancelledError"], ["Cancelled"])


@pytest.mark.parametrize("seconds", [float("inf"), 1e12])
def test_timeout_may_be_longer_than_a_lock_can_wait(dispatch: Dispatch, seconds: float) -> None:
    assert dispatch(lambda: "seen", timeout=seconds).content == "seen"


def test_timeout_of_a_tool_wins_over_the_general_one(dispatch: Dispatch) -> None:
    async def pause() -> str:
        await anyio.sleep(0.05)
        return "seen"

    assert dispatch(pause, timeout=LONG, seconds=0.01).content == "seen"
    assert dispatch(pause, timeout=0.01, seconds=LONG).outcome == "timeout"


async def give_while_cancelled() -> str:
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        pass
    return "as far as it came"


async def tell_while_cancelled() -> None:
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        raise ToolError("Half of it is done.") from None


async def fail_while_cancelled() -> None:
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        raise OSError("closed") from None


@pytest.mark.parametrize(
    ("function", "outcome", "text"),
    [
        (give_while_cancelled, "value", "as far as it came"),
        (tell_while_cancelled, "error", "Half of it is done."),
        (fail_while_cancelled, "timeout", STOPPED),
    ],
)
def test_result_of_a_tool_during_its_cancellation_counts(
    dispatch: Dispatch, function: Function, outcome: str, text: str
) -> None:
    message = dispatch(function, timeout=SHORT)

    assert (message.outcome, message.text) == (outcome, text)


def test_timeout_error_of_a_tools_own_is_an_error(dispatch: Dispatch) -> None:
    async def give_up() -> None:
        with anyio.fail_after(0.01):
            await anyio.sleep_forever()

    assert dispatch(give_up, timeout=LONG).outcome == "error"


class Deaf:
    """Tools that go on until they may end, whatever they are told."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.ended: list[str] = []

    def block(self) -> str:
        assert self.may_end.wait(LONG)
        self.ended.append("block")
        return "late"

    async def wait(self) -> str:
        while not self.may_end.is_set():
            # asyncio cancels what is left on a loop that ends in a way that no scope keeps off.
            with anyio.CancelScope(shield=True), suppress(BaseException):
                await anyio.sleep(0.01)
        self.ended.append("wait")
        return "late"


@pytest.fixture
def deaf() -> Iterator[Deaf]:
    made = Deaf()
    yield made
    made.may_end.set()


def until_none_hangs(function: Function) -> None:
    """Wait until threads have noticed that their calls returned."""
    while hung_calls(function):
        os.sched_yield()


async def until_none_hangs_here(function: Function) -> None:
    while hung_calls(function):
        await anyio.lowlevel.checkpoint()


def test_sync_tool_is_left_when_its_time_is_over(dispatch: Dispatch, deaf: Deaf) -> None:
    message = dispatch(deaf.block, timeout=SHORT)

    assert message == ToolMessage(tool_call_id="call_1", content=LEFT, outcome="timeout")
    assert hung_calls(deaf.block) == 1
    assert deaf.ended == []
    deaf.may_end.set()
    until_none_hangs(deaf.block)
    assert deaf.ended == ["block"]


@pytest.mark.anyio
async def test_async_tool_that_ignores_its_cancellation_is_left_after_a_grace_time(
    deaf: Deaf,
) -> None:
    message = await call_tool_async(bound(deaf.wait, timeout=SHORT))

    assert (message.outcome, message.text) == ("timeout", LEFT)
    assert hung_calls(deaf.wait) == 1
    deaf.may_end.set()
    await until_none_hangs_here(deaf.wait)
    assert deaf.ended == ["wait"]


def test_blocking_code_does_not_wait_for_a_tool_that_ignores_its_cancellation(deaf: Deaf) -> None:
    loops: list[threading.Thread] = []

    async def wait() -> str:
        loops.append(threading.current_thread())
        return await deaf.wait()

    with ToolThread() as thread:
        message = call_tool(bound(wait, timeout=SHORT), thread)

    assert (message.outcome, message.text) == ("timeout", LEFT)
    assert loops[0].is_alive()
    deaf.may_end.set()
    loops[0].join(LONG)
    assert deaf.ended == ["wait"]
    assert not loops[0].is_alive()
    assert hung_calls(wait) == 0


def test_blocking_code_waits_for_a_tool_without_a_timeout_in_its_own_thread() -> None:
    with ToolThread() as thread:
        message = call_tool(bound(threading.get_ident), thread, seconds=0.000_001)

    assert message.content == str(threading.get_ident())


def test_tool_with_hung_calls_is_refused_until_one_returns(dispatch: Dispatch, deaf: Deaf) -> None:
    hung = [Deaf() for _ in range(MAX_HUNG_CALLS)]
    waiting = iter(hung)
    free = threading.Event()

    def look() -> str:
        if free.is_set():
            return "seen"
        return next(waiting).block()

    for _ in hung:
        assert dispatch(look, timeout=SHORT).outcome == "timeout"

    refused = dispatch(look, timeout=SHORT)
    other = dispatch(lambda: "other", timeout=LONG)
    free.set()
    hung[0].may_end.set()
    while hung_calls(look) == MAX_HUNG_CALLS:
        os.sched_yield()
    again = dispatch(look, timeout=LONG)
    for one in hung:
        one.may_end.set()

    assert (refused.outcome, refused.text) == (
        "not_run",
        "Not run: 4 calls of look were not finished in time and have not returned yet; do without "
        "it for now.",
    )
    assert other.content == "other"
    assert again.content == "seen"
    until_none_hangs(look)


def test_methods_of_two_objects_are_two_tools(dispatch: Dispatch) -> None:
    first, second = Deaf(), Deaf()

    dispatch(first.block, timeout=SHORT)

    assert hung_calls(first.block) == 1
    assert hung_calls(second.block) == 0
    first.may_end.set()


@pytest.mark.anyio
async def test_hung_thread_holds_no_place_of_the_pool(deaf: Deaf) -> None:
    message = await call_tool_async(bound(deaf.block, timeout=SHORT))

    assert message.outcome == "timeout"
    assert thread_limit().borrowed_tokens == 0
    assert thread_limit().total_tokens == 40


@pytest.mark.anyio
async def test_call_that_waits_for_a_place_is_not_begun_and_its_time_does_not_run() -> None:
    messages: list[ToolMessage] = []
    ran: list[str] = []

    async def call() -> None:
        messages.append(await call_tool_async(bound(lambda: ran.append("ran"), timeout=SHORT)))

    places = [object() for _ in range(40)]
    for place in places:
        thread_limit().acquire_on_behalf_of_nowait(place)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        with anyio.move_on_after(1.5 * SHORT):  # longer than the call may take
            await anyio.sleep_forever()
        assert ran == []
        for place in places:
            thread_limit().release_on_behalf_of(place)

    assert ran == ["ran"]
    assert messages[0].outcome == "value"


def test_call_whose_time_is_over_before_it_began_is_not_begun() -> None:
    ran: list[str] = []
    call = FunctionCall(lambda: ran.append("ran"), {})

    call.abandon()
    call.run()

    assert ran == []
    assert hung_calls(print) == 0


# - calls that are cancelled from outside


@pytest.mark.anyio
@pytest.mark.parametrize("limit", [None, LONG])
async def test_cancelled_async_tool_is_stopped_without_a_result(limit: float | None) -> None:
    waits = anyio.Event()
    left: list[str] = []
    results: list[ToolMessage] = []

    async def wait() -> None:
        try:
            waits.set()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            left.append("left")

    async def call() -> None:
        results.append(await call_tool_async(bound(wait, timeout=limit)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await waits.wait()
        tasks.cancel_scope.cancel()

    assert left == ["left"]
    assert results == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("function", "content"),
    [(give_while_cancelled, "as far as it came"), (fail_while_cancelled, "OSError: closed")],
)
async def test_value_of_a_cancelled_tool_is_kept(function: Function, content: str) -> None:
    results: list[ToolMessage] = []

    async def call() -> None:
        results.append(await call_tool_async(bound(function, timeout=LONG)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert [message.content for message in results] == [content]


async def interrupt_and_give() -> str:
    signal.raise_signal(signal.SIGINT)
    return await give_while_cancelled()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_interrupt_is_raised_and_the_value_of_the_tool_is_kept(backend: str) -> None:
    conversation = Conversation()
    tool = Tool(name="look", function=interrupt_and_give, timeout=LONG)
    agent = AsyncAgent(AsyncScriptedTransport(calls(("look", {}))), tools=[tool])

    with pytest.raises(KeyboardInterrupt):
        anyio.run(partial(agent.run, "Go.", conversation=conversation), backend=backend)

    assert conversation.messages[-1] == ToolMessage(
        tool_call_id="call_1", content="as far as it came"
    )
    assert conversation.open_calls == ()


def test_interrupt_of_a_thread_that_waits_for_a_tool_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        anyio.run(call_tool_async, bound(interrupt_and_give, timeout=LONG), backend="trio")


@pytest.mark.parametrize("kind", ["block", "wait"])
def test_interrupted_blocking_code_leaves_the_call_pending_and_abandons_a_deaf_tool(
    deaf: Deaf, kind: str
) -> None:
    conversation = Conversation()

    def block() -> str:
        ctrl_c.press()
        return deaf.block()

    async def wait() -> str:
        ctrl_c.press()
        return await deaf.wait()

    function = block if kind == "block" else wait
    tool = Tool(name="look", function=function, timeout=LONG)
    agent = Agent(ScriptedTransport(calls(("look", {}))), tools=[tool])

    with CtrlC() as ctrl_c, pytest.raises(KeyboardInterrupt):
        agent.run("Go.", conversation=conversation)

    assert [call.name for call in conversation.open_calls] == ["look"]
    assert deaf.ended == []
    deaf.may_end.set()
    until_none_hangs(function)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["block", "wait"])
async def test_cancelled_run_leaves_a_deaf_tool_soon_and_its_outcome_is_unknown(
    deaf: Deaf, kind: str
) -> None:
    conversation = Conversation()
    function = getattr(deaf, kind)
    tool = Tool(name="look", function=function)
    agent = AsyncAgent(AsyncScriptedTransport(calls(("look", {}))), tools=[tool])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: agent.run("Go.", conversation=conversation))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    [_, _, result] = conversation.messages
    assert isinstance(result, ToolMessage)
    assert (result.outcome, result.text) == (
        "unknown",
        "The run was stopped while it ran; it goes on by itself, and its result will not be known.",
    )
    assert hung_calls(function) == 1
    assert deaf.ended == []
    deaf.may_end.set()
    await until_none_hangs_here(function)


@pytest.mark.anyio
async def test_abandoned_tool_lets_the_run_continue(deaf: Deaf) -> None:
    transport = AsyncScriptedTransport(calls(("block", {}), ("see", {})), "Done.")
    tools = [
        Tool(name="block", function=deaf.block),
        Tool(name="see", function=lambda: "seen", timeout=LONG),
    ]

    result = await AsyncAgent(transport, tools=tools, limits=Limits(tool_seconds=SHORT)).run("Go.")

    assert [m.text for m in result.messages if isinstance(m, ToolMessage)] == [LEFT, "seen"]
    assert result.output == "Done."
