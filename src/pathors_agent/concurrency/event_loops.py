"""Reach the event loop of a run, asyncio's or trio's, and cancel the run, from any thread.

Every transport imports this module, but asyncio only matters once something runs: its functions
import it, because it takes longer to import than most of this library.
"""

import gc
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio


class EventLoop(Protocol):
    """An event loop. Two are equal if they refer to the same loop."""

    @property
    def is_closed(self) -> bool:
        """Whether the loop has ended."""

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function on the loop, from any thread; without effect on a closed loop."""

    def spawn(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run an async function in a background task, from any thread."""

    def current_task(self) -> object:
        """Return the running task. Must be called on the loop."""

    def has_ended(self, task: object) -> bool:
        """Return True if a task that `current_task` returned has ended."""


def running_loop() -> EventLoop | None:
    """Return the event loop that runs the caller, or None."""
    if in_trio_task():
        return TrioLoop()
    import asyncio

    try:
        return AsyncioLoop(asyncio.get_running_loop())
    except RuntimeError:
        return None


def in_trio_task() -> bool:
    """Return True if trio runs the caller, and not asyncio."""
    # A program that runs on trio has imported it. trio may also run as a guest of asyncio.
    trio: Any = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_task()


def task_is_cancelled() -> bool:
    """Return True if the running task of asyncio was cancelled.

    A `CancelledError` also comes out of a task that awaits something that was cancelled.
    """
    import asyncio

    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class AsyncioLoop:
    """An event loop of asyncio."""

    __slots__ = ("_loop",)

    def __init__(self, loop: "asyncio.AbstractEventLoop") -> None:
        self._loop = loop

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncioLoop) and other._loop is self._loop

    __hash__ = None  # type: ignore[assignment]  # compared, never a key

    @property
    def is_closed(self) -> bool:
        """As `EventLoop.is_closed`."""
        return self._loop.is_closed()

    def call_soon(self, function: Callable[[], object]) -> None:
        """As `EventLoop.call_soon`."""
        with suppress(RuntimeError):  # the loop is closed
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
        import asyncio

        return asyncio.current_task()

    def task_in(self, items: object) -> "asyncio.Task[Any] | None":
        """Return the task that awaits the next item of an async generator, or None.

        Tasks are searched on demand: recording the task at each item would cost more than the item.
        """
        import asyncio

        tasks = asyncio.all_tasks(self._loop)
        return next((task for task in tasks if _awaits(task.get_coro(), items)), None)

    def has_ended(self, task: object) -> bool:
        """As `EventLoop.has_ended`."""
        import asyncio

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

    __hash__ = None  # type: ignore[assignment]  # compared, never a key

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


# The attributes that hold what a coroutine or a generator awaits.
_WAITING = ("cr_await", "ag_await", "gi_yieldfrom")
_WAITS = (CoroutineType, AsyncGeneratorType, GeneratorType)
# Deeper than Python's limit of recursion.
_MOST_AWAITS = 10_000


def _awaits(waiting: object, items: object) -> bool:
    """Return True if a coroutine awaits the next item of an async generator, at any depth."""
    for _ in range(_MOST_AWAITS):
        if waiting is items:
            return True
        if waiting is None or type(waiting).__name__ == "async_generator_athrow":  # being closed
            return False
        for name in _WAITING:
            if hasattr(waiting, name):
                waiting = getattr(waiting, name)
                break
        else:  # an object implemented in C, such as the awaitable of `__anext__`
            inner = (other for other in gc.get_referents(waiting) if isinstance(other, _WAITS))
            waiting = next(inner, None)
    return False


def _do_nothing() -> None:
    pass


# The event loop holds its tasks weakly.
_TASKS: "set[asyncio.Task[None]]" = set()


# - cancellation -


class RunCancelled(BaseException):
    """Raised where a cancelled run waits, for its driver."""


class Cancellation:
    """Whether a run is cancelled, and callbacks for its cancellation. Thread-safe."""

    __slots__ = ("_callbacks", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._callbacks: list[Callable[[], None]] | None = None  # allocated by `add`

    def set(self) -> None:
        """Cancel the run, and call the callbacks. Idempotent."""
        self.is_set = True
        for callback in tuple(self._callbacks or ()):
            callback()

    def add(self, callback: Callable[[], None]) -> None:
        """Call a function when the run is cancelled, at once if it is cancelled already.

        The function may be called several times and from any thread, and must not raise.
        """
        self._callbacks = self._callbacks or []
        self._callbacks.append(callback)
        if self.is_set:
            callback()

    def remove(self, callback: Callable[[], None]) -> None:
        """Remove a callback."""
        if self._callbacks is not None:
            self._callbacks.remove(callback)

    @contextmanager
    def calls(self, callback: Callable[[], None]) -> Iterator[None]:
        """Add a callback during a `with` block."""
        try:
            self.add(callback)
            yield
        finally:
            self.remove(callback)

    def sleep(self, seconds: float) -> None:
        """Sleep; raise `RunCancelled` as soon as the run is cancelled."""
        woken = threading.Event()
        with self.calls(woken.set):
            woken.wait(seconds)
        if self.is_set:
            raise RunCancelled

    async def sleep_async(self, seconds: float) -> None:
        """Sleep, as `sleep` does."""
        import anyio

        woken, loop = anyio.Event(), running_loop()
        assert loop is not None  # a coroutine runs
        with self.calls(partial(loop.call_soon, woken.set)), anyio.move_on_after(seconds):
            await woken.wait()
        if self.is_set:
            raise RunCancelled
