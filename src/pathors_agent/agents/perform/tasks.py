"""Run tools' functions, which may ignore their cancellation, in tasks of the event loop.

On asyncio a tool is cancelled like any task: it gets one `CancelledError`, and can await its own
cleaning up for `STOP_SECONDS` before it is cancelled again. On trio it runs in a cancel scope,
which cancels each await that is not shielded. A call that still runs after that is abandoned, and
counts as hung until it returns.
"""

import asyncio
import math
import sys
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing, closing
from contextvars import copy_context
from functools import partial
from time import monotonic
from types import CoroutineType
from typing import Any, Generic, Literal, TypeVar

import anyio

from pathors_agent.concurrency.event_loops import in_trio_task
from pathors_agent.errors import ToolError
from pathors_agent.messages import Outcome

T = TypeVar("T")

# If four calls of one tool never returned, the fifth will probably not return.
MAX_HUNG_CALLS = 4

Report = Callable[[object], Awaitable[None]]
"""An async function that takes what a tool reports before its result."""

# A run that is stopped ends within a second, whatever its tools do.
STOP_SECONDS = 0.5

_Identity = tuple[int, int]

_HUNG: Counter[_Identity] = Counter()
_LOCK = threading.Lock()


class Unanswered(ToolError):
    """Raised for a call that began and has no result: it timed out, or its outcome is unknown."""

    def __init__(self, text: str, *, outcome: Literal["timeout", "unknown"]) -> None:
        super().__init__(text)
        self.outcome: Outcome = outcome


def out_of_time(seconds: float, fate: str) -> Unanswered:
    """Build the error for a call that timed out; `fate` is what happened to it."""
    return Unanswered(f"Not finished after {seconds:g} s; {fate}.", outcome="timeout")


def left_alone() -> Unanswered:
    """Build the error for a call that continues although its run was stopped."""
    fate = "it goes on by itself, and its result will not be known"
    return Unanswered(f"The run was stopped while it ran; {fate}.", outcome="unknown")


def stopped_at_report() -> Unanswered:
    """Build the error for a sync generator that was closed because its run was stopped."""
    fate = "it was stopped at a report, and how far it came is not known"
    return Unanswered(f"The run was stopped while it ran; {fate}.", outcome="unknown")


# The exceptions that stop a task or a generator. If a tool raises one by itself, because something
# that it awaited was cancelled, only that tool stops.
STOPS = (asyncio.CancelledError, GeneratorExit)


def stopped_within(error: BaseException) -> ToolError:
    """Build the error for a call that ended as if it were cancelled, although its run was not."""
    return ToolError(f"{type(error).__name__}: it was stopped, and not by its run.")


def call_function(function: Callable[[], object]) -> object:
    """Call a sync function; a cancellation inside it does not stop the run."""
    try:
        return function()
    except STOPS as error:
        raise stopped_within(error) from error


