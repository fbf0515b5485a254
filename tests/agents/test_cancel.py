"""Runs that are cancelled or added to while they go, and what the model reads afterwards."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest

from cancelled_agents import LONG, closed, followed
from driven_agents import calling
from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.agents.result import RunResult
from pathors_agent.agents.stream import AsyncRunStream, RunStream
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Status
from pathors_agent.errors import ConversationError, RunNotFinished
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, answer
from pathors_agent.tools.tool import Tool
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


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


# - what the model reads of open calls


@pytest.mark.anyio
async def test_calls_of_a_cancelled_run_have_different_outcomes() -> None:
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


# - between items


@pytest.mark.parametrize("way", WAYS)
def test_reader_cancels_between_two_items(way: str) -> None:
    items = followed(way, answer("One two three", chunk_size=4), at=(2, "cancel"))

    assert {type(item) for item in items} == {TextDelta}


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
