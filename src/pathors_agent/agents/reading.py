"""Know whether a stream is still read, and close one that was left."""

import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from types import AsyncGeneratorType, FrameType, GeneratorType
from typing import Any

from pathors_agent.concurrency.event_loops import EventLoop, running_loop

# Cleaning up after a closed event loop is given up after this long, and after so many awaits.
UNWIND_SECONDS = 1.0
_MOST_AWAITS = 16

_Items = Generator[Any, None, None] | AsyncGenerator[Any, None]


class Reading:
    """The items of one stream, and what reads them.

    It holds neither the stream nor its items: one that is dropped is left.
    """

    __slots__ = ("_block", "_is_in_with", "_items", "_owner", "_reader", "loop")

    def __init__(self) -> None:
        self.loop: EventLoop | None = None
        """The event loop of an async stream, once it is read."""
        self._items: weakref.ref[_Items] | None = None
        self._owner: weakref.ref[object] | None = None
        self._reader: object = None  # the task or thread that began to read last
        self._block: int | None = None  # the frame in which it reads
        self._is_in_with = False

    # - its beginning and end -

    def follow(self, items: _Items, stream: object) -> None:
        """Note the driver's generator, and the stream that hands it out."""
        self._items, self._owner = weakref.ref(items), weakref.ref(stream)

    def begin_on_loop(self) -> None:
        """Note the event loop that the stream is read on."""
        self.loop = running_loop()

    def enter_block(self, frame: FrameType) -> None:
        """Note the code whose `with` block the stream is read in."""
        self._is_in_with = True
        self._begin(frame)

    def enter_loop(self, frame: FrameType) -> None:
        """Note the code that iterates the stream."""
        if not self._is_in_with:
            self._begin(frame)

    def _begin(self, frame: FrameType) -> None:
        loop = running_loop() if isinstance(self.items, AsyncGenerator) else None
        self._reader = threading.current_thread() if loop is None else loop.current_task()
        self._block = id(frame)

    def end(self) -> None:
        """Hold on to no task any more."""
        self._reader = None

    # - its reader -

    @property
    def items(self) -> _Items | None:
        """The driver's generator, or None if it was collected."""
        return self._items() if self._items is not None else None

    @property
    def has_begun(self) -> bool:
        """Whether there is a stream."""
        return self._items is not None

    @property
    def is_running(self) -> bool:
        """Whether something waits for the next item, or code of the driver runs."""
        match self.items:
            case AsyncGeneratorType() as items:
                return bool(items.ag_running)
            case GeneratorType() as items:
                return bool(items.gi_running)
            case _:
                return False

    @property
    def is_left(self) -> bool:
        """Whether nothing will read the stream any more."""
        if not self.has_begun:
            return False
        if self.items is None or (self.loop is not None and self.loop.is_closed):
            return True
        return not self.is_running and self._reader_has_left()

    def _reader_has_left(self) -> bool:
        """Return True if the code that began to read is not there any more.

        Without a `with` block the stream is read by a loop, which holds its iterator. The code that
        begins the next run in the same task or thread has left such a loop.
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
        """Return True if something holds the stream's iterator, beside the stream itself."""
        if self._items is None or self._owner is None:
            return False
        return _holders(self._items) > (self._owner() is not None)

    # - its end, if it was left -

    def close(self) -> None:
        """Close the stream, as far as blocking code can."""
        match self.items:
            case Generator() as items:
                with suppress(Exception):  # it failed as it ended, in a run that was left
                    items.close()
            case AsyncGenerator() as items:
                self._close_elsewhere(items)
            case None:
                pass

    async def close_async(self) -> None:
        """As `close`; wait for the stream's end if it is on this event loop."""
        items = self.items
        if not isinstance(items, AsyncGenerator) or self.loop != running_loop():
            self.close()
            return
        with suppress(Exception):  # as in `close`; or something closes it already
            await items.aclose()

    def _close_elsewhere(self, items: AsyncGenerator[Any, None]) -> None:
        if self.loop is not None and not self.loop.is_closed:
            self.loop.spawn(items.aclose)
            return
        # Without an event loop in its thread, cleaning up fails where it would wait for the old one.
        thread = threading.Thread(target=_unwind, args=(items,), name="unwind", daemon=True)
        thread.start()
        thread.join(UNWIND_SECONDS)


class _Probe:
    """An object that one variable holds."""


def _holders(reference: weakref.ref[Any]) -> int:
    """Return how many references an object has, whatever Python counts beside them."""
    probe = _Probe()
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
