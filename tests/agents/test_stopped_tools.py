"""On asyncio a tool that is stopped is cancelled once, and has a grace time to clean up."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from ctrl_c import CtrlC
from pathors_agent import Agent, AsyncAgent, Conversation, Limits, ToolMessage, tool
from pathors_agent.agents.perform.tasks import STOP_SECONDS
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, calls
from pathors_agent.tools.tool import Tool

# Enough for a tool to begin on a busy machine; most ways to stop do not wait for it.
SHORT = 0.3
# Passes of the event loop in which a clean-up that is cancelled over and over would be cut off.
PASSES = 20


class Rooms:
    """A room that tools hold, and give back while they are being stopped."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self.is_held = threading.Event()
        self.cancelled: list[str] = []
        self.told: list[str] = []
        self.users: list[object] = []

    @asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for _ in range(PASSES):
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    self.cancelled.append("while it cleaned up")
                    raise
            self.told.append("released")

    async def wait(self) -> str:
        async with self.room():
            self.held.set()
            self.is_held.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.append("while it waited")
                raise
        raise AssertionError("unreachable")


def plain(rooms: Rooms) -> Callable[..., Any]:
    async def book() -> str:
        """Hold a room, then pay."""
        return await rooms.wait()

    return book


def reporting(rooms: Rooms) -> Callable[..., Any]:
    async def book() -> AsyncIterator[str]:
        """Hold a room, then pay."""
        async with rooms.room():
            yield "searching"
            yield "found"
            await rooms.wait()
            yield "never"

    return book


def beside_another(rooms: Rooms) -> Callable[..., Any]:
    return plain(rooms)


def of_a_sub_agent(rooms: Rooms) -> Callable[..., Any]:
    inner = AsyncAgent(
        AsyncScriptedTransport(calls(("book", {})), "Done."), tools=[tool(plain(rooms))]
    )

    async def book() -> str:
        """Let an agent hold a room."""
        return (await inner.run("Book.")).output

    return book


Kind = Callable[[Rooms], Callable[..., Any]]
KINDS = pytest.mark.parametrize("kind", [plain, reporting, beside_another, of_a_sub_agent])

ONCE = ["while it waited"]


def agent_of(
    rooms: Rooms, kind: Kind, timeout: float | None = None, **settings: Any
) -> AsyncAgent[Any]:
    @tool
    async def wait() -> str:
        """Wait beside the other."""
        await asyncio.Event().wait()
        return "never"

    book = tool(timeout=timeout)(kind(rooms)) if timeout else tool(kind(rooms))
    called = ["book", "wait"] if kind is beside_another and not timeout else ["book"]
    transport = AsyncScriptedTransport(calls(*((name, {}) for name in called)), "Done.")
    return AsyncAgent(transport, tools=[book, wait], **settings)


async def by_its_timeout(rooms: Rooms, kind: Kind) -> None:
    await agent_of(rooms, kind, timeout=SHORT).run("Book.")


async def by_the_time_of_the_run(rooms: Rooms, kind: Kind) -> None:
    await agent_of(rooms, kind, limits=Limits(seconds=SHORT)).run("Book.")


async def by_the_time_of_tools(rooms: Rooms, kind: Kind) -> None:
    await agent_of(rooms, kind, limits=Limits(tool_seconds=SHORT)).run("Book.")


async def by_wait_for(rooms: Rooms, kind: Kind) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(agent_of(rooms, kind).run("Book."), SHORT)


async def by_a_timeout_block(rooms: Rooms, kind: Kind) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SHORT):
            await agent_of(rooms, kind).run("Book.")


async def by_two_timeout_blocks(rooms: Rooms, kind: Kind) -> None:
    until = asyncio.get_running_loop().time() + SHORT

    async def run() -> None:
        async with asyncio.timeout_at(until), asyncio.timeout_at(until):
            await agent_of(rooms, kind).run("Book.")

    with pytest.raises(TimeoutError):
        await run()


async def by_fail_after(rooms: Rooms, kind: Kind) -> None:
    with pytest.raises(TimeoutError):
        with anyio.fail_after(SHORT):
            await agent_of(rooms, kind).run("Book.")


async def by_its_task(rooms: Rooms, kind: Kind) -> None:
    task = asyncio.ensure_future(agent_of(rooms, kind).run("Book."))
    await rooms.held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_its_task_again_and_again(rooms: Rooms, kind: Kind) -> None:
    task = asyncio.ensure_future(agent_of(rooms, kind).run("Book."))
    await rooms.held.wait()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()


async def by_a_task_group(rooms: Rooms, kind: Kind) -> None:
    async def fail() -> None:
        await rooms.held.wait()
        raise ZeroDivisionError

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(agent_of(rooms, kind).run("Book."))
            tasks.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await run()


async def by_a_cancel_scope(rooms: Rooms, kind: Kind) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent_of(rooms, kind).run, "Book.")
        await rooms.held.wait()
        tasks.cancel_scope.cancel()


async def by_leaving_its_stream(rooms: Rooms, kind: Kind) -> None:
    async def follow() -> None:
        async with agent_of(rooms, kind).stream("Book.") as stream:
            async for _ in stream:
                pass

    task = asyncio.ensure_future(follow())
    await rooms.held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_a_break_at_a_report(rooms: Rooms, kind: Kind) -> None:
    @tool
    async def tell() -> AsyncIterator[str]:
        """Tell when the other tool has begun."""
        yield "begun"
        await rooms.held.wait()
        yield "held"
        await asyncio.Event().wait()

    transport = AsyncScriptedTransport(calls(("book", {}), ("tell", {})))
    agent: AsyncAgent[Any] = AsyncAgent(transport, tools=[tool(kind(rooms)), tell])
    async with agent.stream("Book.") as stream:
        async for _ in stream:
            if rooms.held.is_set():
                break


