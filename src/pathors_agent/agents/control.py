"""Control a run from inside and outside: its time, its conversation, its cancellation, new messages.

A run has its conversation to itself while something reads its stream. Another run may go on with the
conversation once nothing will read that stream any more, however it was left.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Self

import anyio

from pathors_agent.agents.reading import Reading
from pathors_agent.concurrency.cancellation import Cancellation, RunCancelled
from pathors_agent.concurrency.event_loops import AsyncioLoop, TrioLoop, running_loop
from pathors_agent.core.run import Effect, Produced, Run
from pathors_agent.errors import ConversationError, TransportError
from pathors_agent.messages import UserMessage
from pathors_agent.wire.response_stream import ResponseStream

# A stream that another task or thread reads is waited for this long when it is left.
LEAVE_SECONDS = 1.0


class TimeIsUp(Exception):
    """Raised in a driver when `limits.seconds` are over; `RunControl` ends the run there."""

    timed_out = True


@dataclass(frozen=True, slots=True)
class Said:
    """An effect: a message that was added while the run goes stands in the history next."""

    message: UserMessage = field(repr=False)


class RunControl:
    """Control one run; a context manager around its driver's loop.

    A driver clears `cancels_task` while it runs tools in cancel scopes of their own.
    """

    __slots__ = (
        "_cancelled_task",
        "_end",
        "_is_open",
        "_left",
        "_on_end",
        "_run",
        "_stream",
        "cancellation",
        "cancels_task",
        "reading",
    )

    def __init__(self, run: Run) -> None:
        self._run = run
        self._end: float | None = None
        self.cancellation = Cancellation()
        self.cancels_task = True
        self.reading = Reading()
        self._stream: ResponseStream | None = None
        self._left: RunControl | None = None
        self._is_open = True
        self._cancelled_task: asyncio.Task[Any] | None = None
        self._on_end: Callable[[], None] | None = None

    def __del__(self) -> None:
        # Its event loop was closed while it went on, and its stream was dropped.
        if self._is_open:
            self.cancellation.set()

    # - the driver -

    def __enter__(self) -> Self:
        self.take_conversation()
        seconds = self._run.limits.seconds
        self._end = None if seconds is None else time.monotonic() + seconds
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> bool:
        is_cancelled = self._takes_back_cancellation(error) or kind is RunCancelled
        self._is_open = False
        self._stream = None
        self.reading.end()
        if self._run.conversation.holder is self:
            self._place_said(error)
            self.release_conversation()
        if self._on_end is not None:
            self._on_end()
        if is_cancelled:
            self._run.cancelled = True
        if kind is TimeIsUp:
            self._run.out_of_time = True
        return is_cancelled or kind is TimeIsUp

    def effects(self) -> Sequence[Effect | Said]:
        """Return the pending effects, an added message first; raise if the run is cancelled."""
        self.check()
        conversation = self._run.conversation
        if (message := conversation.take_said()) is not None:
            return [Said(message)]
        if effects := self._run.effects():
            return effects
        self._is_open = False
        message = conversation.take_said()  # it came before `say` saw that the run has ended
        self._is_open = message is not None
        return [] if message is None else [Said(message)]

    def record(self, message: Produced) -> Produced:
        """Record what an effect produced, unless another run has taken the conversation over."""
        if self._run.conversation.holder is not self:
            raise RunCancelled
        return self._run.record(message)

    def check(self) -> None:
        """Raise `RunCancelled` if the run was cancelled."""
        if self.cancellation.is_set:
            raise RunCancelled

    def left(self) -> float | None:
        """Return how many seconds are left, None for no limit.

        Raises `TimeIsUp` if none is left, and `RunCancelled` if the run was cancelled.
        """
        self.check()
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeIsUp
        return left

    def is_over(self) -> bool:
        """Return True if the time is up."""
        return self._end is not None and time.monotonic() >= self._end

    def reads(self, stream: ResponseStream | None) -> None:
        """Note the answer that is on its way: a cancellation ends it."""
        self._stream = stream
        if stream is not None and self.cancellation.is_set:
            stream.ended = True

    def interruptible(self) -> AbstractContextManager[object]:
        """Let a cancellation end what a `with` block awaits; nothing may be yielded in it.

        On asyncio the reader's task is cancelled, which needs no block.
        """
        return self._in_scope() if isinstance(self.reading.loop, TrioLoop) else _NO_SCOPE

    def pieces(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Return the pieces of an answer; a cancellation ends the wait for each, as above."""
        is_on_trio = isinstance(self.reading.loop, TrioLoop)
        return _InterruptiblePieces(pieces, self) if is_on_trio else pieces

    @contextmanager
    def cancels(self, scope: anyio.CancelScope) -> Iterator[None]:
        """Cancel a scope of the run's event loop with the run, during a `with` block."""
        loop = self.reading.loop

        def cancel() -> None:
            if loop is not None:
                loop.call_soon(scope.cancel)

        with self.cancellation.calls(cancel):
            yield

    @contextmanager
    def _in_scope(self) -> Iterator[None]:
        with anyio.CancelScope() as scope, self.cancels(scope):
            yield
        if scope.cancelled_caught:
            raise RunCancelled

    # - from any thread -

    def cancel(self) -> None:
        """Cancel the run. Idempotent."""
        self.cancellation.set()
        if (stream := self._stream) is not None:
            stream.ended = True
        if self.reading.loop is not None:
            self.reading.loop.call_soon(self._interrupt)

    def say(self, message: UserMessage) -> None:
        """Add a message; raise `ConversationError` if the run has ended."""
        conversation = self._run.conversation
        conversation.say_later(message)
        if (self._is_open and not self.cancellation.is_set) or not conversation.unsay(message):
            return
        raise ConversationError(
            "the run has ended: pass the message to another run of its conversation"
        )

    def _interrupt(self) -> None:
        """Cancel the task that waits in the stream, on asyncio's event loop."""
        if not self.cancels_task or self._cancelled_task is not None or not self.reading.is_running:
            return
        if isinstance(self.reading.loop, AsyncioLoop) and (
            task := self.reading.loop.task_in(self.reading.items)
        ):
            self._cancelled_task = task
            task.cancel()

    def _takes_back_cancellation(self, error: BaseException | None) -> bool:
        """Return True if the task's cancellation was this run's alone; it is not the task's then."""
        task, self._cancelled_task = self._cancelled_task, None
        if task is None:
            return False
        return not task.uncancel() and isinstance(error, asyncio.CancelledError)

    # - the conversation -

    def take_conversation(self) -> None:
        """Take the right to grow the conversation; raise `ConversationError` if a run has it."""
        conversation = self._run.conversation
        with _HOLDING:
            holder = conversation.holder
            if isinstance(holder, RunControl) and holder is not self:
                if not holder.is_left:
                    raise ConversationError(
                        "another run goes on with this conversation; wait for its end, cancel its "
                        "stream, or give each run a copy of the conversation"
                    )
                self._left = holder
            conversation.holder = self
        if self._left is not None:
            self._left.cancel()

    @property
    def is_left(self) -> bool:
        """Whether nothing will read the run's stream any more, or let it go on."""
        is_stopped = self.cancellation.is_set and not self.reading.is_running
        return self.reading.is_left or (self.reading.has_begun and is_stopped)

    def release_conversation(self) -> None:
        """Release the right to run."""
        self._run.conversation.holder = None

    def _place_said(self, error: BaseException | None) -> None:
        """Let messages that were added stand in the history at the run's end, if they can."""
        conversation = self._run.conversation
        if conversation.place_said() and isinstance(error, TransportError):
            error.messages = conversation.messages

    def finish_left(self) -> None:
        """Close the stream whose conversation was taken over, as far as blocking code can."""
        left, self._left = self._left, None
        if left is not None:
            left.reading.close()

    async def finish_left_async(self) -> None:
        """As `finish_left`; wait for the stream's end if it is on this event loop."""
        left, self._left = self._left, None
        if left is not None:
            await left.reading.close_async()

    def wait_until_ended(self) -> None:
        """Wait until the run has ended in its thread, for at most `LEAVE_SECONDS`."""
        ended = threading.Event()
        self._on_end = ended.set
        if self.reading.is_running:
            ended.wait(LEAVE_SECONDS)

    async def wait_until_ended_async(self) -> None:
        """Wait until the run has ended in its task, for at most `LEAVE_SECONDS`."""
        ended, loop = anyio.Event(), running_loop()
        assert loop is not None  # a coroutine runs
        self._on_end = lambda: loop.call_soon(ended.set)
        if self.reading.is_running:
            with anyio.move_on_after(LEAVE_SECONDS, shield=True):
                await ended.wait()


class _InterruptiblePieces:
    """The pieces of an answer on trio, where a cancellation needs a scope around each wait."""

    __slots__ = ("_control", "_pieces", "aclose")

    def __init__(self, pieces: AsyncIterator[bytes], control: RunControl) -> None:
        self._pieces = pieces
        self._control = control
        self.aclose = getattr(pieces, "aclose", None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        with self._control.interruptible():
            return await self._pieces.__anext__()


_NO_SCOPE = nullcontext()

# Two runs never take one conversation. Reentrant: the collector may end a run at any place.
_HOLDING = threading.RLock()
