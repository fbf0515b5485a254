"""How a run begins, and its stream: deltas and messages for the reader, and the result at the end."""

import os
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import replace
from random import Random
from types import FrameType
from typing import Any, Generic, Self, cast

from pathors_agent.agents.answers import ArrivingAnswer, OutputT, name_taken
from pathors_agent.agents.approvals import Approvals, Decision
from pathors_agent.agents.base import RUN_ARGUMENTS, AgentBase, RunSettings
from pathors_agent.agents.budgets import charged_budgets
from pathors_agent.agents.control import RunControl
from pathors_agent.agents.hooks import NO_HOOKS
from pathors_agent.agents.mistakes import refuse_settings
from pathors_agent.agents.result import RunResult
from pathors_agent.agents.setup import Journal, RunSetup
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Run, Status
from pathors_agent.errors import StreamInUse
from pathors_agent.history.loading import GivenConversation, Prompt, conversation_of, user_message
from pathors_agent.messages import JSONValue, Message, ToolMessage
from pathors_agent.telemetry.runs import RunTelemetry
from pathors_agent.tools.registry import AsyncToolChoice, Tools, choice_of, registry_of
from pathors_agent.wire.deltas import Delta


class Baseline:
    """The state of a conversation before a run, to tell which messages the run added.

    Results of an open batch may come between results that were there before.
    """

    __slots__ = ("_batch_end", "_results", "_start", "_suspended")

    def __init__(self, conversation: Conversation) -> None:
        self._results: tuple[str, ...] = ()  # an empty set takes 216 bytes
        self._suspended: tuple[Message, ...] = ()
        self._start = self._batch_end = len(conversation.settled)
        if calls := conversation.calls:
            still_open = {call.id for call in conversation.open_calls}
            self._results = tuple([call.id for call in calls if call.id not in still_open])
            held = [conversation.suspended(call) for call in calls]
            self._suspended = tuple([message for message in held if message is not None])
            self._batch_end += len(calls)

    def added(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return the messages that the run added."""
        if self._start == self._batch_end:
            return tuple(messages[self._start :])
        batch = messages[self._start : self._batch_end]
        return (*(m for m in batch if not self._held(m)), *messages[self._batch_end :])

    def _held(self, message: Message) -> bool:
        if any(message is each for each in self._suspended):
            return True
        return isinstance(message, ToolMessage) and message.tool_call_id in self._results


def prepare_run(
    agent: AgentBase,
    given: GivenConversation | None,
    *,
    session_id: str | None = None,
    context: object = None,
    tools: Tools | AsyncToolChoice | None = None,
    settings: RunSettings | None = None,
    streams: bool = True,
) -> tuple[Run, Baseline, RunSetup]:
    """Return a run of the agent that continues a conversation, or begins a new one.

    `tools` and `settings` override the agent's. Without `streams`, nothing reads its deltas.
    Nothing is performed yet, and nothing is appended to the conversation.
    """
    conversation = Conversation() if given is None else conversation_of(given)
    if session_id is not None and conversation.session_id not in (None, session_id):
        raise ValueError(
            f"the conversation belongs to session {conversation.session_id!r}, "
            f"not to session_id={session_id!r}; pass one of the two"
        )
    answers = agent._answers.for_run() if agent._answers else None
    settings = settings or {}
    if settings or tools is not None:
        refuse_settings("a run", {"tools": tools, **settings}, RUN_ARGUMENTS)
    choice, registry = agent._choice, agent.tools
    if tools is not None:
        choice, registry = choice_of(tools), registry_of(() if callable(tools) else tools)
        if answers and answers.final_tool in registry:
            raise name_taken()
    plain, template = agent._plain, agent._template
    if tools is not None or settings.get("model") or settings.get("options"):
        plain = replace(
            plain,
            model=settings.get("model") or plain.model,
            options=plain.options.updated(settings.get("options")),
            tools=registry.definitions(),
        )
        template = agent._asked(plain)
    setup = RunSetup(
        tools=registry,
        choice=choice,
        instruct=agent._instruct,
        approvals=Approvals(conversation, registry, context),
        plain=plain,
        template=template,
        context=context,
        known_quirks=agent._known_quirks,
        answers=answers,
        arriving=ArrivingAnswer(answers) if answers else None,
        history=agent._history,
        hooks=agent._hooks or NO_HOOKS,
        budgets=charged_budgets(agent.budget, settings.get("budget")),
        streams=streams,
        telemetry=RunTelemetry(agent.name, model=template.model, server=agent._server_address),
    )
    run = Run(
        conversation,
        limits=settings.get("limits") or agent.limits,
        client_tools=registry.client_tools,
        is_held=setup.approvals.is_held,
        answers=answers,
    )
    return run, Baseline(conversation), setup


_IDS = Random()  # noqa: S311
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_IDS.seed)


def unique_id(digits: int = 32) -> str:
    """Return an id of hexadecimal digits. It is unique, not secret.

    Asking the operating system for a secret one would take ten times as long.
    """
    return f"{_IDS.getrandbits(4 * digits):0{digits}x}"


def open_run(
    setup: RunSetup,
    run: Run,
    control: RunControl,
    prompt: Prompt | None,
    session_id: str | None,
    decisions: Iterable[Decision],
) -> None:
    """Append the decisions and the prompt to the history.

    A prompt closes the open calls, unless a decision approves one of them.
    """
    conversation = run.conversation
    message = None if prompt is None else user_message(prompt)
    control.take_conversation()
    try:
        if decisions:
            setup.telemetry.add_denied(setup.approvals.decide(decisions))
        if message is not None and conversation.calls and not setup.approvals.has_approved:
            run.hand_out_client_calls()
            conversation.close_open_calls()
        conversation.append_queued()
        if message is not None:
            conversation.append(message)
    finally:
        control.release_conversation()
    conversation.session_id = conversation.session_id or session_id
    # Set before the first effect, so that code that stores the growing history can store it as well.
    conversation.id = conversation.id or session_id or unique_id()


class _StreamBase(Generic[OutputT]):
    __slots__ = ("__weakref__", "_baseline", "_control", "_run", "_setup")

    def __init__(
        self,
        run: Run,
        baseline: Baseline,
        setup: RunSetup,
        control: RunControl,
        items: Generator[Delta | Message, None, None]
        | AsyncGenerator[Delta | Message | list[Delta], None],
    ) -> None:
        self._run = run
        self._baseline = baseline
        self._setup = setup
        self._control = control
        control.reader.follow(items, self)

    def cancel(self) -> None:
        """Cancel the run, from any thread or task. Returns at once. Idempotent.

        The running model call or tools end as if the reader were cancelled, and the reader's loop
        ends. The conversation keeps the recorded messages, and a later run can continue it.
        """
        self._control.cancel()

    def say(self, prompt: Prompt) -> None:
        """Add a user message during the run, from any thread or task.

        It is appended after the running tool calls and before the next model call. A run that is
        about to end continues with it. Raises `ConversationError` if the run has ended.
        """
        self._control.add_message(user_message(prompt))

    @property
    def conversation(self) -> Conversation:
        """The history, which grows during the run."""
        return self._run.conversation

    @property
    def partial(self) -> JSONValue:
        """The answer so far as a value, for display only, or None.

        Only agents with an `output` type have it. It is parsed on access, in linear time. Its
        containers keep growing: copy what you keep.
        """
        return self._setup.arriving.value if self._setup.arriving else None

    @property
    def result(self) -> RunResult[OutputT]:
        """The state of the run now; after the last item, its result."""
        return result_of(self._run, self._baseline, self._setup)


def result_of(run: Run, baseline: Baseline, setup: RunSetup) -> RunResult[Any]:
    """Return the result of a run as it is now."""
    conversation = run.conversation
    status, open_calls = run.status, conversation.waiting_calls
    return RunResult(
        conversation=conversation,
        messages=baseline.added(conversation.messages),
        status=status,
        cancelled=run.cancelled and status is Status.RUNNING,
        limit=run.limit if status is Status.LIMIT_REACHED else None,
        ended_by=run.ended_by,
        open_calls=open_calls,
        approvals=tuple(setup.approvals.open()) if open_calls else (),
        quirks=setup.quirks,
        answer=run.answer,
        answers=setup.answers,
        spent=tuple(setup.spent or ()),
        times=setup.telemetry.times,
    )


class RunStream(_StreamBase[OutputT]):
    """The stream of a run: a context manager, and an iterable of deltas and messages.

    Leaving the `with` block early ends the model call. The history keeps the recorded messages, and
    another run can continue the conversation. One thread reads the stream; `cancel` and `say` may
    be called from any thread. Leaving the block while another thread reads cancels the run and
    raises `StreamInUse`.
    """

    __slots__ = ("_items",)

    def __init__(
        self,
        run: Run,
        baseline: Baseline,
        setup: RunSetup,
        control: RunControl,
        items: Generator[Delta | Message, None, None],
    ) -> None:
        super().__init__(run, baseline, setup, control, items)
        self._items = items

    def __enter__(self) -> Self:
        self._control.reader.enter_block(sys._getframe(1))
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self._items.close()
        except ValueError:
            if not self._control.reader.is_running:
                raise
            self.cancel()
            self._control.wait_until_ended()
            if error is None:
                raise _left_to_a_reader("thread") from None

    def __iter__(self) -> Iterator[Delta | Message]:
        if self._control.reader.is_running:
            raise _read_twice("thread")
        self._control.reader.enter_loop(sys._getframe(1))
        return self._items


class AsyncRunStream(_StreamBase[OutputT]):
    """The stream of an async run, read by one task: an async context manager and iterable."""

    __slots__ = ("_items", "_opening")

    def __init__(
        self,
        run: Run,
        baseline: Baseline,
        setup: RunSetup,
        control: RunControl,
        items: AsyncGenerator[Delta | Message | list[Delta], None],
        opening: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(run, baseline, setup, control, items)
        self._items = items
        self._opening = opening

    def keep_journal(self, journal: Journal) -> None:
        """Record tool calls in a journal from now on; it may have results of an earlier process."""
        self._setup.journal = journal

    async def __aenter__(self) -> Self:
        self._control.reader.enter_block(sys._getframe(1))
        if self._opening is not None:
            await self._opening()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not self._control.reader.is_running:
            await self._items.aclose()
            return
        self.cancel()
        await self._control.wait_until_ended_async()
        if error is None:
            raise _left_to_a_reader("task")

    def __aiter__(self) -> AsyncIterator[Delta | Message]:
        self._begin(sys._getframe(1), yields_lists=False)
        # The driver itself: a wrapper would cost a coroutine for each item.
        return cast("AsyncIterator[Delta | Message]", self._items)

    def batches(self) -> AsyncIterator[Delta | Message | list[Delta]]:
        """Iterate the stream; deltas that arrive together, in one read, are one list.

        Use it to forward a stream: each list can be sent in one write.
        """
        self._begin(sys._getframe(1), yields_lists=True)
        return self._items

    def _begin(self, frame: FrameType, *, yields_lists: bool) -> None:
        if self._control.reader.is_running:
            raise _read_twice("task")
        self._control.reader.enter_loop(frame)
        self._control.yields_lists = yields_lists


def _left_to_a_reader(kind: str) -> StreamInUse:
    return StreamInUse(
        f"another {kind} still reads this stream: its run was cancelled; wait for the {kind} "
        "before you leave the `with` block, or call cancel() and then wait for it"
    )


def _read_twice(kind: str) -> StreamInUse:
    return StreamInUse(f"another {kind} reads this stream: read it in one {kind} at a time")