class FunctionCall:
    """One call of a tool's function. It counts as hung from `abandon` until it returns.

    A generator's values go to the report, except the last, which is the result: to `report` on the
    event loop, and to `tell` in a thread.
    """

    def __init__(
        self, function: Callable[..., Any], kwargs: dict[str, Any], report: Report | None = None
    ) -> None:
        self._function = function
        self._run: Callable[[], object] = partial(function, **kwargs)
        self._report = report
        self.tell: Callable[[object], None] | None = None
        self._is_stopped = False
        self._state: Literal["new", "running", "hung", "ended"] = "new"

    def run(self) -> object:
        """Run a sync function, unless it was abandoned before it began."""
        if not self._begin():
            return None
        try:
            value = call_function(self._run)
            if isinstance(value, Generator):
                return call_function(partial(self._result_of, value))
            return value
        finally:
            self._end()

    def _result_of(self, values: Generator[object, None, object]) -> object:
        """Return the last value of a generator, and report the others."""
        last: object = None
        is_first = True
        with closing(_with_returned(values)) as items:
            for value in items:
                if self.tell is not None and not is_first:
                    self.tell(last)
                if self._is_stopped:
                    raise stopped_at_report()
                last, is_first = value, False
        return last

    def stop(self) -> None:
        """Close a sync generator when it yields its next value; other calls go on."""
        self._is_stopped = True

    def rest(self, value: object) -> "FunctionCall":
        """Return the call that awaits the value of a sync function."""
        rest = FunctionCall(self._function, {}, self._report)
        rest._run = lambda: value
        return rest

    async def run_async(self) -> object:
        """Run an async function, unless it was abandoned before it began."""
        if not self._begin():
            return None
        try:
            value = self._run()
            if isinstance(value, CoroutineType):  # the usual case: abstract classes are slow
                return await value
            if isinstance(value, AsyncGenerator):
                return await self._last(value)
            return await value if isinstance(value, Awaitable) else value
        finally:
            self._end()

    async def _last(self, values: AsyncGenerator[object, None]) -> object:
        """Return the last value of a generator, and report the others."""
        last: object = None
        is_first = True
        async with aclosing(values):
            async for value in values:
                if self._report is not None and not is_first:
                    await self._report(last)
                last, is_first = value, False
        return last

    def abandon(self) -> None:
        """Stop waiting for the call; without effect if it has ended."""
        self.stop()
        with _LOCK:
            if self._state == "running":
                self._state = "hung"
                _HUNG[_identity(self._function)] += 1
            elif self._state == "new":
                self._state = "ended"

    def _begin(self) -> bool:
        with _LOCK:
            if self._state == "new":
                self._state = "running"
            return self._state == "running"

    def _end(self) -> None:
        with _LOCK:
            if self._state == "hung":
                identity = _identity(self._function)
                _HUNG[identity] -= 1
                if not _HUNG[identity]:
                    del _HUNG[identity]
            self._state = "ended"


def _with_returned(values: Generator[object, None, object]) -> Generator[object, None, None]:
    """Yield the values of a generator, then its return value."""
    returned = yield from values
    if returned is not None:
        yield returned


def is_unfinished(value: object) -> bool:
    """Return True if a sync function returned an awaitable, because it wraps an async one."""
    return isinstance(value, Awaitable | AsyncGenerator)


def hung_calls(function: Callable[..., Any]) -> int:
    """Return how many abandoned calls of a function still run."""
    return _HUNG[_identity(function)] if _HUNG else 0


def _identity(function: Callable[..., Any]) -> _Identity:
    # A bound method is a new object at each access, and a function need not be hashable. A counted
    # call holds its function, so that its ids stay unique.
    owner = getattr(function, "__self__", None)
    return id(owner), id(getattr(function, "__func__", function))


# - tasks -

# A task that is cancelled for the second time ends at once, or ignores cancellation.
SECOND_STOP_SECONDS = 0.25


async def run_in_task(
    call: FunctionCall, seconds: float | None, *, whole: float | None = None
) -> object:
    """Run an async call; cancel it after `seconds`, or when the caller is cancelled.

    `whole` is the timeout that an error names, if a part of it had passed before.

    The call has `STOP_SECONDS` to clean up, and a value that it returns in that time counts. A call
    that does not end is abandoned: it remains a task of the event loop. The loop cancels it once
    more when it shuts down, and waits for it without a limit.
    """
    task = LoopTask(call.run_async)
    task.start()
    try:
        in_time = await task.wait(seconds)
        if not in_time:
            await task.stop()
    except BaseException as error:
        await task.stop()
        if task.was_cancelled or not isinstance(error, anyio.get_cancelled_exc_class()):
            raise
        if not task.has_ended:
            raise left_alone() from None
        in_time = True
    finally:
        if not task.has_ended:
            call.abandon()
    whole = seconds if whole is None else whole
    if whole is not None and not task.has_ended:
        raise out_of_time(whole, "it goes on by itself, and its result will not be known")
    if whole is not None and not in_time and not task.has_words:
        raise out_of_time(whole, "it was stopped, and how far it came is not known")
    return task.result()


