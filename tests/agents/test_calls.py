"""Whatever becomes of a tool's call is a message that the model can read."""

import asyncio
import contextvars
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import partial, wraps
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
import pytest
import structlog
from pydantic import BaseModel, field_serializer

from ctrl_c import CtrlC
from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.agents.perform.calls import (
    MAX_ERROR_CHARACTERS,
    call_tool,
    call_tool_async,
)
from pathors_agent.agents.perform.tasks import (
    MAX_HUNG_CALLS,
    FunctionCall,
    hung_calls,
)
from pathors_agent.agents.perform.threads import ToolThread, thread_limit
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.errors import ToolError
from pathors_agent.messages import ContentPart, ToolCall, ToolMessage
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, calls
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.signature import ToolContext
from pathors_agent.tools.tool import Tool
from pathors_agent.wire.chat_completions import encode_message
from ways import WAYS

Function = Callable[..., Any]

# Never waited for when all is well.
LONG = 50.0
# Enough for a thread or a task to begin.
SHORT = 0.3


def bound(function: Function, arguments: str = "{}", **options: Any) -> BoundCall:
    parameters = {"type": "object", "properties": {}}
    tool = Tool(name="look", parameters=parameters, function=function, **options)
    registry = ToolRegistry([tool])
    call = registry.bind(ToolCall(id="call_1", name="look", arguments=arguments))
    assert isinstance(call, BoundCall)
    return call


@pytest.fixture(params=WAYS)
def dispatch(request: pytest.FixtureRequest) -> "Dispatch":
    """Call a function as a tool, in one of the three ways."""

    def blocking(
        function: Function, *, seconds: float | None = None, **options: Any
    ) -> ToolMessage:
        with ToolThread() as thread:
            return call_tool(bound(function, **options), thread, seconds=seconds)

    def on_loop(function: Function, *, seconds: float | None = None, **options: Any) -> ToolMessage:
        call = partial(call_tool_async, bound(function, **options), seconds=seconds)
        return anyio.run(call, backend=request.param)

    return blocking if request.param == "blocking" else on_loop


Dispatch = Callable[..., ToolMessage]


def as_async(function: Function) -> Function:
    async def wrapped(**arguments: Any) -> Any:
        return function(**arguments)

    return wrapped


def as_is(function: Function) -> Function:
    return function


KINDS = pytest.mark.parametrize("kind", [as_is, as_async])
Kind = Callable[[Function], Function]


class Place(BaseModel):
    city: str
    since: date


@dataclass
class Point:
    x: int
    y: float


TEXT_PART = ContentPart(type="text", text="seen")
IMAGE_PART = ContentPart.model_validate(
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
)

# - what a tool gives


@KINDS
@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("as it is", "as it is"),
        ("", ""),
        ("é \U0001f600", "é \U0001f600"),
        (3, "3"),
        (0.5, "0.5"),
        (True, "true"),
        (None, "done (no value)"),
        ([], "[]"),
        (["a", 1], '["a",1]'),
        ({"a": {"b": [1, None]}}, '{"a":{"b":[1,null]}}'),
        (Place(city="Zürich", since=date(2024, 2, 29)), '{"city":"Zürich","since":"2024-02-29"}'),
        (Point(x=1, y=2.5), '{"x":1,"y":2.5}'),
        (b"\xff\x00", '{"type":"bytes","length":2,"base64":"/wA="}'),
        (TEXT_PART, (TEXT_PART,)),
        ([TEXT_PART, IMAGE_PART], (TEXT_PART, IMAGE_PART)),
        ((IMAGE_PART,), (IMAGE_PART,)),
    ],
)
def test_value_becomes_the_content(
    dispatch: Dispatch, kind: Kind, value: object, content: object
) -> None:
    message = dispatch(kind(lambda: value))

    assert message == ToolMessage(tool_call_id="call_1", content=content)  # type: ignore[arg-type]
    assert message.outcome == "value"


def test_half_a_character_becomes_one_that_can_be_sent(dispatch: Dispatch) -> None:
    message = dispatch(lambda: "caf\u00e9 \ud83d!")

    assert message.content == "café �!"
    assert encode_message(message)


