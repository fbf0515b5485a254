"""Run async tools in tasks that can be left: a tool may ignore that it is cancelled."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, Generic, TypeVar, cast

import anyio

from pathors_agent.calls.functions import (
    STOP_SECONDS,
    STOPS,
    FunctionCall,
    left_alone,
    out_of_time,
    stopped_within,
)
from pathors_agent.errors import ToolError

T = TypeVar("T")

# Enough to close what a tool has open; what takes longer ignores that it is cancelled.
GRACE_SECONDS = 1.0


async def run_in_task(call: FunctionCall, seconds: float | None) -> object:
    """Run an async call for so many seconds, then cancel it, and leave it after a grace time.

    A value that it gives while it is being cancelled counts. A cancellation from outside is
    passed on to it, and leaves it sooner, for whoever stops a run does not wait.

    A call that was left goes on as a task of the event loop itself, and counts as hung until it
    ends. The loop's own end cancels it once more, and waits for it without a limit.
    """
    task = LoopTask(call.run_async)
    task.start()
    in_time = True
    try:
        in_time = await task.wait(seconds)
    except BaseException as error:
        await task.stop(STOP_SECONDS)
        if not task.has_ended:
            call.abandon()
        if task.was_cancelled or not isinstance(error, anyio.get_cancelled_exc_class()):
            raise
        if not task.has_ended:
            raise left_alone() from None
    if not in_time:
        await task.stop(GRACE_SECONDS)
    if seconds is not None and not task.has_ended:
        call.abandon()
        raise out_of_time(seconds, "it goes on by itself, and its result will not be known")
    if seconds is not None and not in_time and not task.has_words:
        raise out_of_time(seconds, "it was stopped, and how far it came is not known")
    return task.result()


class LoopTask(Generic[T]):
    """A task of the event loop's own: no group waits for it."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self.has_ended = False
        self._function = function
        self._scope = anyio.CancelScope()
        self._wake: Callable[[], None] | None = None
        self._on_trio = in_trio_task()
        self._value: T | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin, with the context variables of the caller."""
        if self._on_trio:
            trio = sys.modules["trio"]
            trio.lowlevel.spawn_system_task(self._run, context=copy_context())
        else:
            task = asyncio.get_running_loop().create_task(self._run())
            _TASKS.add(task)
            task.add_done_callback(self._end)

    @property
    def was_cancelled(self) -> bool:
        """Whether it let itself be cancelled."""
        return self._scope.cancelled_caught

    @property
    def has_words(self) -> bool:
        """Whether it ended with something for the model to read."""
        ended_well = self._error is None and not self.was_cancelled
        return ended_well or isinstance(self._error, ToolError)

    async def wait(self, seconds: float | None) -> bool:
        """Wait so long for its end; say whether it came. Only one may wait at a time."""
        if not self.has_ended:
            await (self._wait_on_trio(seconds) if self._on_trio else self._wait(seconds))
        return self.has_ended

    async def stop(self, seconds: float) -> None:
        """Cancel it, and wait so long for its end."""
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self.wait(seconds)

    def result(self) -> T:
        """Give its value, or raise its error; for a task that has ended and was not cancelled."""
        error, self._error = self._error, None  # held no longer: its traceback holds this task
        if isinstance(error, STOPS) and not self._scope.cancel_called:
            raise stopped_within(error) from error
        if error is not None:
            raise error
        return cast(T, self._value)

    async def _run(self) -> None:
        try:
            with self._scope:
                self._value = await self._function()
        # Whatever it is belongs to the one who waits; here it would end the event loop.
        except BaseException as error:  # noqa: BLE001
            self._error = error
        self.has_ended = True
        if self._wake is not None:
            self._wake()

    def _end(self, task: asyncio.Task[None]) -> None:
        _TASKS.discard(task)
        if not self.has_ended:  # cancelled before it began
            self.has_ended, self._error = True, asyncio.CancelledError()
            if self._wake is not None:
                self._wake()

    async def _wait(self, seconds: float | None) -> None:
        # By asyncio's own means: a cancel scope and an event of anyio's take three times as long.
        loop = asyncio.get_running_loop()
        woken = loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        self._wake = wake
        timer = None if seconds is None else loop.call_later(seconds, wake)
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


def in_trio_task() -> bool:
    """Whether trio runs this, and not asyncio."""
    # Whoever runs on trio has imported it; asyncio may have trio as its guest.
    trio: Any = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_task()


# The event loop holds its tasks weakly.
_TASKS: set[asyncio.Task[None]] = set()
