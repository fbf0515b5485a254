"""Run async tools in tasks that can be left: a tool may ignore that it is cancelled."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from math import inf
from typing import Generic, TypeVar, cast

import anyio

from pathors_agent.errors import ToolError
from pathors_agent.function_calls import FunctionCall, out_of_time

T = TypeVar("T")

# Enough to close what a tool has open; what takes longer ignores that it is cancelled.
GRACE_SECONDS = 1.0


async def run_in_task(call: FunctionCall, seconds: float | None) -> object:
    """Run an async call for so many seconds, then cancel it, and leave it after a grace time.

    A value that it gives while it is being cancelled counts. A cancellation from outside is
    passed on to it, and waits for its end as long as the call may take.

    A call that was left goes on as a task of the event loop itself, and counts as hung until it
    ends. The loop's own end cancels it once more, and waits for it without a limit.
    """
    task = LoopTask(call.run_async)
    task.start()
    end = anyio.current_time() + (inf if seconds is None else seconds)
    in_time = anyio.CancelScope(deadline=end)
    try:
        with in_time:
            await task.ended.wait()
    except BaseException as error:
        await task.stop(max(GRACE_SECONDS, end - anyio.current_time()))
        if task.was_cancelled or not isinstance(error, anyio.get_cancelled_exc_class()):
            raise
    if in_time.cancelled_caught:
        await task.stop(GRACE_SECONDS)
    if seconds is not None and not task.ended.is_set():
        call.abandon()
        raise out_of_time(seconds, "it goes on by itself, and its result will not be known")
    if seconds is not None and in_time.cancelled_caught and not task.has_words:
        raise out_of_time(seconds, "it was stopped, and how far it came is not known")
    return task.result()


class LoopTask(Generic[T]):
    """A task of the event loop's own: no group waits for it."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self.ended = anyio.Event()
        self._function = function
        self._scope = anyio.CancelScope()
        self._value: T | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin, with the context variables of the caller."""
        # Whoever runs on trio has imported it; asyncio may have trio as its guest.
        trio = sys.modules.get("trio")
        if trio is not None and trio.lowlevel.in_trio_task():
            trio.lowlevel.spawn_system_task(self._run, context=copy_context())
        else:
            task = asyncio.ensure_future(self._run())
            _TASKS.add(task)
            task.add_done_callback(_TASKS.discard)

    @property
    def was_cancelled(self) -> bool:
        """Whether it let itself be cancelled."""
        return self._scope.cancelled_caught

    @property
    def has_words(self) -> bool:
        """Whether it ended with something for the model to read."""
        ended_well = self._error is None and not self.was_cancelled
        return ended_well or isinstance(self._error, ToolError)

    async def stop(self, seconds: float) -> None:
        """Cancel it, and wait so long for its end."""
        self._scope.cancel()
        with anyio.move_on_after(seconds, shield=True):
            await self.ended.wait()

    def result(self) -> T:
        """Give its value, or raise its error; for a task that has ended and was not cancelled."""
        error, self._error = self._error, None  # held no longer: its traceback holds this task
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
        self.ended.set()


# The event loop holds its tasks weakly.
_TASKS: set[asyncio.Future[None]] = set()
