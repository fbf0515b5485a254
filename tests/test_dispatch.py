"""Whatever becomes of a tool's call is a message that the model can read."""

import contextvars
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, NoReturn

import anyio
import pytest
from pydantic import BaseModel, field_serializer

from pathors_agent.chat_completions import encode_message
from pathors_agent.dispatch import MAX_ERROR_CHARACTERS, ToolThread, call_tool, call_tool_async
from pathors_agent.errors import ToolError
from pathors_agent.messages import ContentPart, ToolCall, ToolMessage
from pathors_agent.tools import BoundCall, Tool, ToolRegistry
from ways import WAYS

Function = Callable[..., Any]


def bound(function: Function, arguments: str = "{}") -> BoundCall:
    parameters = {"type": "object", "properties": {}}
    registry = ToolRegistry([Tool(name="look", parameters=parameters, function=function)])
    call = registry.bind(ToolCall(id="call_1", name="look", arguments=arguments))
    assert isinstance(call, BoundCall)
    return call


@pytest.fixture(params=WAYS)
def dispatch(request: pytest.FixtureRequest) -> Callable[[Function], ToolMessage]:
    """Call a function as a tool, in one of the three ways."""

    def blocking(function: Function) -> ToolMessage:
        with ToolThread() as thread:
            return call_tool(bound(function), thread)

    def on_loop(function: Function) -> ToolMessage:
        return anyio.run(call_tool_async, bound(function), backend=request.param)

    return blocking if request.param == "blocking" else on_loop


Dispatch = Callable[[Function], ToolMessage]


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


def raising(error: BaseException) -> Function:
    def fail() -> NoReturn:
        raise error

    return fail


@KINDS
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ToolError("Ask for a day, not a year."), "Ask for a day, not a year."),
        (ToolError(""), ""),
        (ValueError("no such day"), "ValueError: no such day"),
        (KeyError("day"), "KeyError: 'day'"),
        (Mute(), "Mute: (its text could not be read: ZeroDivisionError)"),
        (ValueError("half \ud83d"), "ValueError: half ?"),
        (ExceptionGroup("both", [ValueError("a")]), "ExceptionGroup: both (1 sub-exception)"),
        (TimeoutError(), "TimeoutError: "),
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


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_meant_for_the_caller_reaches_the_caller(
    dispatch: Dispatch, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        dispatch(raising(error()))


# - where a tool runs

asked_by: contextvars.ContextVar[str] = contextvars.ContextVar("asked_by")


@pytest.fixture
def asked_by_ada() -> Iterator[None]:
    token = asked_by.set("Ada")
    yield
    asked_by.reset(token)


@KINDS
@pytest.mark.usefixtures("asked_by_ada")
def test_tool_sees_the_context_variables_of_its_caller(dispatch: Dispatch, kind: Kind) -> None:
    assert dispatch(kind(asked_by.get)).content == "Ada"


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


def test_async_tools_of_blocking_code_share_one_event_loop_that_ends_with_the_run() -> None:
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
