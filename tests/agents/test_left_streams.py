"""A stream that nothing reads any more frees its conversation; one that is read keeps it."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from typing import Any

import anyio
import anyio.to_thread
import pytest

from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.agents.stream import AsyncRunStream
from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import ConversationError, StreamInUse
from pathors_agent.messages import Message
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, answer, calls
from pathors_agent.tools.tool import Tool
from pathors_agent.wire.deltas import Delta

# Reached only when something hangs.
LONG = 50.0

HELD = "another run uses this conversation"
WORDS = "one two three four"


def blocking() -> Agent[str]:
    return Agent(ScriptedTransport(answer(WORDS, chunk_size=4), "Second."))


def in_async() -> AsyncAgent[str]:
    return AsyncAgent(AsyncScriptedTransport(answer(WORDS, chunk_size=4), "Second."))


def in_thread(function: Callable[[], object]) -> None:
    """Call a function in another thread, and wait for the thread's end."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()


# - blocking code


def leave_a_loop(agent: Agent[str], conversation: Conversation) -> object:
    stream = agent.stream("Go.", conversation=conversation)
    for _ in stream:
        break
    return stream


def leave_a_loop_in_a_thread_that_goes_on(agent: Agent[str], conversation: Conversation) -> object:
    kept: list[object] = []
    left, go_on = threading.Event(), threading.Event()

    def read() -> None:
        stream = agent.stream("Go.", conversation=conversation)
        for _ in stream:
            break
        kept.append(stream)
        left.set()
        go_on.wait(LONG)

    threading.Thread(target=read).start()
    assert left.wait(LONG)
    return kept, go_on


def leave_a_generator(agent: Agent[str], conversation: Conversation) -> object:
    def shown() -> Iterator[object]:
        with agent.stream("Go.", conversation=conversation) as stream:
            yield from stream

    kept = shown()
    next(kept)
    return kept


def end_the_thread(agent: Agent[str], conversation: Conversation) -> object:
    kept: list[object] = []
    in_thread(lambda: kept.append(leave_a_generator(agent, conversation)))
    return kept


def read_in_several_threads(agent: Agent[str], conversation: Conversation) -> object:
    """As a web framework with a pool of threads does, whose threads go on."""
    kept: list[Any] = []
    go_on = threading.Event()
    read = threading.Event()

    def pooled() -> None:
        kept.append(leave_a_generator(agent, conversation))
        read.set()
        go_on.wait(LONG)

    thread = threading.Thread(target=pooled)
    thread.start()
    assert read.wait(LONG)
    weakref.finalize(kept[0], go_on.set)
    return kept, go_on


def cancel_it(agent: Agent[str], conversation: Conversation) -> object:
    stream = agent.stream("Go.", conversation=conversation)
    stream.__enter__()
    next(iter(stream))
    stream.cancel()
    return stream


LEFT = [
    leave_a_loop,
    leave_a_loop_in_a_thread_that_goes_on,
    leave_a_generator,
    end_the_thread,
    read_in_several_threads,
    cancel_it,
]


@pytest.mark.parametrize("leave", LEFT)
def test_next_run_continues_although_the_abandoned_stream_is_referenced(
    leave: Callable[..., object],
) -> None:
    agent, conversation = blocking(), Conversation()
    kept = leave(agent, conversation)

    assert agent.run("And?", conversation=conversation).output == "Second."

    assert [m.role for m in conversation.messages] == ["user", "user", "assistant"]
    if isinstance(kept, tuple):
        kept[1].set()


def test_abandoned_stream_yields_nothing() -> None:
    agent, conversation = blocking(), Conversation()
    stream = agent.stream("Go.", conversation=conversation)
    items = iter(stream)
    next(items)
    agent.run("And?", conversation=conversation)

    assert list(items) == []
    assert conversation.messages[-1].text == "Second."


def test_stream_that_another_thread_reads_keeps_its_conversation() -> None:
    agent, conversation = blocking(), Conversation()
    read, go_on = threading.Event(), threading.Event()
    seen: list[Delta | Message] = []

    def reader() -> None:
        with agent.stream("Go.", conversation=conversation) as stream:
            for item in stream:
                seen.append(item)
                read.set()
                go_on.wait(LONG)

    thread = threading.Thread(target=reader)
    thread.start()
    assert read.wait(LONG)
    with pytest.raises(ConversationError, match=HELD):
        agent.run("And?", conversation=conversation)
    go_on.set()
    thread.join(LONG)

    assert [m.role for m in conversation.messages] == ["user", "assistant"]
    assert conversation.messages[-1].text == WORDS


