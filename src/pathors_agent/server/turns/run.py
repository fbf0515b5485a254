"""Run a turn: join its request to the session, run the agent, and store its messages or none."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, Self

import anyio

from pathors_agent.agents.approvals import digests_of
from pathors_agent.agents.result import RunResult
from pathors_agent.agents.stream import AsyncRunStream
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Status
from pathors_agent.errors import SessionConflict
from pathors_agent.history.loading import added_messages
from pathors_agent.history.trim import HistoryTail
from pathors_agent.messages import AssistantMessage, JSONValue, Message, ToolMessage, write_call
from pathors_agent.server.http.body import SMALL_BODY_BYTES, parsed
from pathors_agent.server.http.problems import Problem
from pathors_agent.server.streams.front_end import denials
from pathors_agent.server.turns.answer import Activity, TurnAnswer, finish_reason
from pathors_agent.server.turns.join import (
    BETWEEN_TEXTS,
    Joined,
    has_function_calls,
    join,
    with_stored_ids,
)
from pathors_agent.server.turns.journal import TurnJournal, state_note
from pathors_agent.server.turns.new_messages import add_new_messages, keep_queued
from pathors_agent.server.turns.project import TurnContext
from pathors_agent.server.turns.turn import Beginning, HeldSession, Turn, session_ended, state_of
from pathors_agent.stores.values import Lease, OpenedSession, Session, TurnNote
from pathors_agent.telemetry.events import emit
from pathors_agent.telemetry.spans import continued
from pathors_agent.wire.chat_completions import RequestTemplate
from pathors_agent.wire.completion_bytes import usage_fields
from pathors_agent.wire.deltas import Delta, ReasoningDelta, TextDelta


class Writer(Protocol):
    """Sends a turn's answer to its client."""

    @property
    def is_unread(self) -> bool:
        """Whether the client has disconnected, or does not read."""

    @property
    def activities(self) -> list[Activity]:
        """The events about tools to store with the answer."""

    def begin(self, rewound: int, denied: Sequence[ToolMessage]) -> None:
        """Record that the model is about to be called.

        `rewound` is how many stored messages are replaced, `denied` are the calls that the request
        denied.
        """

    def items(self, items: Iterable[Delta | Message]) -> Awaitable[None]:
        """Send deltas and messages that arrived together."""

    async def end(self, answer: TurnAnswer) -> None:
        """Send the rest of the answer: the turn is stored."""


Perform = Callable[[], Awaitable[TurnAnswer]]
"""Runs a turn that holds its session, and stores it."""

Carry = Callable[[Turn, Beginning, Perform], Awaitable[TurnAnswer]]
"""Performs a turn so that another server can continue it."""


def _needed_tail(turn: Turn) -> HistoryTail | None:
    """Return the policy that chooses what a turn needs of its session; None if it may need all.

    An answer of the request may match any of the session's, and so may a result without an id. Hooks
    may read all messages. The tools that the model has found are those of the whole history.
    """
    project, given = turn.project, turn.request.messages
    may_match = any(isinstance(m, AssistantMessage) for m in given) or has_function_calls(given)
    if turn.request.rewind or may_match or project.hooks or project.own_tools.has_deferred:
        return None
    return project.history if isinstance(project.history, HistoryTail) else None


