"""Model calls that fail, and limits of time and concurrency."""

import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from driven_agents import DONE, FINISHED, GO, HELLO, calling, local, said, shape
from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import Status
from pathors_agent.errors import (
    IncompleteResponse,
    MalformedResponse,
    ProviderError,
    TransportError,
)
from pathors_agent.messages import ToolMessage, UserMessage
from pathors_agent.testing import (
    AsyncScriptedTransport,
    ScriptedTransport,
    answer,
    calls,
    http_error,
    raw,
)
from pathors_agent.tools.tool import Tool, tool
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.transports.http import HTTPTransport
from pathors_agent.transports.retry import AsyncRetryingTransport
from pathors_agent.wire.chat_completions import ModelOptions
from pathors_agent.wire.deltas import TextDelta
from servers import STALL, ScriptedServer
from ways import WAYS, Way

# - model calls that fail


BODIES = [
    (b'{"error": {"message": "slow down", "type": "rate", "code": "limit"}}', "limit", "rate"),
    (b'{"error": "slow down"}', None, None),
    (b'{"object": "error", "message": "slow down", "code": 429}', "429", None),
    (b'[{"error": {"message": "slow down", "code": 429}}]', "429", None),
    (b'{"detail": "slow down"}', None, None),
    (b"<html>slow down</html>", None, None),
    (b"slow down", None, None),
]


@pytest.mark.parametrize(("body", "code", "kind"), BODIES)
def test_error_status_is_reported_with_the_providers_text(
    way: Way, body: bytes, code: str | None, kind: str | None
) -> None:
    conversation = Conversation()
    refusal = raw(body, status=429, headers={"Retry-After": "7"})

    with pytest.raises(ProviderError, match=r"429: .*slow down") as failed:
        way.run(refusal, prompt="Go.", conversation=conversation)

    error = failed.value
    assert (error.status, error.code, error.type) == (429, code, kind)
    assert error.retry_after == 7
    assert error.retryable
    assert "slow down" in error.body
    assert error.messages == conversation.messages == (GO,)
    assert way.run("Hello.", conversation=conversation).output == "Hello."


@pytest.mark.parametrize(
    ("status", "retryable"), [(301, False), (400, False), (401, False), (404, False), (500, True)]
)
def test_empty_body_of_an_error_status_is_reported(way: Way, status: int, retryable: bool) -> None:
    with pytest.raises(ProviderError, match=f"answered {status}: with an empty body") as failed:
        way.run(raw(b"", status=status), prompt="Go.")

    assert failed.value.status == status
    assert failed.value.retryable is retryable
    assert failed.value.retry_after is None


def test_endless_body_of_an_error_status_is_cut() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 1024

    class Endless(Transport):
        @contextmanager
        def send(self, request: Request) -> Iterator[Response]:
            yield Response(status=500, pieces=endless())

    with pytest.raises(ProviderError) as failed:
        Agent(Endless()).run("Go.")

    assert failed.value.body == "x" * 2048


def test_nothing_of_a_broken_answer_runs(way: Way) -> None:
    ran: list[str] = []
    tools = [local("look", lambda: ran.append("ran"))]
    conversation = Conversation()
    # Role, text, the call, its arguments, the finish_reason, usage, [DONE].
    broken = answer("Hm.", calls=[("look", {})])

    for reply in (broken.broken_after(events=4), broken.ended_after(events=4)):
        with pytest.raises(IncompleteResponse) as failed:
            way.run(reply, prompt="Go.", conversation=conversation, tools=tools)
        partial = failed.value.partial
        assert partial is not None
        assert (partial.content, partial.tool_calls[0].name) == ("Hm.", "look")
        assert failed.value.messages == conversation.messages
        assert failed.value.retryable

    assert ran == []
    assert conversation.messages == (GO, GO)
    assert way.run("Hello.", conversation=conversation).output == "Hello."


@pytest.mark.parametrize("events", [5, 6])
def test_answer_that_breaks_after_its_finish_reason_is_complete(way: Way, events: int) -> None:
    ran: list[str] = []
    tools = [local("look", lambda: ran.append("ran"))]
    reply = answer("Hm.", calls=[("look", {})])

    for cut_short in (reply.broken_after(events=events), reply.ended_after(events=events)):
        result = way.run(cut_short, "Done.", prompt="Go.", tools=tools)
        assert said(result.messages) == ["Go.", "Hm.", "done (no value)", "Done."]

    assert ran == ["ran", "ran"]