class Unwritable:
    pass


class Raising(BaseModel):
    city: str = "Oslo"

    @field_serializer("city")
    def _raise(self, city: str) -> str:
        raise KeyError("no such city")


@KINDS
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Unwritable(), "look ran, but returned a value of type Unwritable. It should return text"),
        (Raising(), "look ran, but its result, a value of type Raising, could not be read"),
    ],
)
def test_value_that_cannot_be_sent_is_told_to_the_model(
    dispatch: Dispatch, kind: Kind, value: object, words: str
) -> None:
    message = dispatch(kind(lambda: value))

    assert message.text.startswith(words)
    assert message.is_error


# - what a tool raises


class Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError("not even a text")


async def add(a: int = 1, b: int = 2) -> int:
    await anyio.lowlevel.checkpoint()
    return a + b


async def count() -> AsyncIterator[int]:
    yield 1
    yield 3


def passed_on(function: Function) -> Function:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


class Adder:
    async def __call__(self) -> int:
        return await add()

    @passed_on
    async def method(self) -> int:
        return await add()


class Decorated:
    @passed_on
    async def __call__(self) -> int:
        return await add()


class Later:
    def __await__(self) -> Generator[Any, Any, int]:
        return add().__await__()


def plain(function: Function) -> Function:
    def call() -> Any:
        return function()

    return call


ASYNC_INSIDE: dict[str, Function] = {
    "decorated": passed_on(add),
    "decorated twice": passed_on(passed_on(add)),
    "wrapped without functools": plain(add),
    "lambda": lambda: add(),
    "partial": partial(add, a=1),
    "partial of decorated": partial(passed_on(add), 1, 2),
    "callable object": Adder(),
    "partial of callable object": partial(Adder()),
    "callable object with a decorated call": Decorated(),
    "decorated method": Adder().method,
    "awaitable of another class": lambda: Later(),
    "decorated async generator": passed_on(count),
    "sync function around an event loop of its own": plain(lambda: anyio.run(add)),
}


@pytest.mark.parametrize("name", ASYNC_INSIDE)
def test_async_tool_is_awaited_whatever_is_around_it(dispatch: Dispatch, name: str) -> None:
    assert dispatch(ASYNC_INSIDE[name]).content == "3"


def test_time_of_a_wrapped_async_tool_is_that_of_both_parts(dispatch: Dispatch) -> None:
    message = dispatch(passed_on(anyio.sleep_forever), timeout=SHORT)

    assert message.outcome == "timeout"
    assert message.text == (
        f"Not finished after {SHORT:g} s; it was stopped, and how far it came is not known."
    )


def test_error_of_a_wrapped_async_tool_is_told_to_the_model(dispatch: Dispatch) -> None:
    async def fail() -> None:
        raise ToolError("no such city")

    assert dispatch(passed_on(fail)).content == "no such city"


def test_function_that_returns_a_future_runs_on_the_event_loop() -> None:
    def start() -> asyncio.Future[int]:
        return asyncio.ensure_future(add())

    with ToolThread() as thread:
        message = call_tool(bound(start), thread)

    assert message.content == "3"


def raising(error: BaseException) -> Function:
    def fail() -> NoReturn:
        raise error

    return fail