class TurnRun:
    """A turn that runs, for the client of a writer."""

    def __init__(self, turn: Turn, writer: Writer) -> None:
        self._turn = turn
        self._writer = writer
        self._store = turn.services.store
        self._journal: TurnJournal | None = None
        self.held = HeldSession(turn, tail=_needed_tail(turn))

    @property
    def repeats_tools(self) -> bool:
        """Whether a repeat of the request could run tools again."""
        has_acted = self._journal is not None and self._journal.has_acted
        return has_acted and not self._turn.is_named

    async def run(self, carry: Carry | None = None) -> None:
        """Run the turn, store it, and answer. Raise a `Problem` or another error of ours.

        With `carry`, the turn is performed through it as soon as it holds its session.
        """
        answer = await self.held.begin_request()
        if answer is None:
            try:
                with continued(self._turn.headers):
                    answer = await self._run_admitted(carry)
            except BaseException as error:
                await self.held.abandon_request(error)
                raise
        await self._writer.end(answer)

    async def _run_admitted(self, carry: Carry | None) -> TurnAnswer:
        turn, services = self._turn, self._turn.services
        if not services.admission.has_room(turn.project.id, turn.caller.id):
            await self.held.close_early()  # earlier turns may need its session
        place = services.admission.turn(turn.project.id, turn.caller.id)
        async with (
            nullcontext() if turn.is_taken_over else place,  # it was let in before
            self.held as opened,
        ):
            try:
                with anyio.move_on_after(services.settings.turn_seconds):
                    await self._parse(opened.session)
                    if carry is None:
                        self._refuse_ended(opened)
                        return await self._perform(opened)
                    beginning, noted = await self._noted_beginning(opened)
                    return await carry(turn, beginning, lambda: self._perform(noted))
                raise _too_long()
            except SessionConflict as error:
                raise await self.held.cause_of(error, opened.lease) from None

    async def _parse(self, session: Session | None) -> None:
        """Parse a session, which caches its messages. Raise a `Problem` if it is too large."""
        if session is None:
            return
        most = self._turn.services.settings.max_session_bytes
        if session.size > most:
            raise Problem(
                413,
                f"The session is larger than {most} bytes; start a new one",
                code="session_too_large",
            )
        await parsed(session.size_read, lambda: (session.messages, session.variables))

    async def _noted_beginning(self, opened: OpenedSession) -> tuple[Beginning, OpenedSession]:
        """Return how the turn begins.

        Note it if the session does not exist yet, so that it can be ended.
        """
        turn, lease = self._turn, opened.lease
        beginning = Beginning.of(turn.identity(opened.session), opened.session)
        if opened.session is not None:
            return beginning, opened
        text = state_note(state_of(None))
        await self._store.note_turn(lease, beginning.turn, [text])
        note = TurnNote(
            project=lease.project, session_id=lease.session_id, turn=beginning.turn, text=text
        )
        return beginning, replace(opened, notes=(*opened.notes, note))

    def _refuse_ended(self, opened: OpenedSession) -> None:
        """Raise if the session was ended after the turn began on another server."""
        began = self._turn.began
        if began is None:
            return
        if began.created_at is not None:
            is_ended = Beginning.of(began.turn, opened.session) != began
        else:
            is_ended = all(note.turn != began.turn for note in opened.notes)
        if is_ended:
            raise session_ended()

    async def _perform(self, opened: OpenedSession) -> TurnAnswer:
        turn, services, project = self._turn, self._turn.services, self._turn.project
        seen = opened.session
        variables = seen.variables if seen else {}
        agent = project.agent(turn.request, variables)
        context = TurnContext(
            project.id, turn.session_id, variables, principal=turn.caller.principal
        )
        self._journal = journal = await self._opened_journal(opened, context)
        if seen and journal and (answer := await self._undelivered_answer(journal, seen)):
            return answer
        size = len(turn.body) + (seen.size_read if seen else 0)
        joined, conversation = await parsed(
            size, lambda: self._joined(seen, is_large=size > SMALL_BODY_BYTES)
        )
        interrupted = journal.earlier if journal else ()
        decisions = add_new_messages(
            joined,
            interrupted,
            conversation,
            agent,
            context,
            project.own_tools,
            decided=turn.front_end.decisions if turn.front_end else (),
            may_be_old=turn.front_end is not None and turn.front_end.repeats_decisions,
        )
        rewound = (len(seen.messages) if seen else 0) - joined.keep
        async with agent.stream(
            conversation=conversation, context=context, decisions=decisions
        ) as stream:
            self._writer.begin(rewound, denials(stream) if turn.front_end else ())
            if journal is not None:
                await self._take_up(journal, stream)
            write = self._writer.items
            try:
                async for items in stream.batches():
                    await write(items if isinstance(items, list) else (items,))
            finally:
                result = stream.result
                services.admission.charge(turn.caller.id, result, project.history)
                services.metrics.run(project.id, result, tools=project.own_tools)
        answer = self._answer(result, rewound)
        keep_queued(conversation)
        added = added_messages(joined.base, conversation.messages)
        await self._save(opened.lease, seen, added, answer)
        return answer

    def _joined(self, seen: Session | None, *, is_large: bool) -> tuple[Joined, Conversation]:
        """Join the request to the session; return the conversation before the new messages.

        A large history is also encoded for the model. Its messages keep the bytes, so that nothing
        is encoded on the event loop.
        """
        turn = self._turn
        stored = seen.messages if seen else ()
        own_names = [tool.name for tool in turn.project.own_tools]
        given = with_stored_ids(turn.request.messages, stored)
        rewinds = bool(turn.request.rewind)
        lead = seen.leading if seen else None
        joined = join(
            stored,
            given,
            own_names,
            lead=lead,
            rewinds=rewinds,
            may_be_cut=turn.front_end is not None,
        )
        if is_large:
            template = RequestTemplate(profile=turn.project.transport.profile)
            template.encode([*joined.base, *joined.new])
        conversation = Conversation(joined.base, session_id=turn.session_id, id=turn.identity(seen))
        if seen and (omitted := seen.omitted):
            conversation.count_omitted(turns=omitted.turns, call_ids=omitted.call_ids)
        return joined, conversation

    # - what the turn did before -

    async def _opened_journal(
        self, opened: OpenedSession, context: TurnContext
    ) -> TurnJournal | None:
        """Open the notes about the project's tools, and about answers that were not delivered."""
        turn = self._turn
        has_repeats = turn.outlives_client and turn.request.session_id is not None
        if not turn.project.own_tools and not has_repeats:
            return None
        journal = TurnJournal(
            store=self._store,
            lease=opened.lease,
            turn=turn.identity(opened.session),
            since=state_of(opened.session),
            context=context,
        )
        await journal.open(opened.notes)
        return journal

    async def _undelivered_answer(self, journal: TurnJournal, seen: Session) -> TurnAnswer | None:
        """Return the answer to this request if its client disconnected before it."""
        turn = self._turn
        text = None if turn.is_named else journal.undelivered(turn.request_digest, seen.revision)
        if text is None:
            return None
        if not self._writer.is_unread:
            await journal.forget_undelivered(turn.request_digest)
        return TurnAnswer.loaded(text)

    async def _take_up(self, journal: TurnJournal, stream: AsyncRunStream[str]) -> None:
        """Send the messages from before the turn was interrupted, and journal the rest."""
        items: list[Delta | Message] = []
        for message in journal.take_up(stream.conversation):
            if isinstance(message, AssistantMessage):
                if message.reasoning:
                    items.append(ReasoningDelta(message.reasoning))
                if message.text:
                    items.append(TextDelta(message.text))
            items.append(message)
        if items:
            await self._writer.items(items)
        stream.keep_journal(journal)

    # - what the turn leaves -

    async def _save(
        self, lease: Lease, seen: Session | None, added: Sequence[Message], answer: TurnAnswer
    ) -> None:
        turn, journal, text = self._turn, self._journal, answer.dumped()
        revision = seen.revision if seen else 0
        if journal is not None:
            added = journal.with_later(added)
            if self._writer.is_unread and not turn.is_named:
                grown = revision - answer.rewound + len(added)
                await journal.keep_undelivered(turn.request_digest, text, grown)
        has_notes = journal is not None or turn.lifetime == "durable"
        # From here on the transaction decides whether the lease is valid, and drops it.
        held, self.held.lease = self.held.lease, None
        try:
            await self._store.save_turn(
                lease,
                added,
                seen=seen,
                keep=revision - answer.rewound if answer.rewound else None,
                request=turn.request_id,
                answer=text,
                drop=True,
                turn=turn.identity(seen) if has_notes else None,
            )
        except BaseException:
            self.held.lease = held
            raise
        emit(
            "turn_served",
            project=turn.project.id,
            session=turn.session_id,
            messages=len(added),
            finish_reason=answer.finish_reason,
        )

    def _answer(self, result: RunResult[Any], rewound: int) -> TurnAnswer:
        turn = self._turn
        answers = [m for m in result.messages if isinstance(m, AssistantMessage)]
        texts = [message.text for message in answers if message.text]
        waiting = digests_of(result.open_calls, result.approvals)
        calls = [_shown_call(write_call(call), digest) for call, digest in waiting]
        if result.limit == "seconds":
            raise _too_long()
        reasoning = [m.reasoning for m in answers if m.reasoning]
        shows_reasoning = bool(reasoning) and turn.project.shows_reasoning(turn.request)
        function_call = _function_call(calls) if turn.request.functions else None
        return TurnAnswer(
            head=turn.head,
            text=BETWEEN_TEXTS.join(texts) if texts or not calls else None,
            reasoning=BETWEEN_TEXTS.join(reasoning) if shows_reasoning else None,
            refusal=answers[-1].refusal if answers else None,
            calls=calls,
            function_call=function_call,
            finish_reason="function_call" if function_call else _reason(result),
            usage=usage_fields(result.usage),
            activities=self._writer.activities,
            rewound=rewound,
        )


def _reason(result: RunResult[Any]) -> str:
    match result.status:
        case Status.SUSPENDED:
            return "tool_calls"
        case Status.LIMIT_REACHED:
            return "length"
        case Status.RUNNING | Status.NO_ANSWER | Status.FINISHED:
            return finish_reason(result.ended_by or result.finish_reason)


def _shown_call(call: dict[str, JSONValue], digest: str | None) -> dict[str, JSONValue]:
    return call if digest is None else {**call, "approval": {"digest": digest}}


def _function_call(calls: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the first call in the form that clients of `functions` read."""
    shown = (call["function"] for call in calls if "approval" not in call)
    return next(shown, None)


def _too_long() -> Problem:
    return Problem(504, "The turn took longer than its limit", code="turn_timeout")


class DurableRunner(Protocol):
    """Runs turns so that they outlive their process. An async context manager."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None: ...

    async def check(self) -> None:
        """Raise `StoreError` unless a turn could be stored now."""

    async def run(self, run: TurnRun) -> None:
        """Run a turn; raise the errors of `TurnRun.run`."""
