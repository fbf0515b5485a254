"""Runs that are cancelled or added to while they go, and what the model reads afterwards."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.agents.result import RunResult
from pathors_agent.agents.stream import AsyncRunStream, RunStream
from pathors_agent.core.conversation import CallState, Conversation
from pathors_agent.core.run import Status
from pathors_agent.errors import ConversationError, ProviderError, RunNotFinished
from pathors_agent.messages import Message, ToolMessage, UserMessage
from pathors_agent.testing import (
    AsyncScriptedTransport,
    Reply,
    ScriptedTransport,
    answer,
    calls,
    http_error,
)
from pathors_agent.tools.tool import Tool, tool
from pathors_agent.transports.aiohttp import AiohttpTransport
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport
from pathors_agent.transports.retry import AsyncRetryingTransport, RetryingTransport
from pathors_agent.wire.deltas import TextDelta
from servers import STALL, ScriptedServer, head
from ways import WAYS

# Reached only when something hangs.
LONG = 50.0


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def calling(*names: str) -> Reply:
    return calls(*((name, {}) for name in names))


def closed(conversation: Conversation) -> list[tuple[str, str]]:
    """Return outcome and text of each result."""
    return [(m.outcome, m.text) for m in conversation.messages if isinstance(m, ToolMessage)]


# - what the model reads of open calls


@pytest.mark.anyio
async def test_calls_of_a_cancelled_run_are_told_apart() -> None:
    begun = anyio.Event()

    async def wait() -> None:
        begun.set()
        await anyio.sleep_forever()

    tools = [
        Tool.from_function(lambda: "seen", name="look", description="Look."),
        Tool.from_function(wait, description="Wait.", sequential=True),
        Tool(name="confirm"),
    ]
    conversation = Conversation()
    script = (calling("look", "wait", "wait", "confirm"), "I see.")
    agent = AsyncAgent(AsyncScriptedTransport(*script), tools=tools)

    async def run() -> None:
        await agent.run("Go.", conversation=conversation)

    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await begun.wait()
            tasks.cancel_scope.cancel()
    result = await agent.run("What did you see?", conversation=conversation)

    assert result.output == "I see."
    assert closed(conversation) == [
        ("value", "seen"),
        (
            "cancelled",
            "Interrupted: the user went on. The call had begun, and it is not known how far it"
            " came.",
        ),
        ("not_run", "Not run: the user went on."),
        ("cancelled", "Not answered: the user went on."),
    ]


def test_interrupted_blocking_run_knows_which_call_had_begun() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    conversation = Conversation()
    tools = [Tool.from_function(interrupt, description="Interrupt."), Tool.from_function(add)]
    agent = Agent(ScriptedTransport(calling("interrupt", "add")), tools=tools)
    with pytest.raises(KeyboardInterrupt):
        agent.run("Go.", conversation=conversation)

    conversation.close_open_calls("Ctrl-C")

    assert [outcome for outcome, _ in closed(conversation)] == ["cancelled", "not_run"]


def test_prompt_does_not_close_a_call_that_was_approved_with_it() -> None:
    paid = threading.Event()
    pay = Tool.from_function(paid.set, name="pay", description="Pay.", approve=True)
    conversation = Conversation()
    agent = Agent(ScriptedTransport(calling("pay")), tools=[pay])
    [approval] = agent.run("Pay.", conversation=conversation).approvals

    with pytest.raises(ConversationError, match="before the results"):
        agent.run("And?", conversation=conversation, decisions=[approval.approve()])

    assert [call.name for call in conversation.open_calls] == ["pay"]
    assert not paid.is_set()


# - cancelled from anywhere

STREAM = {"Content_Type": "text/event-stream"}
BEGINNING = (
    b'data: {"id": "1", "model": "m", "choices": [{"index": 0, "delta": {"content": "Once"}}]}\n\n'
)
SCRIPTS = {"silent": [STALL], "speaks": [head(**STREAM), BEGINNING, STALL]}


def in_thread(function: Callable[[], object]) -> None:
    """Call a function in another thread, and wait for it."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()


@pytest.mark.parametrize("script", SCRIPTS)
def test_blocking_model_call_is_cancelled_from_another_thread(
    scripted_server: Callable[..., ScriptedServer], script: str
) -> None:
    server = scripted_server(SCRIPTS[script])
    seen: list[str] = []

    with HTTPTransport(server.url, api_key="k") as http:
        stream = Agent(http).stream("Tell me a story.")
        spoke = threading.Event()

        def cancel() -> None:
            server.wait_for_requests(1)
            assert script == "silent" or spoke.wait(LONG)
            stream.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with stream:
            for item in stream:
                seen.append(type(item).__name__)
                spoke.set()
        canceller.join(LONG)
        server.wait_until_clients_left()

    assert seen == (["TextDelta"] if script == "speaks" else [])
    assert (stream.result.cancelled, stream.result.status) == (True, Status.RUNNING)
    assert [m.role for m in stream.conversation.messages] == ["user"]
    with pytest.raises(RunNotFinished, match="it was cancelled; run the conversation again"):
        _ = stream.result.output


