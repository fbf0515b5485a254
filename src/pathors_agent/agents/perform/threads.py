"""Run sync tools in threads.

No thread can be stopped. Threads of sync tools are daemons, so that a tool that never returns does not
keep the process from exiting.
"""

import contextvars
import os
import queue
import sys
import threading
from _thread import LockType, allocate_lock
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, Generic, TypeVar

import anyio
from anyio.lowlevel import RunVar

from pathors_agent.agents.perform.tasks import (
    STOP_SECONDS,
    FunctionCall,
    Report,
    Waiting,
    left_alone,
    out_of_time,
)
from pathors_agent.concurrency.event_loops import Cancellation, EventLoop, running_loop

T = TypeVar("T")

# The size of anyio's own pool. Tools have a pool of their own, so that other work does not wait for
# them.
MAX_TOOL_THREADS = 40

# How long an idle thread waits for the next call, as in anyio and trio.
IDLE_SECONDS = 10.0

# How often a thread that waits for an event loop checks whether the loop has ended.
LOOP_CHECK_SECONDS = 1.0

_FATE = "it goes on by itself, and its result will not be known"


def run_in_thread(call: FunctionCall, seconds: float, cancellation: Cancellation) -> object:
    """Run a sync call from blocking code in a thread, and abandon it after `seconds`.

    If the run is cancelled, a value that the call returns within `STOP_SECONDS` counts.
    """
    woken = threading.Event()
    outcome = start_call(call.run)
    outcome.add_done_callback(lambda _: woken.set())
    try:
        with cancellation.calls(woken.set):
            woken.wait(min(seconds, threading.TIMEOUT_MAX))
        if cancellation.is_set:
            call.stop()
            wait([outcome], STOP_SECONDS)
    finally:
        call.abandon()
    if not outcome.done():
        raise left_alone() if cancellation.is_set else out_of_time(seconds, _FATE)
    return outcome.result()


async def run_in_thread_async(call: FunctionCall, seconds: float | None) -> object:
    """Run a sync call in a thread, and abandon it after `seconds`.

    If the caller is cancelled, a value that the call returns within `STOP_SECONDS` counts.
    """
    task = ThreadTask(call.run)
    task.start()
    try:
        await task.wait(seconds)
    except anyio.get_cancelled_exc_class():
        call.stop()
        await task.wait_shielded(STOP_SECONDS)
        if not task.has_ended:
            raise left_alone() from None
    finally:
        call.abandon()
    if not task.has_ended:
        assert seconds is not None  # without a timeout, only a cancellation ends the wait
        raise out_of_time(seconds, _FATE)
    return task.result()


def teller(report: Report) -> Callable[[object], None]:
    """Return a function that reports from a thread, and waits until the report is taken."""
    loop = running_loop()
    assert loop is not None  # a coroutine runs

    def tell(value: object) -> None:
        waiting = _native_lock()
        waiting.acquire()

        async def give() -> None:
            try:
                await report(value)
            finally:
                waiting.release()

        loop.spawn(give)
        while not waiting.acquire(timeout=LOOP_CHECK_SECONDS) and not loop.is_closed:
            pass

    return tell


class ThreadTask(Waiting, Generic[T]):
    """A sync function in a thread, awaited on an event loop."""

    def __init__(self, function: Callable[[], T]) -> None:
        super().__init__()
        self._function = function
        self._outcome: Future[T] = Future()

    def start(self) -> None:
        """Start the function with the caller's context variables."""
        loop = running_loop()
        assert loop is not None  # a coroutine runs
        _start_thread(partial(caller_context().run, self._run, loop))

    def result(self) -> T:
        """Return its value, or raise its error; for a task that has ended."""
        return self._outcome.result()

    def _run(self, loop: EventLoop) -> None:
        _run_into(self._outcome, self._function)
        loop.call_soon(self.end)


def caller_context() -> contextvars.Context:
    """Copy the caller's context variables, except sniffio's name of the async library."""
    context = contextvars.copy_context()
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, None)
    return context


def _run_into(outcome: Future[T], function: Callable[[], T]) -> None:
    try:
        outcome.set_result(function())
    except BaseException as error:  # noqa: BLE001  (the waiting caller raises it)
        outcome.set_exception(error)


def thread_limit() -> anyio.CapacityLimiter:
    """Return the limiter of an event loop's tool threads; abandoned threads are not counted."""
    try:
        return _PLACES.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(MAX_TOOL_THREADS)
        _PLACES.set(limiter)
        return limiter


_PLACES: RunVar[anyio.CapacityLimiter] = RunVar("_tool_threads")


# - reused threads -


def start_call(function: Callable[[], T]) -> Future[T]:
    """Call a function in a thread, with the caller's context variables."""
    outcome: Future[T] = Future()
    _start_thread(partial(caller_context().run, _run_into, outcome, function))
    return outcome


_Work = Callable[[], object]

# The queues of the idle threads. A list's methods are atomic: a queue that was taken from here gets
# work, whatever its thread does meanwhile.
_IDLE: "list[queue.SimpleQueue[_Work]]" = []

if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_IDLE.clear)


# Its `loop` is the event loop of async tools whose thread this is, if it is one.
THIS_THREAD = threading.local()


def _start_thread(work: _Work) -> None:
    """Run work, which must not raise, in an idle or a new daemon thread."""
    if "gevent.monkey" in sys.modules and getattr(THIS_THREAD, "loop", None) is not None:
        # A thread of gevent is a greenlet of this thread, which runs an event loop.
        start_native_thread(work)
        return
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


def _native_lock() -> LockType:
    """Return a lock of the operating system, also where gevent has replaced those of Python."""
    monkey: Any = sys.modules.get("gevent.monkey")
    made = allocate_lock if monkey is None else monkey.get_original("_thread", "allocate_lock")
    lock: LockType = made()
    return lock


def start_native_thread(work: Callable[[], object]) -> Callable[[float], object]:
    """Run work in a daemon thread of the operating system; return a function that joins it."""
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is None:
        thread = threading.Thread(target=work, name="tools", daemon=True)
        thread.start()
        return thread.join
    # gevent's threads are greenlets of one native thread, which can run one event loop only.
    ended = threading.Event()

    def work_and_end() -> None:
        work()
        ended.set()

    monkey.get_original("_thread", "start_new_thread")(work_and_end, ())
    return ended.wait
