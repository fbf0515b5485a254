"""Reach the event loop of a run, asyncio's or trio's, from any thread."""

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Protocol


class EventLoop(Protocol):
    """An event loop; two are equal if they are the same event loop."""

    @property
    def is_closed(self) -> bool:
        """Whether it will run nothing any more."""

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function on the event loop, from any thread; without effect after its end."""

    def spawn(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run an async function in a task that nothing waits for, from any thread."""

    def current_task(self) -> object:
        """Return the task that runs now; only on the event loop itself."""

    def has_ended(self, task: object) -> bool:
        """Return True if a task that `current_task` returned has ended."""


def running_loop() -> EventLoop | None:
    """Return the event loop that runs this code, or None."""
    if in_trio_task():
        return TrioLoop()
    try:
        return AsyncioLoop(asyncio.get_running_loop())
    except RuntimeError:
        return None


def in_trio_task() -> bool:
    """Return True if trio runs this code, and not asyncio."""
    # A program that runs on trio has imported it; asyncio may have trio as its guest.
    trio: Any = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_task()


class AsyncioLoop:
    """An event loop of asyncio."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncioLoop) and other._loop is self._loop

    __hash__ = None  # type: ignore[assignment]  # it is compared, and is no key

    @property
    def is_closed(self) -> bool:
        """As `EventLoop.is_closed`."""
        return self._loop.is_closed()

    def call_soon(self, function: Callable[[], object]) -> None:
        """As `EventLoop.call_soon`."""
        with suppress(RuntimeError):  # it was closed
            self._loop.call_soon_threadsafe(function)

    def spawn(self, function: Callable[[], Awaitable[object]]) -> None:
        """As `EventLoop.spawn`."""

        async def run() -> None:
            with suppress(Exception):
                await function()

        def begin() -> None:
            task = self._loop.create_task(run())
            _TASKS.add(task)
            task.add_done_callback(_TASKS.discard)

        self.call_soon(begin)

    def current_task(self) -> object:
        """As `EventLoop.current_task`."""
        return asyncio.current_task()

    def task_in(self, items: object) -> asyncio.Task[Any] | None:
        """Return the task that awaits the next item of an async generator, or None.

        It is looked for when it is needed: noting it would cost each item more than its reading.
        """
        tasks = asyncio.all_tasks(self._loop)
        return next((task for task in tasks if _awaits(task.get_coro(), items)), None)

    def has_ended(self, task: object) -> bool:
        """As `EventLoop.has_ended`."""
        return isinstance(task, asyncio.Task) and task.done()


class TrioLoop:
    """An event loop of trio."""

    __slots__ = ("_token", "_trio")

    def __init__(self) -> None:
        trio: Any = sys.modules["trio"]
        self._token = trio.lowlevel.current_trio_token()
        self._trio = trio

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrioLoop) and other._token is self._token

    __hash__ = None  # type: ignore[assignment]  # it is compared, and is no key

    @property
    def is_closed(self) -> bool:
        """As `EventLoop.is_closed`."""
        try:
            self._token.run_sync_soon(_do_nothing, idempotent=True)
        except self._trio.RunFinishedError:
            return True
        return False

    def call_soon(self, function: Callable[[], object]) -> None:
        """As `EventLoop.call_soon`."""
        with suppress(self._trio.RunFinishedError):
            self._token.run_sync_soon(function)

    def spawn(self, function: Callable[[], Awaitable[object]]) -> None:
        """As `EventLoop.spawn`."""

        async def run() -> None:
            with suppress(Exception):
                await function()

        self.call_soon(lambda: self._trio.lowlevel.spawn_system_task(run))

    def current_task(self) -> object:
        """As `EventLoop.current_task`."""
        return self._trio.lowlevel.current_task()

    def has_ended(self, task: object) -> bool:
        """As `EventLoop.has_ended`."""
        coroutine: Any = getattr(task, "coro", None)
        return coroutine is not None and getattr(coroutine, "cr_frame", True) is None


# What may wait for something else, by the attribute that holds it.
_WAITING = ("cr_await", "ag_await", "gi_yieldfrom")
_WAITS = (CoroutineType, AsyncGeneratorType, GeneratorType)
# Deeper than any recursion of Python's.
_MOST_AWAITS = 10_000


def _awaits(waiting: object, items: object) -> bool:
    """Return True if a coroutine waits for the next item of an async generator, however deep."""
    for _ in range(_MOST_AWAITS):
        if waiting is items:
            return True
        if waiting is None or type(waiting).__name__ == "async_generator_athrow":  # it is closed
            return False
        for name in _WAITING:
            if hasattr(waiting, name):
                waiting = getattr(waiting, name)
                break
        else:  # an object of C, such as `__anext__` of an async generator returns
            inner = (other for other in gc.get_referents(waiting) if isinstance(other, _WAITS))
            waiting = next(inner, None)
    return False


def _do_nothing() -> None:
    pass


# The event loop holds its tasks weakly.
_TASKS: set[asyncio.Task[None]] = set()
