"""Run async tools in tasks of the event loop; a task that ignores its cancellation is left behind.

On asyncio a tool is cancelled as asyncio cancels any task: it gets one `CancelledError`, and what
it awaits while it cleans up is not cancelled again before `STOP_SECONDS` have passed. On trio it
runs in a cancel scope, which cancels each await that is not shielded.
"""

import asyncio
import math
import sys
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from time import monotonic
from typing import Generic, TypeVar, cast

import anyio

from pathors_agent.agents.perform.functions import (
    STOP_SECONDS,
    STOPS,
    FunctionCall,
    left_alone,
    out_of_time,
    stopped_within,
)
from pathors_agent.concurrency.event_loops import in_trio_task
from pathors_agent.errors import ToolError

T = TypeVar("T")

# A task that is cancelled for the second time ends at once, or ignores cancellation.
SECOND_STOP_SECONDS = 0.25


async def run_in_task(
    call: FunctionCall, seconds: float | None, *, whole: float | None = None
) -> object:
    """Run an async call; cancel it after `seconds`, or when the caller is cancelled.

    `whole` is the time that an error names, if a part of it was over before.

    The call has `STOP_SECONDS` to clean up. A value that it returns in that time counts. A call
    that does not end is left: it goes on as a task of the event loop and counts as hung until it
    ends. The loop's own end cancels it once more, and waits for it without a limit.
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
        """Note the end, on the event loop's own thread."""
        self.has_ended = True
        if self._wake is not None:
            self._wake()

    async def wait(self, seconds: float | None) -> bool:
        """Wait for the end, for at most `seconds`; return True if it came."""
        if not self.has_ended:
            await (self._wait_on_trio(seconds) if self._on_trio else self._wait(seconds))
        return self.has_ended

    async def wait_shielded(self, seconds: float) -> None:
        """Wait for the end, for at most `seconds`, also when the waiting task is cancelled."""
        deadline = monotonic() + seconds
        with anyio.CancelScope(shield=True):
            while not self.has_ended and (left := deadline - monotonic()) > 0:
                try:
                    await self.wait(left)
                except asyncio.CancelledError:  # `Task.cancel` passes through the shield
                    continue

    async def _wait(self, seconds: float | None) -> None:
        # By asyncio's own means: a cancel scope and an event of anyio's take three times as long.
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
    """A task of the event loop: no task group waits for it."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        super().__init__()
        self._function = function
        self._task: asyncio.Task[None] | None = None
        self._scope: anyio.CancelScope | None = None  # on trio
        self._is_stopped = False
        self._value: T | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin, with the context variables of the caller."""
        if self._on_trio:
            self._scope = anyio.CancelScope()
            trio = sys.modules["trio"]
            trio.lowlevel.spawn_system_task(self._run_on_trio, self._scope, context=copy_context())
            return
        self._task = asyncio.get_running_loop().create_task(self._run())
        _TASKS.add(self._task)
        self._task.add_done_callback(self._done)

    @property
    def was_cancelled(self) -> bool:
        """Whether `stop` was called and the task ended by its cancellation."""
        if self._scope is not None:
            return self._scope.cancelled_caught
        return self._is_stopped and isinstance(self._error, asyncio.CancelledError)

    @property
    def has_words(self) -> bool:
        """Whether it ended with something for the model to read."""
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
        # An event loop that ends has cancelled all its tasks: this one is cleaning up already.
        if not self._task.cancelling():
            self._task.cancel()
        await self.wait_shielded(seconds)
        if not self.has_ended:
            self._task.cancel()
            await self.wait_shielded(SECOND_STOP_SECONDS)

    def result(self) -> T:
        """Return its value, or raise its error; for a task that has ended and was not cancelled."""
        error, self._error = self._error, None  # held no longer: its traceback holds this task
        if isinstance(error, STOPS) and not self._is_stopped:
            raise stopped_within(error) from error
        if error is not None:
            raise error
        return cast(T, self._value)

    async def _run(self) -> None:
        try:
            self._value = await self._function()
        # The waiting task raises it; raised here, KeyboardInterrupt would end the event loop.
        except BaseException as error:  # noqa: BLE001
            self._error = error
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
_TASKS: set[asyncio.Task[None]] = set()
