"""Carry the cancellation of a run to whatever waits at that moment, from any thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from pathors_agent.concurrency.event_loops import running_loop


class RunCancelled(BaseException):
    """Raised where a cancelled run waits; its driver ends the run there."""


class Cancellation:
    """Whether a run was cancelled, and what to call when it is.

    Every method may be called from any thread.
    """

    __slots__ = ("_callbacks", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._callbacks: list[Callable[[], None]] | None = None  # until something waits

    def set(self) -> None:
        """Note the cancellation, and call what was added. Idempotent."""
        self.is_set = True
        for callback in tuple(self._callbacks or ()):
            callback()

    def add(self, callback: Callable[[], None]) -> None:
        """Call a function when the run is cancelled; at once if it was cancelled before.

        It may be called more than once and from any thread, and must not raise.
        """
        self._callbacks = self._callbacks or []
        self._callbacks.append(callback)
        if self.is_set:
            callback()

    def remove(self, callback: Callable[[], None]) -> None:
        """Call a function that was added no more."""
        if self._callbacks is not None:
            self._callbacks.remove(callback)

    @contextmanager
    def calls(self, callback: Callable[[], None]) -> Iterator[None]:
        """Add a function for the time of a `with` block."""
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
        """As `sleep`."""
        import anyio

        woken, loop = anyio.Event(), running_loop()
        assert loop is not None  # a coroutine runs
        with self.calls(partial(loop.call_soon, woken.set)), anyio.move_on_after(seconds):
            await woken.wait()
        if self.is_set:
            raise RunCancelled
