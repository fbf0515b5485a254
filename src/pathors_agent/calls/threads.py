"""Run tools in threads: blocking ones that may hang, and an event loop for blocking code.

All of these threads are daemons, because no thread can be stopped: a tool that never returns must
not keep the process from ending.
"""

import asyncio
import contextvars
import os
import queue
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Generic, Self, TypeVar, cast

import anyio
from anyio.lowlevel import RunVar

from pathors_agent.calls.functions import STOP_SECONDS, FunctionCall, left_alone, out_of_time
from pathors_agent.calls.tasks import SECOND_STOP_SECONDS, Waiting
from pathors_agent.cancellation import Cancellation, RunCancelled
from pathors_agent.errors import ToolLoopError
from pathors_agent.event_loops import EventLoop, running_loop

T = TypeVar("T")

# As many as anyio's own pool has; tools have theirs, so that other work does not wait for them.
MAX_TOOL_THREADS = 40

# A thread without work waits this long for the next call, as anyio's and trio's do.
IDLE_SECONDS = 10.0

# An event loop starts within milliseconds; on a machine that swaps, within seconds.
LOOP_START_SECONDS = 30.0

# A tool that is cancelled has ended by then, or is left.
CLOSE_SECONDS = STOP_SECONDS + 2 * SECOND_STOP_SECONDS

_FATE = "it goes on by itself, and its result will not be known"


def run_in_thread(call: FunctionCall, seconds: float, cancellation: Cancellation) -> object:
    """Run a sync call from blocking code in a thread, and leave it there after `seconds`.

    If the run is cancelled, a value that the call returns within `STOP_SECONDS` counts.
    """
    outcome: Future[object] = Future()
    woken = threading.Event()
    outcome.add_done_callback(lambda _: woken.set())
    _start_thread(partial(_context().run, _settle, outcome, call.run))
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
        assert loop is not None  # a coroutine starts it
        _start_thread(partial(_context().run, self._run, loop))

    def result(self) -> T:
        """Return its value, or raise its error; for a task that has ended."""
        return self._outcome.result()

    def _run(self, loop: EventLoop) -> None:
        _settle(self._outcome, self._function)
        loop.call_soon(self.end)


def _context() -> contextvars.Context:
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


# - an event loop for blocking code


class ToolThread:
    """An event loop in a thread, on which blocking code runs async tools.

    The first async tool starts it, so that it works inside a running event loop (a notebook) as in
    a plain script. It runs until `close`, until this object is collected or until the process
    exits: what tools keep between runs (a client, a pool, a lock) stays on its event loop. After
    `close`, the next async tool starts another one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: _LoopThread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what runs on the event loop and end it; leave it if it does not end soon."""
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
        cancels the function, and raises `RunCancelled` if it lets itself be cancelled.
        """
        cancellation = cancellation or Cancellation()
        caller: _LoopThread | None = getattr(_HERE, "loop", None)
        if caller is None:
            return self._started().run(cancellation, function, *arguments)
        # An async tool calls blocking code that runs async tools: its own event loop stands still.
        with caller.standing_still():
            loop = self._started()
            if not loop.stands_still:
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
                self._loop = _LoopThread()
                weakref.finalize(self, self._loop.close)  # called at the process's exit, too
            return self._loop


_Outcome = Future[tuple[Any, BaseException | None]]

# The event loop whose thread this is.
_HERE = threading.local()


class _LoopThread:
    """One event loop in a thread, from its start to its end."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._still = 0
        self._is_lost = self._has_ended = False
        self._outcomes: set[_Outcome] = set()
        started: _Started = Future()
        try:
            self._join = _start_native_thread(partial(self._main, started))
            self._loop, self._stop = started.result(LOOP_START_SECONDS)
        except Exception as error:
            started.cancel()
            raise ToolLoopError(
                "Async tools of a blocking agent run on an event loop in a thread, which did not"
                f" start ({type(error).__name__}: {error}); AsyncAgent needs no thread for them."
            ) from error

    @property
    def is_usable(self) -> bool:
        """Whether it still takes work, in this process: a forked one has no copy of the thread."""
        return not (self._has_ended or self._is_lost) and self._pid == os.getpid()

    @property
    def stands_still(self) -> bool:
        """Whether a task of it waits in blocking code for another event loop."""
        return self._still > 0

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Note for the time of a `with` block that it stands still; only in its own thread."""
        self._still += 1
        try:
            yield
        finally:
            self._still -= 1

    def run(
        self, cancellation: Cancellation, function: Callable[..., Awaitable[T]], *arguments: Any
    ) -> T:
        """Run an async function; cancel it if the run is cancelled or this thread interrupted."""
        outcome: _Outcome = Future()
        tasks: list[asyncio.Task[None]] = []

        def begin() -> None:
            tasks.append(self._loop.create_task(_carry(outcome, function, *arguments)))

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
        if isinstance(error, asyncio.CancelledError):  # the end of the event loop cancels its tasks
            raise _closed() from error
        if error is not None:
            raise error
        return cast(T, value)

    def _call_soon(self, function: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(function, context=_context())
        except RuntimeError:  # the event loop was closed just now
            self._give_up()

    def _give_up(self) -> None:
        """Tell the threads that wait that the event loop has ended."""
        for outcome in tuple(self._outcomes):
            with suppress(InvalidStateError):
                outcome.set_result((None, _closed()))

    def _await_end(self, outcome: _Outcome) -> None:
        """Give a cancelled function its time; an event loop that it blocks is used no more."""
        try:
            wait([outcome], CLOSE_SECONDS)
        finally:
            self._is_lost = not outcome.done()

    def close(self) -> None:
        """Cancel its tasks, and wait for its end for `CLOSE_SECONDS`."""
        if self._pid != os.getpid() or self._has_ended:
            return
        self._call_soon(self._stop.set)
        if getattr(_HERE, "loop", None) is not self:
            self._join(CLOSE_SECONDS)

    def _main(self, started: "_Started") -> None:
        _HERE.loop = self
        try:
            asyncio.run(_keep(started))
        except BaseException as error:  # noqa: BLE001  (raised where the thread is started)
            if not started.done():
                started.set_exception(error)
        finally:
            self._has_ended = True
            self._give_up()


_Started = Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]


async def _keep(started: _Started) -> None:
    stop = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stop))
    await stop.wait()


async def _carry(
    outcome: _Outcome, function: Callable[..., Awaitable[Any]], *arguments: Any
) -> None:
    """Carry what a function raises as a value: KeyboardInterrupt would end the event loop."""
    value, error = None, None
    try:
        value = await function(*arguments)
    except BaseException as raised:  # noqa: BLE001  (the waiting thread raises it)
        error = raised
    with suppress(InvalidStateError):  # nothing waits for it any more
        outcome.set_result((value, error))


def _closed() -> ToolLoopError:
    return ToolLoopError("The agent was closed while an async tool ran; the call is still open.")


def _start_native_thread(work: Callable[[], None]) -> Callable[[float], object]:
    """Run work in a daemon thread of the operating system; return what waits for its end."""
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
