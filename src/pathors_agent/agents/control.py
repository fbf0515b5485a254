"""Control a run from inside and outside: its time, its conversation, its cancellation, new messages.

A run holds its conversation while something reads its stream. When nothing will read the stream any
more, another run may take the conversation over.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import anyio

from pathors_agent.agents.budgets import Budget
from pathors_agent.agents.stream_reader import StreamReader
from pathors_agent.concurrency.event_loops import (
    AsyncioLoop,
    Cancellation,
    RunCancelled,
    TrioLoop,
    running_loop,
)
from pathors_agent.core.run import Effect, Produced, Run
from pathors_agent.errors import ConversationError, LimitReached, TransportError
from pathors_agent.messages import UserMessage

# How long the exit of a stream waits for another task or thread that reads it.
LEAVE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class AddMessage:
    """An effect: append a message that was added during the run."""

    message: UserMessage = field(repr=False)


class ArrivingStream(Protocol):
    """The stream of an answer that is read now."""

    ended: bool
    """Set it to end the stream; nothing more is read."""


class RunControl:
    """Control one run. A context manager around its driver's loop.

    A driver clears `cancels_task` while its tools run in cancel scopes of their own.
    """

    __slots__ = (
        "_abandoned",
        "_budgets",
        "_cancelled_task",
        "_end",
        "_is_open",
        "_on_end",
        "_run",
        "_stream",
        "_time_limit",
        "cancellation",
        "cancels_task",
        "reader",
        "yields_lists",
    )

    def __init__(self, run: Run, budgets: Iterable[Budget] = ()) -> None:
        self._run = run
        self._budgets = budgets
        self._end: float | None = None
        self._time_limit = "seconds"
        self.cancellation = Cancellation()
        self.cancels_task = True
        self.yields_lists = False
        """Whether the reader takes the deltas of one read as a list."""
        self.reader = StreamReader()
        self._stream: ArrivingStream | None = None
        self._abandoned: RunControl | None = None
        self._is_open = True
        self._cancelled_task: asyncio.Task[Any] | None = None
        self._on_end: Callable[[], None] | None = None

    def __del__(self) -> None:
        # The event loop was closed during the run, and the stream was dropped.
        if self._is_open:
            self.cancellation.set()

    # - the driver -

    def __enter__(self) -> Self:
        self.take_conversation()
        seconds = self._run.limits.seconds
        self._end = None if seconds is None else time.monotonic() + seconds
        for budget in self._budgets:
            end = budget.begin(time.monotonic())
            if end is not None and (self._end is None or end < self._end):
                self._end, self._time_limit = end, "budget.seconds"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> bool:
        is_cancelled = self._takes_back_cancellation(error) or kind is RunCancelled
        self._is_open = False
        self._stream = None
        self.reader.end()
        conversation = self._run.conversation
        if conversation.holder is self:
            is_over = error is None or isinstance(error, LimitReached)
            conversation.has_unfinished_run = not is_over
            if conversation.append_queued() and isinstance(error, TransportError):
                error.messages = conversation.messages
            self.release_conversation()
        if self._on_end is not None:
            self._on_end()
        if is_cancelled:
            self._run.cancelled = True
        if isinstance(error, LimitReached):
            self._run.stopped_at = error.limit
        return is_cancelled or isinstance(error, LimitReached)

    def effects(self) -> Sequence[Effect | AddMessage]:
        """Return the pending effects, a queued message first; raise if the run is cancelled."""
        if self.cancellation.is_set:
            raise RunCancelled
        conversation = self._run.conversation
        if (message := conversation.next_queued()) is not None:
            return [AddMessage(message)]
        if effects := self._run.effects():
            return effects
        self._is_open = False
        # It may have been queued before `add_message` saw that the run has ended.
        message = conversation.next_queued()
        self._is_open = message is not None
        return [] if message is None else [AddMessage(message)]

    def record(self, message: Produced) -> Produced:
        """Record the message of an effect; raise if another run has taken the conversation over."""
        if self._run.conversation.holder is not self:
            raise RunCancelled
        return self._run.record(message)

    def check(self) -> None:
        """Raise `RunCancelled` if the run was cancelled."""
        if self.cancellation.is_set:
            raise RunCancelled

    def left(self) -> float | None:
        """Return the remaining seconds, or None without a limit.

        Raises `LimitReached` if no time is left, and `RunCancelled` if the run was cancelled.
        """
        if self.cancellation.is_set:
            raise RunCancelled
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.out_of_time()
        return left

    def out_of_time(self) -> LimitReached:
        """Return the error that ends the run when its time is up."""
        return LimitReached(self._time_limit)

    def is_over(self) -> bool:
        """Return True if the time is up."""
        return self._end is not None and time.monotonic() >= self._end

    def reads(self, stream: ArrivingStream | None) -> None:
        """Set the answer that is being read: a cancellation ends it."""
        self._stream = stream
        if stream is not None and self.cancellation.is_set:
            stream.ended = True

    def interruptible(self) -> AbstractContextManager[object]:
        """Let a cancellation interrupt what a `with` block awaits; nothing may be yielded in it.

        Needed on trio only: on asyncio the reader's task is cancelled.
        """
        return self._in_scope() if isinstance(self.reader.loop, TrioLoop) else _NO_SCOPE

    def pieces(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Return the pieces of an answer; a cancellation interrupts the wait for each."""
        is_on_trio = isinstance(self.reader.loop, TrioLoop)
        return _InterruptiblePieces(pieces, self) if is_on_trio else pieces

    @contextmanager
    def cancels(self, scope: anyio.CancelScope) -> Iterator[None]:
        """Cancel a scope together with the run, during a `with` block."""
        loop = self.reader.loop

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
        if self.reader.loop is not None:
            self.reader.loop.call_soon(self._interrupt)

    def add_message(self, message: UserMessage) -> None:
        """Queue a message; raise `ConversationError` if the run has ended."""
        conversation = self._run.conversation
        conversation.queue_message(message)
        if (self._is_open and not self.cancellation.is_set) or not conversation.unqueue(message):
            return
        raise ConversationError(
            "the run has ended: pass the message to another run of its conversation"
        )

    def _interrupt(self) -> None:
        """Cancel the task that waits for the stream. Called on the event loop."""
        if not self.cancels_task or self._cancelled_task is not None or not self.reader.is_running:
            return
        if isinstance(self.reader.loop, AsyncioLoop) and (
            task := self.reader.loop.task_in(self.reader.items)
        ):
            self._cancelled_task = task
            task.cancel()

    def _takes_back_cancellation(self, error: BaseException | None) -> bool:
        """Undo the cancellation of the task; return True if this run was its only cause."""
        task, self._cancelled_task = self._cancelled_task, None
        if task is None:
            return False
        return not task.uncancel() and isinstance(error, asyncio.CancelledError)

    # - the conversation -

    def take_conversation(self) -> None:
        """Hold the conversation; raise `ConversationError` if a running run holds it."""
        conversation = self._run.conversation
        with _HOLDING:
            holder = conversation.holder
            if isinstance(holder, RunControl) and holder is not self:
                if not holder.is_abandoned:
                    raise ConversationError(
                        "another run uses this conversation; wait for its end, cancel its stream, or "
                        "pass each run a copy of the conversation"
                    )
                self._abandoned = holder
            conversation.holder = self
            conversation.has_unfinished_run = True
        if self._abandoned is not None:
            self._abandoned.cancel()

    @property
    def is_abandoned(self) -> bool:
        """Whether the run was abandoned: nothing will read its stream any more."""
        is_stopped = self.cancellation.is_set and not self.reader.is_running
        return self.reader.is_abandoned or (self.reader.has_begun and is_stopped)

    def release_conversation(self) -> None:
        """Release the conversation for other runs."""
        self._run.conversation.holder = None

    def close_abandoned(self) -> None:
        """Close the stream of the run that held the conversation before this run."""
        abandoned, self._abandoned = self._abandoned, None
        if abandoned is not None:
            abandoned.reader.close()

    async def close_abandoned_async(self) -> None:
        """Close that stream, and wait for its end if it is on this event loop."""
        abandoned, self._abandoned = self._abandoned, None
        if abandoned is not None:
            await abandoned.reader.close_async()

    def wait_until_ended(self) -> None:
        """Wait until the run has ended in its thread, for at most `LEAVE_SECONDS`."""
        ended = threading.Event()
        self._on_end = ended.set
        if self.reader.is_running:
            ended.wait(LEAVE_SECONDS)

    async def wait_until_ended_async(self) -> None:
        """Wait until the run has ended in its task, for at most `LEAVE_SECONDS`."""
        ended, loop = anyio.Event(), running_loop()
        assert loop is not None  # a coroutine runs
        self._on_end = lambda: loop.call_soon(ended.set)
        if self.reader.is_running:
            with anyio.move_on_after(LEAVE_SECONDS, shield=True):
                await ended.wait()


class _InterruptiblePieces:
    """The pieces of an answer on trio, where each wait needs a cancel scope."""

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

# Guards `Conversation.holder`. Reentrant: garbage collection may end a run at any point.
_HOLDING = threading.RLock()