def test_error_in_a_stream_is_raised_after_its_deltas(way: Way) -> None:
    ran: list[str] = []
    call = (
        b'data: {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "a",'
        b' "function": {"name": "look", "arguments": "{}"}}]}, "finish_reason": "tool_calls"}]}'
    )
    error = b'data: {"error": {"message": "overloaded", "code": 503}}'
    body = HELLO + call + b"\n\n" + error + b"\n\n" + DONE
    conversation = Conversation()

    with pytest.raises(ProviderError, match="overloaded") as failed:
        way.stream(
            raw(body),
            prompt="Go.",
            conversation=conversation,
            tools=[local("look", lambda: ran.append("ran"))],
        )

    assert [shape(item) for item in way.items] == ["TextDelta", "ToolCallDelta"]
    assert failed.value.status == 200
    assert failed.value.partial is not None
    assert failed.value.partial.content == "Hello"
    assert failed.value.messages == conversation.messages == (GO,)
    assert ran == []


def test_malformed_answer_is_reported_with_its_partial_and_its_history(way: Way) -> None:
    with pytest.raises(MalformedResponse) as failed:
        way.run(raw(HELLO + b"data: {\n\n" + DONE), prompt="Go.")

    assert failed.value.partial is not None
    assert failed.value.partial.content == "Hello"
    assert failed.value.messages == (GO,)


def test_error_of_a_later_turn_carries_the_history_so_far(way: Way) -> None:
    conversation = Conversation()

    with pytest.raises(ProviderError) as failed:
        way.run(
            calling("look"),
            http_error(500, "gone"),
            prompt="Go.",
            conversation=conversation,
            tools=[local("look", lambda: "seen")],
        )

    assert said(failed.value.messages) == ["Go.", "", "seen"]
    assert failed.value.messages == conversation.messages
    result = way.run("Done.", conversation=Conversation(failed.value.messages))
    assert said(result.messages) == ["Done."]


def test_transport_error_before_the_first_byte_passes_as_it_is(way: Way) -> None:
    error = TransportError("no connection", retryable=False)

    with pytest.raises(TransportError) as failed:
        way.run(error, prompt="Go.")

    assert failed.value is error
    assert error.messages == (GO,)


def test_exception_of_a_transports_own_passes(way: Way) -> None:
    conversation = Conversation()
    error = ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError) as failed:
        way.run(error, prompt="Go.", conversation=conversation)

    assert failed.value is error
    assert conversation.messages == (GO,)


@pytest.mark.anyio
async def test_exception_of_a_transports_own_passes_in_mid_stream() -> None:
    class Buggy(AsyncTransport):
        @asynccontextmanager
        async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
            yield AsyncResponse(status=200, pieces=self._play())

        async def _play(self) -> AsyncIterator[bytes]:
            yield HELLO
            raise ZeroDivisionError

    items: list[Any] = []

    async def read() -> None:
        async with AsyncAgent(Buggy()).stream("Go.") as stream:
            async for item in stream:
                items.append(item)  # noqa: PERF401  (they are wanted also when it raises)

    with pytest.raises(ZeroDivisionError):
        await read()

    assert items == [TextDelta("Hello")]


