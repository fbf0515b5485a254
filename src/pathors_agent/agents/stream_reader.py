"""Detect and close an abandoned stream of a run: one that nothing will read any more."""

import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from types import AsyncGeneratorType, FrameType
from typing import Any

from pathors_agent.concurrency.event_loops import EventLoop, running_loop

# Limits of cleaning up a stream whose event loop is closed.
UNWIND_SECONDS = 1.0
_MOST_AWAITS = 16

_Items = Generator[Any, None, None] | AsyncGenerator[Any, None]


class StreamReader:
    """The task or thread that reads one stream, to find out if the stream was abandoned.

    It refers weakly to the stream and its items: a stream that was dropped is abandoned.
    """

    __slots__ = ("_block", "_is_async", "_is_in_with", "_items", "_owner", "_reader", "loop")

    def __init__(self) -> None:
        self.loop: EventLoop | None = None
        """The event loop of an async stream, once it is entered or read."""
        self._is_async = False
        self._items: weakref.ref[_Items] | None = None
        self._owner: weakref.ref[object] | None = None
        self._reader: object = None  # the task or thread that began to read last
        self._block: int | None = None  # the id of the frame in which it reads
        self._is_in_with = False

    def follow(self, items: _Items, stream: object) -> None:
        """Set the driver's generator, and the stream that iterates it."""
        self._items, self._owner = weakref.ref(items), weakref.ref(stream)
        self._is_async = isinstance(items, AsyncGeneratorType)

    def enter_block(self, frame: FrameType) -> None:
        """Set the frame whose `with` block contains the reading."""
        self._is_in_with = True
        self._begin(frame)

    def enter_loop(self, frame: FrameType) -> None:
        """Set the frame that iterates the stream."""
        if not self._is_in_with:
            self._begin(frame)

    def _begin(self, frame: FrameType) -> None:
        self.loop = loop = running_loop() if self._is_async else None
        self._reader = threading.current_thread() if loop is None else loop.current_task()
        self._block = id(frame)

    def end(self) -> None:
        """Release the reader."""
        self._reader = None

    @property
    def items(self) -> _Items | None:
        """The driver's generator, or None if it was garbage collected."""
        return self._items() if self._items is not None else None

    @property
    def has_begun(self) -> bool:
        """Whether the run has a stream."""
        return self._items is not None

    @property
    def is_running(self) -> bool:
        """Whether the driver runs, or something waits for its next item."""
        items: Any = None if self._items is None else self._items()
        if items is None:
            return False
        return bool(items.ag_running if self._is_async else items.gi_running)

    @property
    def is_abandoned(self) -> bool:
        """Whether the stream was abandoned: nothing will read it any more."""
        if not self.has_begun:
            return False
        if self.items is None or (self.loop is not None and self.loop.is_closed):
            return True
        return not self.is_running and self._reader_has_left()

    def _reader_has_left(self) -> bool:
        """Return True if the code that began to read has ended.

        Without a `with` block a loop reads the stream, and refers to its iterator. Code that begins
        the next run in the same task or thread has left that loop.
        """
        if not self._is_in_with and not self._is_iterated():
            return True
        loop, reader = self.loop, self._reader
        if loop is None:
            is_here = reader is threading.current_thread()
            frames = list(sys._current_frames().values())
        elif loop.has_ended(reader):
            return True
        elif loop != running_loop() or reader is not loop.current_task():
            return False
        else:
            is_here, frames = True, [sys._getframe()]
        if is_here and not self._is_in_with:
            return True
        return not any(_is_on_stack(self._block, frame) for frame in frames)

    def _is_iterated(self) -> bool:
        """Return True if something other than the stream refers to its iterator."""
        if self._items is None or self._owner is None:
            return False
        return _holders(self._items) > (self._owner() is not None)

    def close(self) -> None:
        """Close the stream from blocking code."""
        match self.items:
            case Generator() as items:
                with suppress(Exception):  # the failure of an abandoned run
                    items.close()
            case AsyncGenerator() as items:
                self._close_elsewhere(items)
            case None:
                pass

    async def close_async(self) -> None:
        """Close the stream, and wait for its end if it is on this event loop."""
        items = self.items
        if not isinstance(items, AsyncGenerator) or self.loop != running_loop():
            self.close()
            return
        with suppress(Exception):  # as in `close`; or it is being closed already
            await items.aclose()

    def _close_elsewhere(self, items: AsyncGenerator[Any, None]) -> None:
        if self.loop is not None and not self.loop.is_closed:
            self.loop.spawn(items.aclose)
            return
        # In a thread without an event loop, cleaning up fails instead of waiting for the closed loop.
        thread = threading.Thread(target=_unwind, args=(items,), name="unwind", daemon=True)
        thread.start()
        thread.join(UNWIND_SECONDS)


class _CountedObject:
    """An object with one reference."""


def _holders(reference: weakref.ref[Any]) -> int:
    """Return how many references an object has, without those of the interpreter itself."""
    probe = _CountedObject()
    return 1 + _counted(reference) - _counted(weakref.ref(probe))


def _counted(reference: weakref.ref[Any]) -> int:
    return sys.getrefcount(reference())


def _is_on_stack(block: int | None, frame: FrameType | None) -> bool:
    while frame is not None:
        if id(frame) == block:
            return True
        frame = frame.f_back
    return False


def _unwind(items: AsyncGenerator[Any, None]) -> None:
    """Run the `finally` blocks of an async generator whose event loop is closed."""
    closing: Any = items.aclose()
    with suppress(BaseException):
        closing.send(None)
        for _ in range(_MOST_AWAITS):
            closing.throw(RuntimeError("the event loop is closed"))
