"""Effects are performed, failed and cancelled, and the history says what was done."""

import asyncio
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, NoReturn

import anyio
import pytest
from anyio.lowlevel import checkpoint

from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.agents.result import RunResult
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import Status
from pathors_agent.errors import (
    IncompleteResponse,
    MalformedResponse,
    ProviderError,
    ToolError,
    TransportError,
)
from pathors_agent.history.loading import dump_messages, load_messages
from pathors_agent.messages import AssistantMessage, Message, ToolMessage, UserMessage
from pathors_agent.testing import (
    AsyncScriptedTransport,
    Reply,
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
from pathors_agent.wire.deltas import Delta, TextDelta
from servers import STALL, ScriptedServer
from ways import WAYS, Way

GO = UserMessage(content="Go.")


def local(name: str, function: Callable[[], object]) -> Tool:
    """Make a tool without parameters."""
    parameters = {"type": "object", "properties": {}}
    return Tool(name=name, parameters=parameters, function=function)


def calling(*names: str) -> Reply:
    return calls(*((name, {}) for name in names))


def said(messages: tuple[Message, ...]) -> list[str]:
    return [message.text for message in messages]


def results(conversation: Conversation) -> dict[str, str]:
    """Give the texts of all results, by the ids of their calls."""
    return {m.tool_call_id: m.text for m in conversation.messages if isinstance(m, ToolMessage)}


def open_names(conversation: Conversation) -> list[str]:
    return [call.name for call in conversation.open_calls]


def stored(conversation: Conversation) -> Conversation:
    """Take a conversation through its stored form, as another process would find it."""
    return Conversation(load_messages(dump_messages(conversation.messages)))


def shape(item: Delta | Message) -> str:
    return getattr(item, "role", type(item).__name__)


# - in which order


def test_deltas_come_before_their_message_and_results_in_call_order(way: Way) -> None:
    script = (
        answer("Let me see.", calls=[("b", {}), ("a", {})], chunk_size=6),
        answer("Seen.", chunk_size=100),
    )

    result = way.stream(*script, prompt="Go.", tools=[local("a", lambda: 1), local("b", lambda: 2)])

    assert [shape(item) for item in way.items] == [
        "TextDelta",
        "TextDelta",
        *["ToolCallDelta"] * 4,
        "assistant",
        "tool",
        "tool",
        "TextDelta",
        "assistant",
    ]
    text = "".join(item.text for item in way.items[:2] if isinstance(item, TextDelta))
    assert text == "Let me see."
    assert way.items[7:9] == [
        ToolMessage(tool_call_id="call_1", content="2"),
        ToolMessage(tool_call_id="call_2", content="1"),
    ]
    assert [item for item in way.items if hasattr(item, "role")] == list(result.messages[1:])
    assert result.messages[0] == GO
    assert result.output == "Seen."


def test_plain_answer_gives_the_same_items(way: Way) -> None:
    body = b"""{"id": "1", "model": "m", "choices": [{"index": 0, "finish_reason": "stop",
        "message": {"role": "assistant", "content": "Hello"}}]}"""

    way.stream(raw(body), prompt="Go.")

    assert way.items == [
        TextDelta("Hello"),
        AssistantMessage(content="Hello", finish_reason="stop", model="m", id="1"),
    ]


def test_blocking_agent_runs_tools_one_after_another() -> None:
    now_running: list[str] = []
    seen: list[list[str]] = []

    def named(name: str) -> Tool:
        def function() -> str:
            now_running.append(name)
            seen.append(list(now_running))
            now_running.remove(name)
            return name

        async def function_async() -> str:
            return function()

        return local(name, function if name == "b" else function_async)

    with ScriptedTransport(calling("c", "b", "a"), "Done.") as transport:
        Agent(transport, tools=[named("a"), named("b"), named("c")]).run("Go.")

    assert seen == [["c"], ["b"], ["a"]]


# - side by side


@pytest.mark.anyio
async def test_async_tools_of_one_answer_run_side_by_side() -> None:
    here = {name: anyio.Event() for name in "abc"}

    def meeting(name: str) -> Tool:
        async def meet() -> str:
            here[name].set()
            for event in here.values():
                await event.wait()
            return name

        return local(name, meet)

    transport = AsyncScriptedTransport(calling("a", "b", "c"), "Done.")
    result = await AsyncAgent(transport, tools=[meeting(name) for name in "abc"]).run("Go.")

    assert said(result.messages) == ["Go.", "", "a", "b", "c", "Done."]


@pytest.mark.anyio
async def test_sync_tools_of_one_answer_run_side_by_side_in_threads() -> None:
    barrier = threading.Barrier(3, timeout=20)
    threads = set()

    def meet() -> str:
        barrier.wait()
        threads.add(threading.get_ident())
        return "met"

    transport = AsyncScriptedTransport(calling("a", "b", "c"), "Done.")
    result = await AsyncAgent(transport, tools=[local(name, meet) for name in "abc"]).run("Go.")

    assert said(result.messages) == ["Go.", "", "met", "met", "met", "Done."]
    assert len(threads) == 3
    assert threading.get_ident() not in threads


@pytest.mark.anyio
async def test_results_are_recorded_in_call_order_whichever_came_first() -> None:
    third, second = anyio.Event(), anyio.Event()
    finished: list[str] = []

    async def a() -> None:
        await second.wait()
        finished.append("a")

    async def b() -> None:
        await third.wait()
        finished.append("b")
        second.set()

    async def c() -> None:
        finished.append("c")
        third.set()

    transport = AsyncScriptedTransport(calling("a", "b", "c"), "Done.")
    tools = [local("a", a), local("b", b), local("c", c)]
    items = []
    async with AsyncAgent(transport, tools=tools).stream("Go.") as stream:
        async for item in stream:
            items.append(item)  # noqa: PERF401  (an async comprehension would hide the claim)

    assert finished == ["c", "b", "a"]
    yielded = [item.tool_call_id for item in items if isinstance(item, ToolMessage)]
    assert yielded == ["call_1", "call_2", "call_3"]
    sent = [m.get("tool_call_id") for m in transport.requests[1]["messages"]]
    assert sent == [None, None, "call_1", "call_2", "call_3"]


@pytest.mark.anyio
async def test_blocking_agent_runs_async_tools_inside_a_running_event_loop() -> None:
    async def look() -> str:
        await checkpoint()
        return "seen"

    with ScriptedTransport(calling("look", "look"), "Done.") as transport:
        result = Agent(transport, tools=[local("look", look)]).run("Go.")

    assert said(result.messages) == ["Go.", "", "seen", "seen", "Done."]


# - tools that fail


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def fail() -> NoReturn:
    raise ValueError("no luck")


def refuse() -> NoReturn:
    raise ToolError("Ask again tomorrow.")


class Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


async def fall_silent() -> NoReturn:
    raise Mute


def test_failing_tool_is_a_message_and_its_siblings_are_kept(way: Way) -> None:
    tools = [
        add,
        local("fail", fail),
        local("refuse", refuse),
        local("fall_silent", fall_silent),
        local("give_object", object),
    ]
    script = calls(
        ("add", {"a": 1, "b": 2}),
        ("fail", {}),
        ("refuse", {}),
        ("fall_silent", {}),
        ("give_object", {}),
        ("ad", {"a": 1, "b": 2}),
        ("add", {"a": "one"}),
        ("add", '{"a": 1, "b": '),
        ("add", {"a": 3, "b": 4}),
    )

    result = way.run(script, "Done.", prompt="Go.", tools=tools)

    found = [m for m in result.messages if isinstance(m, ToolMessage)]
    assert [m.is_error for m in found] == [False, *[True] * 7, False]
    assert [m.text for m in found[:5]] == [
        "3",
        "ValueError: no luck",
        "Ask again tomorrow.",
        "Mute: (its text could not be read: ZeroDivisionError)",
        "give_object ran, but returned a value of type object. It should return text, numbers,"
        " lists, dicts, dataclasses, pydantic models or content parts.",
    ]
    assert 'There is no tool "ad". Did you mean "add"?' in found[5].text
    assert "/a" in found[6].text
    assert "are not JSON" in found[7].text
    assert found[8].text == "7"
    assert result.status is Status.FINISHED


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("is_async", [False, True])
def test_interrupted_batch_keeps_its_results_and_leaves_the_rest_pending(
    way: Way, error: type[BaseException], is_async: bool
) -> None:
    first_is_done = threading.Event()

    def first() -> str:
        first_is_done.set()
        return "first"

    async def first_async() -> str:
        return first()

    def interrupt() -> NoReturn:
        first_is_done.wait(20)
        raise error

    async def interrupt_async() -> NoReturn:
        while not first_is_done.is_set():
            await checkpoint()
        raise error

    conversation = Conversation()
    tools = [
        local("first", first_async),
        local("interrupt", interrupt_async if is_async else interrupt),
    ]

    with pytest.raises(error):
        way.run(
            calling("first", "interrupt"),
            prompt="Go.",
            conversation=conversation,
            tools=tools,
        )

    assert results(conversation) == {"call_1": "first"}
    assert open_names(conversation) == ["interrupt"]
    ran: list[str] = []
    again = [local(name, lambda: ran.append("ran")) for name in ("first", "interrupt")]
    result = way.run("Done.", conversation=stored(conversation), tools=again)
    assert ran == ["ran"]
    assert said(result.messages) == ["done (no value)", "Done."]


def test_interrupted_blocking_batch_does_not_start_the_rest() -> None:
    ran: list[str] = []

    def interrupt() -> NoReturn:
        raise KeyboardInterrupt

    tools = [
        local("a", lambda: ran.append("a")),
        local("b", interrupt),
        local("c", lambda: ran.append("c")),
    ]
    conversation = Conversation()
    with pytest.raises(KeyboardInterrupt):
        Agent(ScriptedTransport(calling("a", "b", "c")), tools=tools).run(
            "Go.", conversation=conversation
        )

    assert ran == ["a"]
    assert open_names(conversation) == ["b", "c"]


@pytest.mark.parametrize("names", [["let_through"], ["first", "let_through"]])
def test_cancellation_that_a_tool_lets_through_is_its_own_failure(names: list[str]) -> None:
    async def let_through() -> None:
        other = asyncio.ensure_future(asyncio.Event().wait())
        other.cancel()
        await other

    async def first() -> str:
        return "first"

    conversation = Conversation()
    tools = [local("first", first), local("let_through", let_through)]
    agent = AsyncAgent(AsyncScriptedTransport(calling(*names), "Done."), tools=tools)

    result = asyncio.run(agent.run("Go.", conversation=conversation))

    assert said(result.messages)[-2:] == [
        "CancelledError: it was stopped, and not by its run.",
        "Done.",
    ]


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


HELLO = b'data: {"id": "1", "choices": [{"index": 0, "delta": {"content": "Hello"}}]}\n\n'
FINISHED = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


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
async def test_result_that_an_async_tool_gives_while_cancelled_is_kept_and_the_run_stops(
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
def test_error_status_is_told_in_the_providers_words(
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
def test_empty_body_of_an_error_status_is_told(way: Way, status: int, retryable: bool) -> None:
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


def test_malformed_answer_is_told_with_its_partial_and_its_history(way: Way) -> None:
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
async def test_open_stream_holds_neither_the_head_nor_what_was_read() -> None:
    transport = WeighingTransport()

    await AsyncAgent(transport).run("Go.")

    assert not transport.holds_head
    assert not transport.holds_piece


# - limits of time and of concurrency -


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tools_are_stopped_when_the_time_of_the_run_is_over(backend: str) -> None:
    ended: list[str] = []

    @tool
    async def hang() -> None:
        """Never come back."""
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("hang")

    @tool
    async def quick() -> str:
        """Come back."""
        return "here"

    async def main() -> RunResult:
        transport = AsyncScriptedTransport(calls(("quick", {}), ("hang", {})))
        agent = AsyncAgent(transport, tools=[hang, quick], limits=Limits(seconds=0.2))
        return await agent.run("Go.")

    result = anyio.run(main, backend=backend)

    assert (result.status, result.limit) == (Status.LIMIT_REACHED, "seconds")
    outcomes = [m.outcome for m in result.messages if isinstance(m, ToolMessage)]
    assert outcomes == ["value", "timeout"]
    assert ended == ["hang"]
    assert result.open_calls == ()


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_tool_of_blocking_code_is_stopped_when_the_time_of_the_run_is_over(kind: str) -> None:
    may_end = threading.Event()

    async def hang_async() -> None:
        await anyio.sleep_forever()

    def hang() -> None:
        may_end.wait(20)

    function = hang_async if kind == "async" else hang
    tools = [
        local("quick", lambda: "here"),
        Tool(name="hang", function=function, timeout=50.0),
    ]
    transport = ScriptedTransport(calling("quick", "hang", "quick"))
    result = Agent(transport, tools=tools, limits=Limits(seconds=0.2)).run("Go.")
    may_end.set()

    assert (result.status, result.limit) == (Status.LIMIT_REACHED, "seconds")
    outcomes = [m.outcome for m in result.messages if isinstance(m, ToolMessage)]
    assert outcomes == ["value", "timeout"]
    assert [call.name for call in result.open_calls] == ["quick"]


def test_model_that_takes_too_long_ends_the_run_at_its_limit(
    scripted_server: Callable[..., ScriptedServer],
) -> None:
    server = scripted_server([STALL])

    with HTTPTransport(server.url) as transport:
        result = Agent(transport, limits=Limits(seconds=0.2)).run("Go.")

    assert (result.status, result.limit) == (Status.LIMIT_REACHED, "seconds")
    assert [m.role for m in result.conversation.messages] == ["user"]


def test_run_goes_on_where_its_time_was_over() -> None:
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
def test_refused_and_warned_calls_are_told_to_the_model(name: str) -> None:
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
