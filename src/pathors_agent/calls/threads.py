"""Run tools in threads: blocking ones that may hang, and an event loop for blocking code."""

import contextvars
import math
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import Future, wait
from typing import Any, Self, TypeVar, cast

import anyio
from anyio.from_thread import BlockingPortal
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync

from pathors_agent.calls.functions import STOP_SECONDS, FunctionCall, left_alone, out_of_time
from pathors_agent.calls.tasks import GRACE_SECONDS

T = TypeVar("T")

# As many as anyio's own pool has; tools have theirs, so that other work does not wait for them.
MAX_TOOL_THREADS = 40

_FATE = "it goes on by itself, and its result will not be known"


def run_in_thread(call: FunctionCall, seconds: float) -> object:
    """Run a sync call from blocking code in a thread, and leave it there after so many seconds."""
    future: Future[object] = Future()
    context = contextvars.copy_context()
    # A daemon: a call that hangs must not keep the program from ending.
    threading.Thread(
        target=context.run, args=(_work, call, future), name="tool", daemon=True
    ).start()
    try:
        wait([future], seconds)
    finally:
        call.abandon()
    if not future.done():
        raise out_of_time(seconds, _FATE)
    return future.result()


async def run_in_thread_async(call: FunctionCall, seconds: float | None) -> object:
    """Run a sync call in a worker thread, and leave it there after so many seconds.

    What it gives while its run is being cancelled counts, if it gives it soon.
    """
    future: Future[object] = Future()
    try:
        with anyio.move_on_after(seconds):
            await run_sync(_work, call, future, abandon_on_cancel=True, limiter=no_limit())
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await run_sync(wait, [future], STOP_SECONDS, limiter=no_limit())
        if not future.done():
            raise left_alone() from None
    finally:
        call.abandon()
    if not future.done():
        assert seconds is not None  # else nothing cuts it short
        raise out_of_time(seconds, _FATE)
    return future.result()


def _work(call: FunctionCall, future: Future[object]) -> None:
    try:
        future.set_result(call.run())
    except BaseException as error:  # noqa: BLE001  (it is for the one who waits)
        future.set_exception(error)


def thread_limit() -> anyio.CapacityLimiter:
    """The places of an event loop's tool threads; a hung thread holds none."""
    return _limiter(_PLACES, MAX_TOOL_THREADS)


def no_limit() -> anyio.CapacityLimiter:
    """A limiter for threads that have their place already."""
    return _limiter(_NO_LIMIT, math.inf)


_PLACES: RunVar[anyio.CapacityLimiter] = RunVar("_tool_threads")
_NO_LIMIT: RunVar[anyio.CapacityLimiter] = RunVar("_tool_threads_unlimited")


def _limiter(variable: RunVar[anyio.CapacityLimiter], places: float) -> anyio.CapacityLimiter:
    try:
        return variable.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(places)
        variable.set(limiter)
        return limiter


class ToolThread:
    """Where blocking code runs async tools: an event loop in a thread of its own.

    It is started by the first async tool and stopped when the `with` block ends, so that it works
    inside a running event loop (a notebook) as in a plain script. A loop that does not end within
    the grace time, because of what a tool left on it, is left to itself.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._thread is None or self._portal is None:
            return
        self._portal.start_task_soon(self._portal.stop, True)  # noqa: FBT003  (its own name)
        self._thread.join(GRACE_SECONDS)
        self._thread = self._portal = None

    def run(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run an async function to its end, from blocking code."""
        portal = self._portal or self._start()
        outcome = portal.start_task_soon(_outcome, function, *arguments)
        try:
            value, error = outcome.result()
        except BaseException:
            outcome.cancel()
            raise
        if error is not None:
            raise error
        return cast(T, value)

    def items(self, source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """Give what an async generator gives, to blocking code; one that is left ends with us."""
        while True:
            try:
                item = self.run(source.__anext__)
            except StopAsyncIteration:
                return
            yield item

    def _start(self) -> BlockingPortal:
        runs: Future[BlockingPortal] = Future()
        self._thread = threading.Thread(
            target=anyio.run, args=(_keep, runs), name="tools", daemon=True
        )
        self._thread.start()
        self._portal = runs.result()
        return self._portal


async def _keep(runs: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        runs.set_result(portal)
        await portal.sleep_until_stopped()


async def _outcome(
    function: Callable[..., Awaitable[T]], *arguments: Any
) -> tuple[T | None, BaseException | None]:
    """Carry what a function raises as a value: KeyboardInterrupt would end the portal."""
    try:
        return await function(*arguments), None
    except BaseException as error:  # noqa: BLE001  (raised again by the one who waits)
        return None, error
