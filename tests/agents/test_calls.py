"""Whatever becomes of a tool's call is a message that the model can read."""

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, MutableMapping
from dataclasses import dataclass
from datetime import date
from functools import partial, wraps
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
import pytest
import structlog
from pydantic import BaseModel, field_serializer

from dispatched_calls import LONG, SHORT, Dispatch, Function, bound
from pathors_agent.agents.perform.bound import MAX_ERROR_CHARACTERS, call_tool, call_tool_async
from pathors_agent.agents.perform.tool_thread import ToolThread
from pathors_agent.errors import ToolError
from pathors_agent.messages import ContentPart, ToolCall, ToolMessage
from pathors_agent.tools.signature import ToolContext
from pathors_agent.wire.chat_completions import encode_message


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
def test_model_reads_that_a_value_cannot_be_sent(
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


def test_model_reads_the_error_of_a_wrapped_async_tool(dispatch: Dispatch) -> None:
    async def fail() -> None:
        raise ToolError("no such city")

    assert dispatch(passed_on(fail)).content == "no such city"


def test_function_that_returns_a_future_runs_on_the_event_loop() -> None:
    def start() -> asyncio.Future[int]:
        return asyncio.ensure_future(add())

    with ToolThread() as thread:
        message = call_tool(bound(start), thread)

    assert message.content == "3"


def noted(error: Exception, note: str) -> Exception:
    error.add_note(note)
    return error


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
        (ValueError("half \ud83d"), "ValueError: half �"),
        (
            ExceptionGroup("all", [ValueError("a"), ExceptionGroup("in", [KeyError()]), Mute()]),
            "ExceptionGroup: all (3 sub-exceptions)\n- ValueError: a\n"
            "- ExceptionGroup: in (1 sub-exception)\n- KeyError\n"
            "- Mute: (its text could not be read: ZeroDivisionError)",
        ),
        (noted(ValueError("a"), "Ask for a day."), "ValueError: a\nAsk for a day."),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_model_reads_the_exception(
    dispatch: Dispatch, kind: Kind, error: Exception, text: str
) -> None:
    message = dispatch(kind(raising(error)))

    assert message == ToolMessage(tool_call_id="call_1", content=text, outcome="error")


@KINDS
def test_model_reads_that_a_tool_raised_stop_iteration(dispatch: Dispatch, kind: Kind) -> None:
    message = dispatch(kind(lambda: next(iter(()))))

    assert message.is_error
    assert "StopIteration" in message.text


def test_long_text_of_an_exception_is_cut(dispatch: Dispatch) -> None:
    message = dispatch(raising(ToolError("x" * 1_000_000)))

    assert message.content == "x" * MAX_ERROR_CHARACTERS == "x" * 2_000


@KINDS
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("timeout", [None, LONG])
def test_base_exceptions_reach_the_caller(
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
async def test_tool_sees_context_variables_set_inside_the_event_loop(kind: Kind) -> None:
    token = asked_by.set("Grace")
    try:
        assert (await call_tool_async(bound(kind(asked_by.get)))).content == "Grace"
    finally:
        asked_by.reset(token)


@pytest.mark.anyio
async def test_sync_tool_runs_in_a_thread_and_async_tool_on_the_event_loop() -> None:
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


# - what a tool learns of its call


def test_context_has_the_deadline_of_a_tool(dispatch: Dispatch) -> None:
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
    """Configure structlog as a user does, and return the events that go there."""
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
TOLD = [{"event": "looked", "at": "a map", **CALL}, {"event": "lost", **CALL}]


def test_log_of_a_tool_goes_to_structlog_where_it_is_configured(
    dispatch: Dispatch, structlog_events: list[dict[str, Any]]
) -> None:
    dispatch(tell)

    assert structlog_events[:2] == [{"level": "debug", **TOLD[0]}, {"level": "warning", **TOLD[1]}]
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
