"""Runs that are cancelled, and streams that are left."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, NoReturn

import anyio
import pytest
from anyio.lowlevel import checkpoint

from driven_agents import (
    DONE,
    FINISHED,
    GO,
    HELLO,
    calling,
    local,
    open_names,
    results,
    said,
    stored,
)
from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Status
from pathors_agent.messages import AssistantMessage, ToolMessage
from pathors_agent.testing import AsyncScriptedTransport
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.wire.deltas import TextDelta

# - runs that are cancelled


class PausedTransport(AsyncTransport):
    """Plays pieces of an answer; at `None` it says that it waits, and waits for ever."""

    def __init__(self, *pieces: bytes | None, paused_before_response: bool = False) -> None:
        self.waits = anyio.Event()
        self.left = False
        self._pieces = pieces
        self._paused_before_response = paused_before_response

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        try:
            if self._paused_before_response:
                await self._wait()
            async with aclosing(self._play()) as pieces:
                yield AsyncResponse(status=200, pieces=pieces)
        finally:
            self.left = True

    async def _play(self) -> AsyncGenerator[bytes, None]:
        for piece in self._pieces:
            if piece is None:
                await self._wait()
            else:
                yield piece

    async def _wait(self) -> None:
        self.waits.set()
        await anyio.sleep_forever()


@pytest.mark.anyio
async def test_batches_are_the_deltas_of_each_read() -> None:
    reads = [HELLO, HELLO * 3, b": a comment\n\n", HELLO[:20], HELLO[20:] + HELLO, FINISHED + DONE]
    agent = AsyncAgent(PausedTransport(*reads))

    async with agent.stream("Go.") as stream:
        batches = [batch async for batch in stream.batches()]

    hello = TextDelta("Hello")
    assert batches == [[hello], [hello] * 3, [hello] * 2, stream.conversation.messages[-1]]
    assert stream.result.output == "Hello" * 6


Running = Callable[[], Coroutine[Any, Any, object]]
CancelWhen = Callable[[Running, anyio.Event], Awaitable[None]]


async def cancel_scope_when(function: Running, ready: anyio.Event) -> None:
    """Cancel a function by the cancel scope around it."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(function)
        await ready.wait()
        tasks.cancel_scope.cancel()