def test_leaving_a_stream_that_another_thread_reads_cancels_the_run() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def wait() -> None:
        """Wait."""
        begun.set()
        may_end.wait(LONG)

    tools = [Tool.from_function(wait, timeout=LONG)]
    agent = Agent(ScriptedTransport(calls(("wait", {})), "Second."), tools=tools)
    stream = agent.stream("Go.")

    def read() -> None:
        for _ in stream:
            pass

    thread = threading.Thread(target=read)
    stream.__enter__()
    thread.start()
    assert begun.wait(LONG)
    with pytest.raises(StreamInUse, match="another thread still reads this stream"):
        stream.__exit__(None, None, None)
    thread.join(LONG)
    may_end.set()

    assert stream.result.cancelled
    assert agent.run("And?", conversation=stream.conversation).output == "Second."


# - tasks


async def leave_a_loop_async(agent: AsyncAgent[str], conversation: Conversation) -> object:
    stream = agent.stream("Go.", conversation=conversation)
    async for _ in stream:
        break
    return stream


async def leave_a_generator_async(agent: AsyncAgent[str], conversation: Conversation) -> object:
    async def shown() -> AsyncIterator[object]:
        async with agent.stream("Go.", conversation=conversation) as stream:
            async for item in stream:
                yield item

    kept = shown()
    await anext(kept)
    return kept


async def end_the_task(agent: AsyncAgent[str], conversation: Conversation) -> object:
    kept: list[object] = []

    async def read() -> None:
        kept.append(await leave_a_generator_async(agent, conversation))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
    return kept


async def cancel_it_async(agent: AsyncAgent[str], conversation: Conversation) -> object:
    stream = agent.stream("Go.", conversation=conversation)
    await stream.__aenter__()
    await anext(aiter(stream))
    await anyio.to_thread.run_sync(stream.cancel)
    return stream


LEFT_ASYNC = [leave_a_loop_async, leave_a_generator_async, end_the_task, cancel_it_async]


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # trio's, if dropped
@pytest.mark.parametrize("leave", LEFT_ASYNC)
@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "dropped"])
async def test_next_run_continues_after_an_abandoned_stream(
    leave: Callable[..., Any], is_kept: bool
) -> None:
    agent, conversation = in_async(), Conversation()
    kept = await leave(agent, conversation)
    if not is_kept:
        del kept

    with anyio.fail_after(LONG):
        assert (await agent.run("And?", conversation=conversation)).output == "Second."

    assert [m.role for m in conversation.messages] == ["user", "user", "assistant"]


@pytest.mark.anyio
async def test_next_run_may_be_another_task_than_the_one_that_left_the_loop() -> None:
    agent, conversation = in_async(), Conversation()
    stream = await leave_a_loop_async(agent, conversation)

    async def run() -> None:
        await agent.run("And?", conversation=conversation)

    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)

    assert conversation.messages[-1].text == "Second."
    assert stream is not None


@pytest.mark.anyio
async def test_tools_of_a_left_stream_have_ended_before_the_next_run_begins() -> None:
    log: list[str] = []

    async def work() -> AsyncIterator[str]:
        """Work."""
        log.append("begins")
        try:
            yield "working"
            yield "still working"
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            log.append("ends")

    def ask(messages: Any) -> Any:
        log.append("asks")
        return messages

    tools = [Tool.from_function(work)]
    transport = AsyncScriptedTransport(calls(("work", {})), "Second.")
    agent = AsyncAgent(transport, tools=tools, history=ask)
    stream = agent.stream("Go.")
    async for item in stream:
        if type(item).__name__ == "ToolProgressDelta":
            break

    with anyio.fail_after(LONG):
        await agent.run("And?", conversation=stream.conversation)

    assert log == ["asks", "begins", "ends", "asks"]