class Waiting:
    """Wait on the event loop until something has ended. One task at a time may wait."""

    def __init__(self) -> None:
        self.has_ended = False
        self._wake: Callable[[], None] | None = None
        self._on_trio = in_trio_task()

    def end(self) -> None:
        """Record the end, on the event loop's own thread."""
        self.has_ended = True
        if self._wake is not None:
            self._wake()

    async def wait(self, seconds: float | None) -> bool:
        """Wait for the end, for at most `seconds`; return True if it came."""
        if not self.has_ended:
            await (self._wait_on_trio(seconds) if self._on_trio else self._wait(seconds))
        return self.has_ended

    async def wait_shielded(self, seconds: float) -> None:
        """Wait for the end, for at most `seconds`, even if the waiting task is cancelled."""
        deadline = monotonic() + seconds
        with anyio.CancelScope(shield=True):
            while not self.has_ended and (left := deadline - monotonic()) > 0:
                try:
                    await self.wait(left)
                except asyncio.CancelledError:  # `Task.cancel` passes through the shield
                    continue

    async def _wait(self, seconds: float | None) -> None:
        # A cancel scope and an event of anyio take three times as long.
        loop = asyncio.get_running_loop()
        woken = loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        self._wake = wake
        timer = None
        if seconds is not None and seconds != math.inf:
            timer = loop.call_later(seconds, wake)
        try:
            await woken
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()

    async def _wait_on_trio(self, seconds: float | None) -> None:
        woken = anyio.Event()
        self._wake = woken.set
        try:
            with anyio.move_on_after(seconds):
                await woken.wait()
        finally:
            self._wake = None


class LoopTask(Waiting, Generic[T]):
    """A task of the event loop that is in no task group."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        super().__init__()
        self._function = function
        self._task: asyncio.Task[None] | None = None
        self._scope: anyio.CancelScope | None = None  # on trio
        self._is_stopped = False
        self._value: Any = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Start the task with the caller's context variables."""
        if self._on_trio:
            self._scope = anyio.CancelScope()
            trio = sys.modules["trio"]
            trio.lowlevel.spawn_system_task(self._run_on_trio, self._scope, context=copy_context())
            return
        self._task = asyncio.get_running_loop().create_task(self._run())
        _TASKS.add(self._task)

    async def wait(self, seconds: float | None) -> bool:
        """As `Waiting.wait`."""
        if not self._on_trio:
            # Many tools end as soon as they get the event loop: they need neither future nor timer.
            await asyncio.sleep(0)
        return self.has_ended or await super().wait(seconds)

    @property
    def was_cancelled(self) -> bool:
        """Whether `stop` ended the task."""
        if self._scope is not None:
            return self._scope.cancelled_caught
        return self._is_stopped and isinstance(self._error, asyncio.CancelledError)

    @property
    def has_words(self) -> bool:
        """Whether it ended with a value or a `ToolError`, which the model reads."""
        ended_well = self._error is None and not self.was_cancelled
        return ended_well or isinstance(self._error, ToolError)

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Cancel the task and wait for its end; on asyncio, cancel it again after `seconds`."""
        self._is_stopped = True
        if self._task is None:
            assert self._scope is not None
            self._scope.cancel()
            await self.wait_shielded(seconds)
            return
        self._task.add_done_callback(self._done)
        # An event loop that shuts down has cancelled its tasks: this task already cleans up.
        if not self._task.cancelling():
            self._task.cancel()
        await self.wait_shielded(seconds)
        if not self.has_ended:
            self._task.cancel()
            await self.wait_shielded(SECOND_STOP_SECONDS)

    def result(self) -> T:
        """Return its value, or raise its error; for a task that has ended and was not cancelled."""
        error, self._error = self._error, None  # its traceback refers to this task
        if isinstance(error, STOPS) and not self._is_stopped:
            raise stopped_within(error) from error
        if error is not None:
            raise error
        value: T = self._value
        return value

    async def _run(self) -> None:
        try:
            self._value = await self._function()
        # `result` raises it; a KeyboardInterrupt raised here would end the event loop.
        except BaseException as error:  # noqa: BLE001
            self._error = error
        _TASKS.discard(self._task)
        self.end()

    async def _run_on_trio(self, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                self._value = await self._function()
        except BaseException as error:  # noqa: BLE001  (as in `_run`)
            self._error = error
        self.end()

    def _done(self, task: asyncio.Task[None]) -> None:
        _TASKS.discard(task)
        if not self.has_ended:  # cancelled before it began
            self._error = asyncio.CancelledError()
            self.end()


# The event loop holds its tasks weakly.
_TASKS: set[asyncio.Task[None] | None] = set()