async def cancel_task_when(function: Running, ready: anyio.Event) -> None:
    """Cancel a function's task, as `asyncio.timeout` and `asyncio.wait_for` do."""
    task = asyncio.ensure_future(function())
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancel_outer_scope_when(function: Running, ready: anyio.Event) -> None:
    """Cancel a function by a cancel scope further out."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(function)
            await ready.wait()
            scope.cancel()


@pytest.fixture(params=["scope", "task"])
def cancel_when(request: pytest.FixtureRequest, anyio_backend: str) -> CancelWhen:
    if request.param == "scope":
        return cancel_scope_when
    return cancel_task_when if anyio_backend == "asyncio" else cancel_outer_scope_when


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("pieces", "before_response"),
    [((), True), ((None,), False), ((HELLO, None), False), ((HELLO[:30], None), False)],
    ids=["before the response", "before the first byte", "between deltas", "inside an event"],
)
async def test_cancelled_model_call_is_still_pending(
    cancel_when: CancelWhen, pieces: tuple[bytes | None, ...], before_response: bool
) -> None:
    transport = PausedTransport(*pieces, paused_before_response=before_response)
    conversation = Conversation()

    await cancel_when(
        lambda: AsyncAgent(transport).run("Go.", conversation=conversation), transport.waits
    )

    assert transport.left
    assert conversation.messages == (GO,)
    result = await AsyncAgent(AsyncScriptedTransport("Hello.")).run(conversation=conversation)
    assert said(conversation.messages) == ["Go.", "Hello."]
    assert said(result.messages) == ["Hello."]


@pytest.mark.anyio
async def test_one_of_three_cancelled_tools_is_still_pending(cancel_when: CancelWhen) -> None:
    waits = anyio.Event()
    returned: list[str] = []

    async def finish() -> str:
        returned.append("finish")
        return "finished"

    async def wait() -> NoReturn:
        while len(returned) < 2:
            await checkpoint()
        waits.set()
        await anyio.sleep_forever()
        raise AssertionError

    tools = [local("finish", finish), local("wait", wait)]
    script = calling("finish", "wait", "finish")
    conversation = Conversation()
    agent = AsyncAgent(AsyncScriptedTransport(script), tools=tools)

    await cancel_when(lambda: agent.run("Go.", conversation=conversation), waits)

    assert results(conversation) == {"call_1": "finished", "call_3": "finished"}
    assert open_names(conversation) == ["wait"]
    again = stored(conversation)
    ran: list[str] = []
    tools = [local("finish", lambda: ran.append("finish")), local("wait", lambda: "waited")]
    result = await AsyncAgent(AsyncScriptedTransport("Done."), tools=tools).run(conversation=again)
    assert ran == []
    assert said(again.messages) == ["Go.", "", "finished", "waited", "finished", "Done."]
    assert said(result.messages) == ["waited", "Done."]


@pytest.mark.anyio
@pytest.mark.parametrize("count", [1, 3])
async def test_sync_tools_are_waited_for_and_their_results_are_kept(
    cancel_when: CancelWhen, count: int
) -> None:
    started, may_end = threading.Barrier(count + 1, timeout=20), threading.Event()
    running = anyio.Event()

    def work() -> str:
        started.wait()
        may_end.wait(20)
        return "worked"

    async def release_once_cancelled() -> None:
        await anyio.to_thread.run_sync(started.wait)
        running.set()
        for _ in range(10):  # turns of the event loop in which the cancellation arrives
            await checkpoint()
        may_end.set()

    conversation = Conversation()
    names = "abc"[:count]
    transport = AsyncScriptedTransport(calling(*names))
    agent = AsyncAgent(transport, tools=[local(name, work) for name in names])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(release_once_cancelled)
        await cancel_when(lambda: agent.run("Go.", conversation=conversation), running)

    assert list(results(conversation).values()) == ["worked"] * count
    assert conversation.open_calls == ()
    assert len(transport.requests) == 1


@pytest.mark.anyio
async def test_result_of_an_async_tool_during_its_cancellation_is_kept_and_the_run_stops(
    cancel_when: CancelWhen,
) -> None:
    waits = anyio.Event()

    async def wait() -> str:
        waits.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            return "as far as it came"
        raise AssertionError

    conversation = Conversation()
    transport = AsyncScriptedTransport(calling("wait"), "Done.")
    agent = AsyncAgent(transport, tools=[local("wait", wait)])

    await cancel_when(lambda: agent.run("Go.", conversation=conversation), waits)

    assert results(conversation) == {"call_1": "as far as it came"}
    assert conversation.open_calls == ()
    assert len(transport.requests) == 1


@pytest.mark.anyio
async def test_call_is_not_begun_once_its_run_is_cancelled() -> None:
    ran: list[str] = []

    async def run_one() -> None:
        ran.append("one")

    agent = AsyncAgent(AsyncScriptedTransport(calling("one")), tools=[local("one", run_one)])
    with anyio.CancelScope() as scope:
        async with agent.stream("Go.") as stream:
            async for item in stream:
                if isinstance(item, AssistantMessage):
                    scope.cancel()

    assert ran == []


# - streams that are left


class WatchedTransport(Transport):
    """Says whether the context of its one answer was left."""

    def __init__(self, *pieces: bytes) -> None:
        self.left = False
        self.read = 0
        self._pieces = pieces

    @contextmanager
    def send(self, request: Request) -> Iterator[Response]:
        try:
            yield Response(status=200, pieces=self._play())
        finally:
            self.left = True

    def _play(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.read += 1
            yield piece


def test_stream_left_by_a_break_leaves_the_transport() -> None:
    transport = WatchedTransport(HELLO, HELLO, FINISHED, DONE)
    conversation = Conversation()

    with Agent(transport).stream("Go.", conversation=conversation) as stream:
        for item in stream:
            assert item == TextDelta("Hello")
            break
        assert not transport.left

    assert transport.left
    assert transport.read == 1
    assert stream.result.status is Status.RUNNING
    assert conversation.messages == (GO,)


@pytest.mark.anyio
async def test_async_stream_left_by_a_break_leaves_the_transport() -> None:
    transport = PausedTransport(HELLO, None)
    conversation = Conversation()

    async with AsyncAgent(transport).stream("Go.", conversation=conversation) as stream:
        async for item in stream:
            assert item == TextDelta("Hello")
            break
        assert not transport.left

    assert transport.left
    assert not transport.waits.is_set()
    assert stream.result.status is Status.RUNNING
    assert conversation.messages == (GO,)


def test_exception_of_the_reader_closes_the_transport() -> None:
    transport = WatchedTransport(HELLO, FINISHED, DONE)

    def read() -> None:
        with Agent(transport).stream("Go.") as stream:
            for _ in stream:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read()

    assert transport.left


def test_transport_is_left_before_a_tool_runs() -> None:
    transport = WatchedTransport(
        b'data: {"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "a",'
        b' "function": {"name": "look", "arguments": "{}"}}]}, "finish_reason": "tool_calls"}]}'
        b"\n\n",
        DONE,
    )
    left: list[bool] = []

    with Agent(transport, tools=[local("look", lambda: left.append(transport.left))]).stream(
        "Go."
    ) as stream:
        for item in stream:
            if isinstance(item, ToolMessage):
                break

    assert left == [True]


def test_nothing_is_read_after_the_end_of_an_answer() -> None:
    transport = WatchedTransport(HELLO, FINISHED, DONE, b"data: late", b"later")

    assert Agent(transport).run("Go.").output == "Hello"
    assert transport.read == 3
