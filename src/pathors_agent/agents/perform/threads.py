"""Run sync tools in threads, which may hang.

The threads are daemons, because no thread can be stopped: a tool that never returns must not keep
the process from ending.
"""

import contextvars
import os
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, Generic, TypeVar

import anyio
from anyio.lowlevel import RunVar

from pathors_agent.agents.perform.functions import (
    STOP_SECONDS,
    FunctionCall,
    left_alone,
    out_of_time,
)
from pathors_agent.agents.perform.tasks import Waiting
from pathors_agent.concurrency.cancellation import Cancellation
from pathors_agent.concurrency.event_loops import EventLoop, running_loop

T = TypeVar("T")

# As many as anyio's own pool has; tools have theirs, so that other work does not wait for them.
MAX_TOOL_THREADS = 40

# A thread without work waits this long for the next call, as anyio's and trio's do.
IDLE_SECONDS = 10.0

_FATE = "it goes on by itself, and its result will not be known"


def run_in_thread(call: FunctionCall, seconds: float, cancellation: Cancellation) -> object:
    """Run a sync call from blocking code in a thread, and leave it there after `seconds`.

    If the run is cancelled, a value that the call returns within `STOP_SECONDS` counts.
    """
    outcome: Future[object] = Future()
    woken = threading.Event()
    outcome.add_done_callback(lambda _: woken.set())
    _start_thread(partial(caller_context().run, _settle, outcome, call.run))
    try:
        with cancellation.calls(woken.set):
            woken.wait(seconds)
        if cancellation.is_set:
            wait([outcome], STOP_SECONDS)
    finally:
        call.abandon()
    if not outcome.done():
        raise left_alone() if cancellation.is_set else out_of_time(seconds, _FATE)
    return outcome.result()


async def run_in_thread_async(call: FunctionCall, seconds: float | None) -> object:
    """Run a sync call in a thread, and leave it there after `seconds`.

    If the caller is cancelled, a value that the call returns within `STOP_SECONDS` counts.
    """
    task = ThreadTask(call.run)
    task.start()
    try:
        await task.wait(seconds)
    except anyio.get_cancelled_exc_class():
        await task.wait_shielded(STOP_SECONDS)
        if not task.has_ended:
            raise left_alone() from None
    finally:
        call.abandon()
    if not task.has_ended:
        assert seconds is not None  # else nothing cuts it short
        raise out_of_time(seconds, _FATE)
    return task.result()


class ThreadTask(Waiting, Generic[T]):
    """A sync function that runs in a thread, seen from an event loop."""

    def __init__(self, function: Callable[[], T]) -> None:
        super().__init__()
        self._function = function
        self._outcome: Future[T] = Future()

    def start(self) -> None:
        """Begin, with the context variables of the caller."""
        loop = running_loop()
        assert loop is not None  # a coroutine runs
        _start_thread(partial(caller_context().run, self._run, loop))

    def result(self) -> T:
        """Return its value, or raise its error; for a task that has ended."""
        return self._outcome.result()

    def _run(self, loop: EventLoop) -> None:
        _settle(self._outcome, self._function)
        loop.call_soon(self.end)


def caller_context() -> contextvars.Context:
    """Copy the caller's context variables, except the one that names its event loop's library."""
    context = contextvars.copy_context()
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, None)
    return context


def _settle(outcome: Future[T], function: Callable[[], T]) -> None:
    try:
        outcome.set_result(function())
    except BaseException as error:  # noqa: BLE001  (the waiting caller raises it)
        outcome.set_exception(error)


def thread_limit() -> anyio.CapacityLimiter:
    """Return the limiter of an event loop's tool threads; a hung thread holds no place."""
    try:
        return _PLACES.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(MAX_TOOL_THREADS)
        _PLACES.set(limiter)
        return limiter


_PLACES: RunVar[anyio.CapacityLimiter] = RunVar("_tool_threads")


# - threads that are used again

_Work = Callable[[], object]

# The threads without work, by the queues on which they wait for it. A list's own methods are
# atomic: a queue that was taken from here gets work, whatever its thread does meanwhile.
_IDLE: "list[queue.SimpleQueue[_Work]]" = []

if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_IDLE.clear)


def _start_thread(work: _Work) -> None:
    """Run work that raises nothing in a daemon thread: one that is idle, or a new one."""
    try:
        waiting = _IDLE.pop()
    except IndexError:
        threading.Thread(target=_serve, args=([work],), name="tool", daemon=True).start()
    else:
        waiting.put(work)


def _serve(first: list[_Work]) -> None:
    waiting: queue.SimpleQueue[_Work] = queue.SimpleQueue()
    first.pop()()
    while True:
        _IDLE.append(waiting)
        try:
            work = waiting.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            try:
                _IDLE.remove(waiting)
            except ValueError:  # it was taken just now
                work = waiting.get()
            else:
                return
        work()
        del work  # an idle thread holds no tool's values
