"""Carry the cancellation of a run to whatever waits at that moment, from any thread."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Cancellation:
    """Whether a run was cancelled, and what to call when it is.

    Every method may be called from any thread.
    """

    __slots__ = ("_callbacks", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._callbacks: list[Callable[[], None]] | None = None  # until something waits

    def set(self) -> None:
        """Note the cancellation, and call what `calls` added. Idempotent."""
        self.is_set = True
        for callback in tuple(self._callbacks or ()):
            callback()

    @contextmanager
    def calls(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call a function when the run is cancelled during a `with` block, or was before it.

        It may be called more than once and from any thread, and must not raise.
        """
        callbacks = self._callbacks = self._callbacks or []
        callbacks.append(callback)
        try:
            if self.is_set:
                callback()
            yield
        finally:
            callbacks.remove(callback)