@KINDS
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ToolError("Ask for a day, not a year."), "Ask for a day, not a year."),
        (ToolError(), "ToolError"),
        (ToolError(" "), "ToolError"),
        (KeyError(), "KeyError"),
        (AssertionError("\n"), "AssertionError"),
        (ValueError("no such day"), "ValueError: no such day"),
        (KeyError("day"), "KeyError: 'day'"),
        (Mute(), "Mute: (its text could not be read: ZeroDivisionError)"),
        (ValueError("half \ud83d"), "ValueError: half ?"),
        (ExceptionGroup("both", [ValueError("a")]), "ExceptionGroup: both (1 sub-exception)"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_exception_is_told_to_the_model(
    dispatch: Dispatch, kind: Kind, error: Exception, text: str
) -> None:
    message = dispatch(kind(raising(error)))

    assert message == ToolMessage(tool_call_id="call_1", content=text, outcome="error")


@KINDS
def test_end_of_an_iterator_is_told_to_the_model(dispatch: Dispatch, kind: Kind) -> None:
    message = dispatch(kind(lambda: next(iter(()))))

    assert message.is_error
    assert "StopIteration" in message.text


def test_long_text_of_an_exception_is_cut(dispatch: Dispatch) -> None:
    message = dispatch(raising(ToolError("x" * 1_000_000)))

    assert message.content == "x" * MAX_ERROR_CHARACTERS == "x" * 2_000


@KINDS
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("timeout", [None, LONG])
def test_what_is_meant_for_the_caller_reaches_the_caller(
    dispatch: Dispatch, kind: Kind, error: type[BaseException], timeout: float | None
) -> None:
    with pytest.raises(error):
        dispatch(kind(raising(error())), timeout=timeout)


@KINDS
@pytest.mark.parametrize("retryable", [True, False])
def test_tool_error_says_whether_it_ends_the_tool(
    dispatch: Dispatch, kind: Kind, retryable: bool
) -> None:
    message = dispatch(kind(raising(ToolError("Gone.", retryable=retryable))))

    assert (message.text, message.ends_tool) == ("Gone.", not retryable)


# - where a tool runs

asked_by: contextvars.ContextVar[str] = contextvars.ContextVar("asked_by")


@pytest.fixture
def asked_by_ada() -> Iterator[None]:
    token = asked_by.set("Ada")
    yield
    asked_by.reset(token)


@KINDS
@pytest.mark.parametrize("timeout", [None, LONG])
@pytest.mark.usefixtures("asked_by_ada")
def test_tool_sees_the_context_variables_of_its_caller(
    dispatch: Dispatch, kind: Kind, timeout: float | None
) -> None:
    assert dispatch(kind(asked_by.get), timeout=timeout).content == "Ada"


@KINDS
@pytest.mark.anyio
async def test_tool_sees_what_its_caller_set_inside_the_event_loop(kind: Kind) -> None:
    token = asked_by.set("Grace")
    try:
        assert (await call_tool_async(bound(kind(asked_by.get)))).content == "Grace"
    finally:
        asked_by.reset(token)


def test_blocking_code_runs_sync_tools_in_its_own_thread() -> None:
    with ToolThread() as thread:
        message = call_tool(bound(threading.get_ident), thread)

    assert message.content == str(threading.get_ident())


@pytest.mark.anyio
async def test_sync_tool_runs_beside_the_event_loop_and_async_tool_on_it() -> None:
    sync = await call_tool_async(bound(threading.get_ident))
    asynchronous = await call_tool_async(bound(as_async(threading.get_ident)))

    assert sync.content != str(threading.get_ident())
    assert asynchronous.content == str(threading.get_ident())


def test_async_tools_of_blocking_code_share_one_event_loop_that_ends_with_its_block() -> None:
    threads: set[threading.Thread] = set()
    locks: list[anyio.Lock] = []

    async def note() -> None:
        threads.add(threading.current_thread())
        lock = locks[0] if locks else anyio.Lock()
        locks.append(lock)
        async with lock:  # a lock of another loop would raise
            await anyio.lowlevel.checkpoint()

    with ToolThread() as thread:
        call_tool(bound(as_is(lambda: None)), thread)
        assert threads == set()
        for _ in range(3):
            assert not call_tool(bound(note), thread).is_error

    assert len(threads) == 1
    assert threads != {threading.current_thread()}
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.anyio
async def test_blocking_code_runs_async_tools_inside_a_running_event_loop() -> None:
    with ToolThread() as thread:
        message = call_tool(bound(as_async(lambda: "seen")), thread)

    assert message.content == "seen"


def test_tool_thread_ends_also_when_its_block_fails() -> None:
    seen: list[threading.Thread] = []

    async def note() -> None:
        seen.append(threading.current_thread())

    def fail_beside_a_tool() -> None:
        with ToolThread() as thread:
            call_tool(bound(note), thread)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_beside_a_tool()

    assert not seen[0].is_alive()


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
def test_what_a_tool_says_while_it_is_being_stopped_counts(
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


def test_blocking_code_does_not_wait_for_what_ignores_its_cancellation(deaf: Deaf) -> None:
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
async def test_cancelled_async_tool_is_stopped_and_gives_no_result(
    limit: float | None,
) -> None:
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
    [
        (give_while_cancelled, "as far as it came"),
        (fail_while_cancelled, "OSError: closed"),
    ],
)
async def test_what_a_cancelled_tool_gives_is_kept(function: Function, content: str) -> None:
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
def test_interrupt_passes_and_what_the_tool_gave_is_kept(backend: str) -> None:
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
async def test_tool_that_was_left_lets_the_run_go_on(deaf: Deaf) -> None:
    transport = AsyncScriptedTransport(calls(("block", {}), ("see", {})), "Done.")
    tools = [
        Tool(name="block", function=deaf.block),
        Tool(name="see", function=lambda: "seen", timeout=LONG),
    ]

    result = await AsyncAgent(transport, tools=tools, limits=Limits(tool_seconds=SHORT)).run("Go.")

    assert [m.text for m in result.messages if isinstance(m, ToolMessage)] == [LEFT, "seen"]
    assert result.output == "Done."


# - what a tool learns of its call


def test_context_tells_a_tool_when_its_time_is_over(dispatch: Dispatch) -> None:
    def left(context: ToolContext) -> float | None:
        return None if context.deadline is None else context.deadline - time.monotonic()

    async def left_async(context: ToolContext) -> float | None:
        return left(context)

    for function in (left, left_async):
        assert 0 < float(dispatch(function, timeout=LONG).text) <= LONG
        assert dispatch(function).content == "done (no value)"
    assert 0 < float(dispatch(left_async, seconds=LONG).text) <= LONG


@pytest.fixture
def structlog_events() -> Iterator[list[dict[str, Any]]]:
    """Configure structlog as a user does, and give the events that go there."""
    events: list[dict[str, Any]] = []

    def keep(logger: Any, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        events.append({"level": method, **event})
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    yield events
    structlog.reset_defaults()


def tell(context: ToolContext) -> None:
    context.log.debug("looked", at="a map")
    context.log.warning("lost")


CALL = {"gen_ai.tool.name": "look", "gen_ai.tool.call.id": "call_1"}
TOLD = [
    {"event": "looked", "at": "a map", **CALL},
    {"event": "lost", **CALL},
]


def test_log_of_a_tool_goes_to_structlog_where_it_is_configured(
    dispatch: Dispatch, structlog_events: list[dict[str, Any]]
) -> None:
    dispatch(tell)

    assert structlog_events[:2] == [
        {"level": "debug", **TOLD[0]},
        {"level": "warning", **TOLD[1]},
    ]
    assert structlog_events[2]["event"] == "execute_tool"
    assert structlog_events[2]["pathors_agent.outcome"] == "value"


def test_log_of_a_tool_goes_to_the_standard_logger_otherwise(
    dispatch: Dispatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="pathors_agent")

    dispatch(tell)

    told = [vars(record) for record in caplog.records if record.name == "pathors_agent"]
    assert [record["levelname"] for record in told] == ["DEBUG", "WARNING", "INFO"]
    assert [{"event": record["event"], **record["fields"]} for record in told[:2]] == TOLD
    said = "looked gen_ai.tool.name='look' gen_ai.tool.call.id='call_1' at='a map'"
    assert told[0]["msg"] % told[0]["args"] == said


def test_log_of_a_tool_is_silent_without_a_listener(
    dispatch: Dispatch, capfd: pytest.CaptureFixture[str]
) -> None:
    dispatch(tell)

    assert capfd.readouterr() == ("", "")


def test_log_of_a_context_that_no_call_made_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    context = ToolContext(None, None, ToolCall(id="call_1", name="look"), "key")

    tell(context)

    assert context.deadline is None
    assert capfd.readouterr() == ("", "")