class BareTransport(AsyncTransport):
    """Gives a bare async generator for its pieces."""

    def __init__(self, status: int = 200) -> None:
        self.log: list[str] = []
        self._status = status

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        yield AsyncResponse(status=self._status, pieces=self._play())
        self.log.append("left")

    async def _play(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield HELLO
        finally:
            await checkpoint()
            self.log.append("closed")


@pytest.mark.anyio
@pytest.mark.parametrize("is_wrapped", [False, True])
async def test_pieces_that_are_left_early_are_closed_first(is_wrapped: bool) -> None:
    bare = BareTransport()
    transport = AsyncRetryingTransport(bare) if is_wrapped else bare

    async with AsyncAgent(transport).stream("Go.") as stream:
        async for _ in stream:
            break

    assert bare.log[0] == "closed"


@pytest.mark.anyio
async def test_error_body_that_is_cut_is_closed() -> None:
    transport = BareTransport(400)

    with pytest.raises(ProviderError):
        await AsyncAgent(transport).run("Go.")

    assert transport.log[0] == "closed"


class Head(dict[str, str]):
    """Headers that can be watched."""


class WeighingTransport(AsyncTransport):
    """Looks, when the second piece is wanted, at what is held of the head and of the first."""

    def __init__(self) -> None:
        self.holds_head = True
        self.holds_piece = True

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        yield self._answer()

    def _answer(self) -> AsyncResponse:
        head = Head()
        self._head = weakref.ref(head)
        return AsyncResponse(status=200, headers=head, pieces=self._play())

    async def _play(self) -> AsyncIterator[bytes]:
        piece, other = bytes(bytearray(HELLO)), bytes(bytearray(HELLO))
        yield piece
        self.holds_head = self._head() is not None
        self.holds_piece = sys.getrefcount(piece) > sys.getrefcount(other)
        yield FINISHED


@pytest.mark.anyio
async def test_open_stream_keeps_neither_the_head_nor_the_bytes_that_were_read() -> None:
    transport = WeighingTransport()

    async with AsyncAgent(transport).stream("Go.") as stream:
        async for _ in stream:
            pass

    assert not transport.holds_head
    assert not transport.holds_piece


# - limits of time and of concurrency -


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_tools_are_stopped_when_the_time_of_the_run_is_over(way: Way, kind: str) -> None:
    ended, may_end = threading.Event(), threading.Event()

    async def hang_async() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    def hang() -> None:
        may_end.wait(20)

    function = hang_async if kind == "async" else hang
    tools = [local("quick", lambda: "here"), Tool(name="hang", function=function, timeout=50.0)]
    script = calling("quick", "hang", "quick")

    result = way.run(script, prompt="Go.", tools=tools, limits=Limits(seconds=0.2))
    may_end.set()

    assert (result.status, result.limit) == (Status.LIMIT_REACHED, "seconds")
    outcomes = [m.outcome for m in result.messages if isinstance(m, ToolMessage)]
    if way.name == "blocking":  # one after another
        assert outcomes == ["value", "timeout"]
        assert [call.name for call in result.open_calls] == ["quick"]
    else:
        left = "timeout" if kind == "async" else "unknown"  # the thread goes on
        assert outcomes == ["value", left, "value"]
        assert result.open_calls == ()
    assert ended.is_set() is (kind == "async")


def test_model_that_takes_too_long_ends_the_run_at_its_limit(
    scripted_server: Callable[..., ScriptedServer],
) -> None:
    server = scripted_server([STALL])

    with HTTPTransport(server.url) as transport:
        result = Agent(transport, limits=Limits(seconds=0.2)).run("Go.")

    assert (result.status, result.limit) == (Status.LIMIT_REACHED, "seconds")
    assert [m.role for m in result.conversation.messages] == ["user"]


def test_run_continues_after_its_time_was_over() -> None:
    conversation = Conversation([UserMessage(content="Go.")])
    transport = ScriptedTransport("late")
    stopped = Agent(transport, limits=Limits(seconds=1e-9)).run(conversation=conversation)
    assert stopped.limit == "seconds"

    assert Agent(transport).run(conversation=conversation).output == "late"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_sequential_tool_runs_alone_and_in_its_place(backend: str) -> None:
    log: list[str] = []

    async def passing(name: str) -> None:
        log.append(f"{name} begins")
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        log.append(f"{name} ends")

    @tool
    async def free(name: str) -> None:
        """Run beside others."""
        await passing(name)

    @tool(sequential=True)
    async def alone(name: str) -> None:
        """Run alone."""
        await passing(name)

    async def main() -> None:
        batch = [("free", "a"), ("free", "b"), ("alone", "c"), ("free", "d")]
        entry = calls(*((name, {"name": argument}) for name, argument in batch))
        await AsyncAgent(AsyncScriptedTransport(entry, "ok"), tools=[free, alone]).run("Go.")

    anyio.run(main, backend=backend)

    assert sorted(log[:2]) == ["a begins", "b begins"]
    assert sorted(log[2:4]) == ["a ends", "b ends"]
    assert log[4:] == ["c begins", "c ends", "d begins", "d ends"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_no_more_tools_run_at_once_than_allowed(backend: str) -> None:
    running, most = 0, 0

    @tool
    async def count(n: int) -> None:
        """Count who runs."""
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        running -= 1

    async def main() -> None:
        entry = calls(*(("count", {"n": n}) for n in range(9)))
        limits = Limits(max_concurrency=3)
        await AsyncAgent(AsyncScriptedTransport(entry, "ok"), tools=[count], limits=limits).run(
            "Go."
        )

    anyio.run(main, backend=backend)

    assert most == 3


@pytest.mark.parametrize("name", WAYS)
def test_model_reads_refusals_and_warnings_of_calls(name: str) -> None:
    ran: list[int] = []

    @tool
    def look(n: int) -> str:
        """Look."""
        ran.append(n)
        return "seen"

    limits = Limits(tool_calls=2, repeats_warned=2, last_word=True)
    entry = calls(("look", {"n": 1}), ("look", {"n": 1}), ("look", {"n": 2}))
    way = Way(name)
    result = way.run(entry, "That is all.", prompt="Go.", tools=[look], limits=limits)

    assert ran == [1, 1]
    assert [m.content for m in result.messages if isinstance(m, ToolMessage)] == [
        "seen",
        "seen\n(This was call 2 of look with the same arguments.)",
        "Not run: 2 tool calls were the limit. Answer with what you have.",
    ]
    assert way.requests[-1]["tool_choice"] == "none"
    assert result.output == "That is all."


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_call_is_forced_on_the_first_answer_only(way: Way, choice: Any) -> None:
    add = local("add", lambda: 3)
    options = ModelOptions(tool_choice=choice)
    first = way.run(calling("add"), "3", prompt="1+2", tools=[add], options=options)

    assert first.output == "3"
    assert [request["tool_choice"] for request in way.requests] == [choice, "auto"]
