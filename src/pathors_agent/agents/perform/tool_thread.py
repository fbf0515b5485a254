"""Run the async tools of blocking agents on an event loop in a thread."""

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import Any, Self, TypeVar, cast

from pathors_agent.agents.perform.tasks import SECOND_STOP_SECONDS, STOP_SECONDS
from pathors_agent.agents.perform.threads import THIS_THREAD, caller_context, start_native_thread
from pathors_agent.concurrency.event_loops import Cancellation, RunCancelled
from pathors_agent.errors import ToolLoopError

T = TypeVar("T")

# An event loop starts within milliseconds; on a machine that swaps, within seconds.
LOOP_START_SECONDS = 30.0

# A cancelled tool has ended by then, or is abandoned.
CLOSE_SECONDS = STOP_SECONDS + 2 * SECOND_STOP_SECONDS


class ToolThread:
    """An event loop in a thread, on which blocking code runs async tools.

    The first async tool starts it. It works in a notebook, which has a running event loop, and in a
    plain script. It runs until `close`, until this object is collected or until the process exits,
    so the objects that tools keep between runs (a client, a pool, a lock) stay on one event loop.
    After `close`, the next async tool starts another event loop.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: _LoopThread | None = None
        self._stop: weakref.finalize[..., Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the tasks of the event loop and end it; abandon it if it does not end soon."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()

    def run(
        self,
        function: Callable[..., Awaitable[T]],
        *arguments: Any,
        cancellation: Cancellation | None = None,
    ) -> T:
        """Run an async function to its end, from blocking code.

        Raises `ToolLoopError` if no event loop starts, or if it is closed meanwhile. `cancellation`
        cancels the function; `RunCancelled` is raised unless the function returns a value.
        """
        cancellation = cancellation or Cancellation()
        caller: _LoopThread | None = getattr(THIS_THREAD, "loop", None)
        if caller is None:
            return self._started().run(cancellation, function, *arguments)
        # An async tool calls blocking code that runs async tools: its own event loop is blocked.
        with caller.blocked():
            loop = self._started()
            if not loop.is_blocked:
                return loop.run(cancellation, function, *arguments)
            with ToolThread() as another:
                return another._started().run(cancellation, function, *arguments)

    def items(
        self, source: AsyncGenerator[T, None], cancellation: Cancellation
    ) -> Generator[T, None, None]:
        """Yield the values of an async generator to blocking code."""
        try:
            while True:
                try:
                    item = self.run(source.__anext__, cancellation=cancellation)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self.run(source.aclose)

    def _started(self) -> "_LoopThread":
        with self._lock:
            if self._loop is None or not self._loop.is_usable:
                if self._stop is not None:
                    self._stop.detach()
                self._loop = loop = _LoopThread()
                self._stop = weakref.finalize(self, loop.stop)
                self._stop.atexit = False  # `_close_all` waits for it as well
            return self._loop


_Outcome = Future[tuple[Any, BaseException | None]]


class _LoopThread:
    """One event loop in a thread, from its start to its end."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._blocking_calls = 0
        self._is_lost = self._has_ended = False
        self._outcomes: set[_Outcome] = set()
        started: _Started = Future()
        try:
            self._join = start_native_thread(partial(self._main, started))
            self._loop, self._stop = started.result(LOOP_START_SECONDS)
        except Exception as error:
            started.cancel()
            raise ToolLoopError(
                "Async tools of a blocking agent run on an event loop in a thread, which did not"
                f" start ({type(error).__name__}: {error}); AsyncAgent needs no thread for them."
            ) from error

    @property
    def is_usable(self) -> bool:
        """Whether it still takes work. A forked process has no copy of the thread."""
        return not (self._has_ended or self._is_lost) and self._pid == os.getpid()

    @property
    def is_blocked(self) -> bool:
        """Whether one of its tasks waits in blocking code for another event loop."""
        return self._blocking_calls > 0

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Mark it as blocked during a `with` block; only in its own thread."""
        self._blocking_calls += 1
        try:
            yield
        finally:
            self._blocking_calls -= 1

    def run(
        self, cancellation: Cancellation, function: Callable[..., Awaitable[T]], *arguments: Any
    ) -> T:
        """Run an async function; cancel it if the run is cancelled or this thread interrupted."""
        outcome: _Outcome = Future()
        tasks: list[asyncio.Task[None]] = []

        def begin() -> None:
            tasks.append(task := self._loop.create_task(_carry(outcome, function, *arguments)))
            task.add_done_callback(partial(_end, outcome))

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        self._outcomes.add(outcome)
        try:
            self._call_soon(begin)
            with cancellation.calls(lambda: self._call_soon(cancel)):
                value, error = outcome.result()
        except BaseException:
            self._call_soon(cancel)
            self._await_end(outcome)
            raise
        finally:
            self._outcomes.discard(outcome)
        if isinstance(error, asyncio.CancelledError) and cancellation.is_set:
            raise RunCancelled
        if isinstance(error, asyncio.CancelledError):  # the event loop cancels its tasks at its end
            raise _closed() from error
        if error is not None:
            raise error
        return cast(T, value)

    def _call_soon(self, function: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(function, context=caller_context())
        except RuntimeError:  # the event loop was closed just now
            self._give_up()

    def _give_up(self) -> None:
        """Wake the waiting threads: the event loop has ended."""
        for outcome in tuple(self._outcomes):
            with suppress(InvalidStateError):
                outcome.set_result((None, _closed()))

    def _await_end(self, outcome: _Outcome) -> None:
        """Wait for a cancelled function to end; abandon an event loop that it blocks."""
        try:
            wait([outcome], CLOSE_SECONDS)
        finally:
            if not outcome.done():
                self._is_lost = True
                self.stop()

    def stop(self) -> None:
        """Cancel its tasks and end it, without waiting. May be called at any moment."""
        if self._pid == os.getpid() and not self._has_ended:
            self._call_soon(self._stop.set)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Stop it, and wait for its end."""
        self.stop()
        if self._pid == os.getpid() and getattr(THIS_THREAD, "loop", None) is not self:
            self._join(seconds)

    def _main(self, started: "_Started") -> None:
        THIS_THREAD.loop = self
        _RUNNING.add(self)
        try:
            with asyncio.Runner() as runner:
                runner.get_loop()
                runner.run(_keep(started))
        except BaseException as error:  # noqa: BLE001  (raised where the thread is started)
            if not started.done():
                started.set_exception(error)
        finally:
            self._has_ended = True
            _RUNNING.discard(self)
            self._give_up()