@pytest.mark.anyio
@pytest.mark.parametrize("in_block", [True, False])
async def test_stream_that_another_task_reads_keeps_its_conversation(in_block: bool) -> None:
    agent, conversation = in_async(), Conversation()
    stream = agent.stream("Go.", conversation=conversation)
    read, go_on = anyio.Event(), anyio.Event()

    async def reader() -> None:
        async with stream if in_block else nullcontext():
            async for _ in stream:
                read.set()
                await go_on.wait()

    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader)
            await read.wait()
            with pytest.raises(ConversationError, match=HELD):
                await agent.run("And?", conversation=conversation)
            go_on.set()

    assert conversation.messages[-1].text == WORDS


@pytest.mark.anyio
@pytest.mark.parametrize("failure", [None, ValueError("the block's own")])
async def test_leaving_a_stream_that_another_task_reads_cancels_the_run(
    failure: Exception | None,
) -> None:
    begun = anyio.Event()

    async def wait() -> None:
        """Wait."""
        begun.set()
        await anyio.sleep_forever()

    transport = AsyncScriptedTransport(calls(("wait", {})), "Second.")
    agent = AsyncAgent(transport, tools=[Tool.from_function(wait)])
    stream = agent.stream("Go.")
    ended: list[str] = []

    async def read() -> None:
        async for _ in stream:
            pass
        ended.append("quietly")

    async def leave() -> None:
        async with stream:
            tasks.start_soon(read)
            await begun.wait()
            with pytest.raises(StreamInUse, match="another task reads this stream"):
                aiter(stream)
            if failure is not None:
                raise failure

    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as tasks:
            with pytest.raises(type(failure) if failure else StreamInUse) as raised:
                await leave()
            assert (raised.value is failure) == (failure is not None)
            assert stream.result.cancelled
            # The next run does not wait for the reader's task.
            result = await agent.run("And?", conversation=stream.conversation)

    assert ended == ["quietly"]
    assert result.output == "Second."


# - event loops that were closed


def first_item(agent: AsyncAgent[str]) -> AsyncRunStream[str]:
    """Read one item of a stream on an event loop that is then closed."""
    loop = asyncio.new_event_loop()

    async def read() -> AsyncRunStream[str]:
        stream = agent.stream("Go.")
        async for _ in stream:
            break
        return stream

    stream = loop.run_until_complete(read())
    loop.close()
    return stream


@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "dropped"])
def test_next_run_works_after_a_closed_event_loop(is_kept: bool) -> None:
    agent = in_async()
    stream = first_item(agent)
    conversation, known = stream.conversation, weakref.ref(stream.conversation)
    if not is_kept:
        del stream

    assert asyncio.run(agent.run("And?", conversation=conversation)).output == "Second."

    if is_kept:
        del stream
    del conversation, agent  # whose scripted transport keeps its requests
    gc.collect()
    assert known() is None


def test_transport_of_a_left_stream_is_unwound_after_its_event_loop() -> None:
    log: list[str] = []

    class Logging(AsyncScriptedTransport):
        def send(self, request: Any) -> Any:
            return Logged(super().send(request))

    class Logged:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __aenter__(self) -> Any:
            log.append("opened")
            return await self.inner.__aenter__()

        async def __aexit__(self, *error: Any) -> None:
            log.append("closed")
            await self.inner.__aexit__(*error)

    agent = AsyncAgent(Logging(answer(WORDS, chunk_size=4), "Second."))
    stream = first_item(agent)

    asyncio.run(agent.run("And?", conversation=stream.conversation))

    assert log == ["opened", "closed", "opened", "closed"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of its coroutines
def test_event_loop_closed_in_the_middle_of_a_model_call_frees_the_conversation() -> None:
    waits = asyncio.Event()

    async def wait_for_ever(messages: Any) -> Any:
        waits.set()
        await asyncio.sleep(LONG)
        return messages

    conversation = Conversation()
    agent = AsyncAgent(AsyncScriptedTransport("Never."), history=wait_for_ever)
    loop = asyncio.new_event_loop()
    task = loop.create_task(agent.run("Go.", conversation=conversation))
    loop.run_until_complete(waits.wait())
    loop.close()

    assert asyncio.run(in_async().run("And?", conversation=conversation)).output == WORDS

    task._log_destroy_pending = False  # type: ignore[attr-defined]  # nothing can end it
    del task
    gc.collect()
