"""A run as it goes: deltas and messages for who iterates it, and its result at the end."""

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterator,
    Sequence,
)
from types import TracebackType
from typing import Generic, Self

from pathors_agent.calls.journal import Journal
from pathors_agent.conversation import Conversation
from pathors_agent.messages import JSONValue, Message, ToolMessage
from pathors_agent.model_call import Bindings
from pathors_agent.run import Run, Status
from pathors_agent.run_result import RunResult
from pathors_agent.structured import OutputT
from pathors_agent.wire.message_builder import Delta


class Before:
    """What a conversation held before a run: results of an open batch may come in between."""

    __slots__ = ("_batch_end", "_results", "_start")

    def __init__(self, conversation: Conversation) -> None:
        still_open = {call.id for call in conversation.open_calls}
        results = {call.id for call in conversation.calls} - still_open
        self._results: Collection[str] = results or ()  # an empty set takes 216 bytes
        self._start = len(conversation) - len(self._results)
        self._batch_end = self._start + len(conversation.calls)

    def added(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Give those of the messages that came later."""
        batch = messages[self._start : self._batch_end]
        return (*(m for m in batch if not self._held(m)), *messages[self._batch_end :])

    def _held(self, message: Message) -> bool:
        return isinstance(message, ToolMessage) and message.tool_call_id in self._results


class _StreamBase(Generic[OutputT]):
    __slots__ = ("_before", "_bindings", "_run")

    def __init__(self, run: Run, before: Before, bindings: Bindings) -> None:
        self._run = run
        self._before = before
        self._bindings = bindings

    @property
    def conversation(self) -> Conversation:
        """The history, growing as the run goes."""
        return self._run.conversation

    @property
    def partial(self) -> JSONValue:
        """The answer so far as a value, for display only; None while there is none.

        Only agents with an `output` type have one. It is parsed when asked, in linear time; the
        containers go on growing: copy what you keep.
        """
        return self._bindings.arriving.value if self._bindings.arriving else None

    @property
    def result(self) -> RunResult[OutputT]:
        """Where the run stands now; after the last item, its result."""
        conversation = self._run.conversation
        status, open_calls = self._run.status, conversation.open_calls
        return RunResult(
            conversation=conversation,
            messages=self._before.added(conversation.messages),
            status=status,
            limit=self._run.limit if status is Status.LIMIT_REACHED else None,
            open_calls=open_calls,
            approvals=tuple(self._bindings.approvals.open()) if open_calls else (),
            quirks=self._bindings.quirks,
            answer=self._run.answer,
            answers=self._bindings.answers,
            spent=tuple(self._bindings.spent or ()),
            times=self._bindings.telemetry.times,
        )


class RunStream(_StreamBase[OutputT]):
    """A run as it goes: a context manager, and an iterable of deltas and messages.

    Leaving the `with` block early ends the model call; the history keeps what was recorded, and
    running the conversation again goes on from there.
    """

    __slots__ = ("_items",)

    def __init__(
        self,
        run: Run,
        before: Before,
        bindings: Bindings,
        items: Generator[Delta | Message, None, None],
    ) -> None:
        super().__init__(run, before, bindings)
        self._items = items

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._items.close()

    def __iter__(self) -> Iterator[Delta | Message]:
        return self._items


class AsyncRunStream(_StreamBase[OutputT]):
    """`RunStream` for asyncio and trio: an async context manager and async iterable."""

    __slots__ = ("_items", "_opening")

    def __init__(
        self,
        run: Run,
        before: Before,
        bindings: Bindings,
        items: AsyncGenerator[Delta | Message, None],
        opening: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(run, before, bindings)
        self._items = items
        self._opening = opening

    def keep_journal(self, journal: Journal) -> None:
        """Tell a journal of the calls from now on, and ask it first which were begun before."""
        self._bindings.journal = journal

    async def __aenter__(self) -> Self:
        if self._opening is not None:
            await self._opening()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._items.aclose()

    def __aiter__(self) -> AsyncIterator[Delta | Message]:
        # The driver itself: another layer would cost each item a coroutine.
        return self._items