ASYNC_TRANSPORTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "httpx2 on asyncio": ("asyncio", AsyncHTTPTransport),
    "httpx2 on trio": ("trio", AsyncHTTPTransport),
    "aiohttp": ("asyncio", AiohttpTransport),
}


@pytest.mark.parametrize("by", ["task", "thread"])
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("transport", ASYNC_TRANSPORTS)
def test_async_model_call_is_cancelled_from_another_task_or_thread(
    scripted_server: Callable[..., ScriptedServer], transport: str, script: str, by: str
) -> None:
    server = scripted_server(SCRIPTS[script])
    backend, make = ASYNC_TRANSPORTS[transport]
    seen: list[str] = []

    async def main() -> AsyncRunStream[Any]:
        async with make(server.url, api_key="k") as http:
            stream = AsyncAgent(http).stream("Tell me a story.")
            spoke = anyio.Event()

            async def cancel() -> None:
                await anyio.to_thread.run_sync(server.wait_for_requests, 1)
                if script == "speaks":
                    await spoke.wait()
                if by == "thread":
                    await anyio.to_thread.run_sync(stream.cancel)
                else:
                    stream.cancel()

            with anyio.fail_after(LONG):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(cancel)
                    async with stream:
                        async for item in stream:
                            seen.append(type(item).__name__)
                            spoke.set()
                    await anyio.lowlevel.checkpoint()  # this task is not cancelled
                await anyio.to_thread.run_sync(server.wait_until_clients_left)
            return stream

    stream = anyio.run(main, backend=backend)

    assert seen == (["TextDelta"] if script == "speaks" else [])
    assert (stream.result.cancelled, stream.result.status) == (True, Status.RUNNING)