_RUNNING: set[_LoopThread] = set()


@atexit.register
def _close_all() -> None:
    """Stop the tools of agents that are not closed, so that they clean up before the process exits."""
    until = monotonic() + CLOSE_SECONDS
    running = tuple(_RUNNING)
    for loop in running:
        loop.stop()
    for loop in running:
        loop.close(max(0.0, until - monotonic()))


_Started = Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]


async def _keep(started: _Started) -> None:
    stop = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stop))
    await stop.wait()


async def _carry(
    outcome: _Outcome, function: Callable[..., Awaitable[Any]], *arguments: Any
) -> None:
    """Return the exception of a function as a value.

    A KeyboardInterrupt would end the event loop.
    """
    value, error = None, None
    try:
        value = await function(*arguments)
    except BaseException as raised:  # noqa: BLE001  (the waiting thread raises it)
        error = raised
    with suppress(InvalidStateError):  # nothing waits for it any more
        outcome.set_result((value, error))


def _end(outcome: _Outcome, task: asyncio.Task[None]) -> None:
    """Wake the waiting thread of a task that was cancelled before it began."""
    if task.cancelled():
        with suppress(InvalidStateError):
            outcome.set_result((None, asyncio.CancelledError()))


def _closed() -> ToolLoopError:
    return ToolLoopError("The agent was closed while an async tool ran; the call is still open.")