async def by_the_end_of_another_call(rooms: Rooms, kind: Kind) -> None:
    @tool
    async def exit_() -> None:
        """End the program."""
        await rooms.held.wait()
        raise SystemExit

    transport = AsyncScriptedTransport(calls(("book", {}), ("exit_", {})))
    agent: AsyncAgent[Any] = AsyncAgent(transport, tools=[tool(kind(rooms)), exit_])
    with pytest.raises(SystemExit):
        await agent.run("Book.")


async def by_the_end_of_the_event_loop(rooms: Rooms, kind: Kind) -> None:
    running = asyncio.ensure_future(agent_of(rooms, kind).run("Book."))
    rooms.users.append(running)  # the event loop holds tasks weakly
    await rooms.held.wait()


WAYS_TO_STOP = [
    by_its_timeout,
    by_the_time_of_the_run,
    by_the_time_of_tools,
    by_wait_for,
    by_a_timeout_block,
    by_two_timeout_blocks,
    by_fail_after,
    by_its_task,
    by_its_task_again_and_again,
    by_a_task_group,
    by_a_cancel_scope,
    by_leaving_its_stream,
    by_a_break_at_a_report,
    by_the_end_of_another_call,
    by_the_end_of_the_event_loop,
]
Stop = Callable[[Rooms, Kind], Awaitable[None]]


@KINDS
@pytest.mark.parametrize("stop", WAYS_TO_STOP)
def test_stopped_tool_is_cancelled_once_and_cleans_up(stop: Stop, kind: Kind) -> None:
    rooms = Rooms()

    async def main() -> None:
        await stop(rooms, kind)

    asyncio.run(main())

    assert rooms.cancelled == ONCE
    assert set(rooms.told) == {"released"}


@KINDS
def test_blocking_agent_cancels_a_tool_once_when_its_time_is_over(kind: Kind) -> None:
    rooms = Rooms()
    book = tool(timeout=SHORT)(kind(rooms))

    Agent(ScriptedTransport(calls(("book", {})), "Done."), tools=[book]).run("Book.")

    assert (rooms.cancelled, set(rooms.told)) == (ONCE, {"released"})


@KINDS
def test_interrupted_blocking_agent_cancels_its_tool_once_and_lets_it_clean_up(kind: Kind) -> None:
    rooms = Rooms()

    def interrupt() -> None:
        rooms.is_held.wait()
        ctrl_c.press()

    agent = Agent(ScriptedTransport(calls(("book", {}))), tools=[tool(kind(rooms))])
    conversation = Conversation()
    with CtrlC() as ctrl_c:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            agent.run("Book.", conversation=conversation)

    assert (rooms.cancelled, set(rooms.told)) == (ONCE, {"released"})
    assert [call.name for call in conversation.open_calls] == ["book"]


class SlowCleanUp:
    """A tool that would clean up for ever, and notes when it is cancelled."""

    def __init__(self) -> None:
        self.cancelled_at: list[float] = []
        self.begun = asyncio.Event()

    async def wait(self) -> str:
        """Wait."""
        self.begun.set()
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled_at.append(time.monotonic())
        raise asyncio.CancelledError


def test_tool_that_cleans_up_for_too_long_is_cancelled_again_and_the_run_continues() -> None:
    slow = SlowCleanUp()
    wait = Tool.from_function(slow.wait, timeout=SHORT)
    transport = AsyncScriptedTransport(calls(("wait", {})), "Done.")

    start = time.monotonic()
    result = asyncio.run(AsyncAgent(transport, tools=[wait]).run("Wait."))

    [message] = [m for m in result.messages if isinstance(m, ToolMessage)]
    _, second = slow.cancelled_at
    assert second - start >= SHORT + STOP_SECONDS
    assert (message.outcome, result.output) == ("timeout", "Done.")
    assert message.text.endswith("it was stopped, and how far it came is not known.")


def test_second_cancellation_of_a_run_does_not_shorten_the_grace_time() -> None:
    slow = SlowCleanUp()
    agent = AsyncAgent(
        AsyncScriptedTransport(calls(("wait", {}))), tools=[Tool.from_function(slow.wait)]
    )

    async def main() -> float:
        running = asyncio.ensure_future(agent.run("Wait."))
        await slow.begun.wait()
        start = time.monotonic()
        while not running.done():
            running.cancel()
            await asyncio.sleep(0.01)
        assert running.cancelled()
        return start

    start = asyncio.run(main())
    _, second = slow.cancelled_at
    assert second - start >= STOP_SECONDS


def test_on_trio_a_tool_cleans_up_behind_a_shield() -> None:
    told: list[str] = []

    @tool(timeout=SHORT)
    async def book() -> None:
        """Hold a room."""
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                told.append("released")
            await anyio.lowlevel.checkpoint()
            told.append("not reached")

    agent = AsyncAgent(AsyncScriptedTransport(calls(("book", {})), "Done."), tools=[book])
    anyio.run(agent.run, "Book.", backend="trio")

    assert told == ["released"]