class Overloaded(Transport):
    """An endpoint that asks to be left alone for a day."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.requests = 0

    @contextmanager
    def send(self, request: Request) -> Iterator[Any]:
        self.requests += 1
        self.asked.set()
        yield Response(status=503, headers={"retry-after": "86400"})


class AsyncOverloaded(AsyncTransport):
    def __init__(self) -> None:
        self.blocking = Overloaded()

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        with self.blocking.send(request) as response:
            yield AsyncResponse(status=503, headers=response.headers, pieces=no_pieces())


async def no_pieces() -> AsyncGenerator[bytes, None]:
    return
    yield b""


@pytest.mark.parametrize("way", WAYS)
def test_wait_between_two_attempts_is_cancelled(way: str) -> None:
    patience: dict[str, Any] = {"max_retry_after": 1e9}
    endpoint = AsyncOverloaded()
    overloaded = endpoint.blocking

    def cancel(stream: RunStream[Any] | AsyncRunStream[Any]) -> threading.Thread:
        def wait_and_cancel() -> None:
            assert overloaded.asked.wait(LONG)
            stream.cancel()

        thread = threading.Thread(target=wait_and_cancel)
        thread.start()
        return thread

    async def main() -> RunResult[Any]:
        agent = AsyncAgent(AsyncRetryingTransport(endpoint, **patience))
        with anyio.fail_after(LONG):
            async with agent.stream("Go.") as stream:
                thread = cancel(stream)
                async for _ in stream:
                    pass
        thread.join(LONG)
        return stream.result

    if way == "blocking":
        with Agent(RetryingTransport(overloaded, **patience)).stream("Go.") as stream:
            thread = cancel(stream)
            for _ in stream:
                pass
        thread.join(LONG)
        result = stream.result
    else:
        result = anyio.run(main, backend=way)

    assert result.cancelled
    assert overloaded.requests == 1


# - tools

BEGUN: list[str] = []


def note(name: str) -> None:
    BEGUN.append(name)


async def sleep_async() -> str:
    """Sleep until it is cancelled."""
    note("begun")
    await anyio.sleep_forever()
    return "never"


async def report_and_sleep() -> AsyncGenerator[str, None]:
    """Report, and sleep until it is cancelled."""
    note("begun")
    yield "working"
    await anyio.sleep_forever()
    yield "never"


def sleep_in_process(path: str) -> str:
    """Say that it runs, and sleep until it is killed."""
    from pathlib import Path

    Path(path).touch()
    time.sleep(LONG)
    return "never"


async def begun(path: Any = None) -> None:
    while not (BEGUN or (path is not None and path.exists())):  # noqa: ASYNC110  (a thread notes it)
        await anyio.sleep(0.005)


CANCELLED = (
    "cancelled",
    "Interrupted: the user went on. The call had begun, and it is not known how far it came.",
)


@pytest.fixture(autouse=True)
def _nothing_begun() -> None:
    BEGUN.clear()


def cancelled_call(way: str, made: Tool, arguments: dict[str, Any], path: Any) -> Conversation:
    """Cancel a run in its tool, and let the user go on; return the conversation."""
    conversation = Conversation()
    script = (calls((made.name, arguments)), "I see.")

    async def main() -> None:
        agent = AsyncAgent(AsyncScriptedTransport(*script), tools=[made])
        stream = agent.stream("Go.", conversation=conversation)

        async def cancel() -> None:
            await begun(path)
            await anyio.to_thread.run_sync(stream.cancel)

        with anyio.fail_after(LONG):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancel)
                async with stream:
                    async for _ in stream:
                        pass
            assert stream.result.cancelled
            await agent.run("And?", conversation=conversation)

    if way != "blocking":
        anyio.run(main, backend=way)
        return conversation
    agent = Agent(ScriptedTransport(*script), tools=[made])
    stream = agent.stream("Go.", conversation=conversation)

    def cancel() -> None:
        anyio.run(begun, path)
        stream.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with stream:
        for _ in stream:
            pass
    thread.join(LONG)
    assert stream.result.cancelled
    agent.run("And?", conversation=conversation)
    return conversation


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("function", [sleep_async, report_and_sleep])
def test_async_tool_is_cancelled_with_its_run(way: str, function: Callable[..., Any]) -> None:
    conversation = cancelled_call(way, Tool.from_function(function), {}, None)

    assert closed(conversation) == [CANCELLED]


@pytest.mark.process
@pytest.mark.parametrize("way", WAYS)
def test_process_is_killed_with_its_run(way: str, tmp_path: Any) -> None:
    path = tmp_path / "begun"
    made = Tool.from_function(sleep_in_process, run_in="process")

    conversation = cancelled_call(way, made, {"path": str(path)}, path)

    assert closed(conversation) == [CANCELLED]


@pytest.mark.parametrize("way", WAYS)
def test_thread_is_left_and_its_outcome_is_unknown(way: str) -> None:
    may_end = threading.Event()

    def hang() -> None:
        """Hang."""
        note("begun")
        may_end.wait(LONG)

    conversation = cancelled_call(way, Tool.from_function(hang, timeout=LONG), {}, None)
    may_end.set()

    assert closed(conversation) == [
        (
            "unknown",
            "The run was stopped while it ran; it goes on by itself, and its result will not be"
            " known.",
        )
    ]


def test_blocking_tool_that_cannot_be_stopped_keeps_its_result() -> None:
    conversation = Conversation()

    def work() -> str:
        """Work."""
        in_thread(stream.cancel)
        return "done"

    agent = Agent(ScriptedTransport(calling("work", "work")), tools=[Tool.from_function(work)])
    stream = agent.stream("Go.", conversation=conversation)
    with stream:
        for _ in stream:
            pass
    conversation.close_open_calls("stopped")

    assert closed(conversation) == [("value", "done"), ("not_run", "Not run: stopped.")]


# - between items


@pytest.mark.parametrize("way", WAYS)
def test_reader_cancels_between_two_items(way: str) -> None:
    items = followed(way, answer("One two three", chunk_size=4), at=(2, "cancel"))

    assert {type(item) for item in items} == {TextDelta}


def followed(
    way: str,
    *script: Any,
    at: tuple[int, str],
    conversation: Conversation | None = None,
    tools: Any = (),
) -> list[Any]:
    """Read a stream; after so many items, cancel it or say something."""
    items: list[Any] = []
    kept = Conversation() if conversation is None else conversation

    def act(stream: RunStream[Any] | AsyncRunStream[Any]) -> None:
        if len(items) == at[0]:
            stream.cancel() if at[1] == "cancel" else stream.say(at[1])

    async def main() -> None:
        agent = AsyncAgent(AsyncScriptedTransport(*script), tools=tools)
        async with agent.stream("Go.", conversation=kept) as stream:
            act(stream)
            async for item in stream:
                items.append(item)
                act(stream)

    if way != "blocking":
        anyio.run(main, backend=way)
        return items
    with Agent(ScriptedTransport(*script), tools=tools).stream("Go.", conversation=kept) as stream:
        act(stream)
        for item in stream:
            items.append(item)
            act(stream)
    return items


@pytest.mark.parametrize("way", WAYS)
def test_run_that_is_cancelled_before_it_begins_asks_nothing(way: str) -> None:
    conversation = Conversation()

    assert followed(way, at=(0, "cancel"), conversation=conversation) == []

    assert [m.role for m in conversation.messages] == ["user"]


def test_cancelling_a_finished_run_changes_nothing() -> None:
    stream = Agent(ScriptedTransport("Done.")).stream("Go.")
    for _ in stream:
        pass

    stream.cancel()

    assert stream.result.output == "Done."
    assert not stream.result.cancelled


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancellation_of_the_reader_itself_is_not_swallowed() -> None:
    begun = asyncio.Event()

    async def wait() -> None:
        """Wait."""
        begun.set()
        await asyncio.sleep(LONG)

    transport = AsyncScriptedTransport(calling("wait"))
    stream = AsyncAgent(transport, tools=[Tool.from_function(wait)]).stream("Go.")

    async def read() -> None:
        async with stream:
            async for _ in stream:
                pass

    reader = asyncio.create_task(read())
    await begun.wait()
    stream.cancel()
    reader.cancel()

    with pytest.raises(asyncio.CancelledError):
        await reader


# - what is said meanwhile


@tool
def look(n: int) -> str:
    """Look."""
    return f"seen {n}"


def roles(conversation: Conversation) -> list[str]:
    return [
        message.text if isinstance(message, UserMessage) else message.role
        for message in conversation.messages
    ]


@pytest.mark.parametrize("way", WAYS)
def test_message_stands_after_the_running_batch_before_the_next_model_call(way: str) -> None:
    batch = answer(calls=[("look", {"n": 1}), ("look", {"n": 2})], chunk_size=100)
    deltas = 2 * 2

    for place in range(deltas + 4):
        conversation = Conversation()
        items = followed(
            way,
            batch,
            "Done.",
            at=(place, "Look twice."),
            conversation=conversation,
            tools=[look],
        )

        if place == 0:  # said before the model was first asked
            assert roles(conversation)[:3] == ["Go.", "Look twice.", "assistant"]
            continue
        assert (
            roles(conversation)
            == [*("Go.", "assistant", "tool", "tool", "Look twice.", "assistant")][:6]
        ), place
        assert [m.text for m in items if isinstance(m, UserMessage)] == ["Look twice."]


@pytest.mark.parametrize("way", WAYS)
def test_run_that_is_about_to_end_goes_on_with_what_is_said(way: str) -> None:
    conversation = Conversation()

    followed(way, "First.", "Second.", at=(2, "And then?"), conversation=conversation)

    assert roles(conversation) == ["Go.", "assistant", "And then?", "assistant"]


def test_message_for_a_run_that_has_ended_is_refused_and_not_kept() -> None:
    stream = Agent(ScriptedTransport("Done.")).stream("Go.")
    for _ in stream:
        pass

    with pytest.raises(ConversationError, match="the run has ended: pass the message to another"):
        stream.say("Wait.")

    assert roles(stream.conversation) == ["Go.", "assistant"]
    Agent(ScriptedTransport("Yes?")).run("Hello?", conversation=stream.conversation)
    assert roles(stream.conversation) == ["Go.", "assistant", "Hello?", "assistant"]


def test_message_that_open_calls_keep_out_stands_after_their_results() -> None:
    confirm = Tool(name="confirm")
    conversation = Conversation()
    followed(
        "blocking",
        calling("confirm"),
        at=(1, "Hurry."),
        conversation=conversation,
        tools=[confirm],
    )
    assert roles(conversation) == ["Go.", "assistant"]
    [call] = conversation.open_calls
    assert conversation.call_state(call) is CallState.HANDED_OUT

    conversation.append(ToolMessage(tool_call_id=call.id, content="yes"))
    Agent(ScriptedTransport("Done."), tools=[confirm]).run(conversation=conversation)

    assert roles(conversation) == ["Go.", "assistant", "tool", "Hurry.", "assistant"]


def test_message_is_in_the_history_of_the_error_that_ends_the_run() -> None:
    def say_now(messages: Sequence[Message]) -> Sequence[Message]:
        stream.say("Now.")
        return messages

    agent = Agent(ScriptedTransport(http_error(400, "no")), history=say_now)
    stream = agent.stream("Go.")
    stream.say("Please.")

    with pytest.raises(ProviderError) as failed:
        list(stream)

    assert [m.text for m in failed.value.messages] == ["Go.", "Please.", "Now."]
    assert failed.value.messages == stream.conversation.messages


def test_messages_from_many_threads_are_all_said() -> None:
    stream = Agent(ScriptedTransport(then="Hm.")).stream("Go.")
    threads = [
        threading.Thread(target=partial(stream.say, f"message {number}")) for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    for _ in stream:
        pass

    said = [m.text for m in stream.conversation.messages if isinstance(m, UserMessage)]
    assert sorted(said[1:]) == sorted(f"message {number}" for number in range(20))
