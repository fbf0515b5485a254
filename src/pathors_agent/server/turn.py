"""One turn of a session: take it, run the agent, store what was said, whole or not at all."""

import hashlib
import json
import math
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio

from pathors_agent.agents.result import RunResult
from pathors_agent.agents.stream import AsyncRunStream
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Status
from pathors_agent.errors import SessionConflict, SessionNotFound, StoreError
from pathors_agent.messages import AssistantMessage, JSONValue, Message, ToolMessage
from pathors_agent.server.admission import Admission, SessionQueue
from pathors_agent.server.answer import Activity, Answer, Head, finish_reason
from pathors_agent.server.body import SMALL_BODY_BYTES, parsed
from pathors_agent.server.completion_request import CompletionRequest
from pathors_agent.server.failures import log_failed_turn
from pathors_agent.server.functions import with_stored_ids
from pathors_agent.server.incoming import add_news
from pathors_agent.server.join import BETWEEN_TEXTS, Joined, join
from pathors_agent.server.journal import TurnJournal, state_note
from pathors_agent.server.keys import Caller
from pathors_agent.server.metrics import Metrics
from pathors_agent.server.problems import DO_NOT_RETRY, Problem
from pathors_agent.server.project import Project, TurnContext
from pathors_agent.server.repeats import CLEAN_UP_SECONDS, KeptEvents, StreamName, held
from pathors_agent.server.settings import ServerSettings
from pathors_agent.stores.base import Lease, OpenedSession, RequestId, Session, Store, TurnNote
from pathors_agent.telemetry.events import emit
from pathors_agent.telemetry.spans import continued
from pathors_agent.wire.chat_completions import RequestTemplate
from pathors_agent.wire.completion_bytes import usage_fields
from pathors_agent.wire.deltas import Delta, ReasoningDelta, TextDelta
from pathors_agent.wire.messages import write_call

# How often a lease is asked for that another process holds, from the first to the last time.
_FIRST_LOOK_SECONDS = 0.02
_LAST_LOOK_SECONDS = 0.25
# A lease is kept up this many times in its life, so that one late renewal loses nothing.
KEPT_PER_LEASE = 3


class Writer(Protocol):
    """What a turn tells its client."""

    @property
    def activities(self) -> list[Activity]:
        """The events about tools to store with the answer."""

    async def item(self, item: Delta | Message) -> None:
        """Tell of a delta or message as it comes."""

    async def end(self, answer: Answer) -> None:
        """Tell that the turn is stored, and the rest of its answer."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """The session that a durable turn began with: how another server knows it again.

    `created_at` is None if the turn is the session's first. A note under the name `turn` is stored
    then, which goes when the session is ended.
    """

    turn: str
    created_at: str | None = None

    @classmethod
    def of(cls, turn: str, seen: Session | None) -> "Beginning":
        """Return the beginning of a turn with the session as it was seen."""
        return cls(turn, seen.created_at.isoformat() if seen else None)


Perform = Callable[[], Awaitable[Answer]]
"""Runs a turn that holds its session, and stores it."""

Carry = Callable[["Turn", Beginning, Perform], Awaitable[Answer]]
"""Performs a turn in a way that another server can go on with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all turns of a server share; `ending` is set when they have to end."""

    store: Store
    settings: ServerSettings
    admission: Admission
    metrics: Metrics
    sessions: SessionQueue
    ending: anyio.Event = field(default_factory=anyio.Event)
    running_streams: dict[StreamName, KeptEvents] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Turn:
    """One request to a session, and how far it has come."""

    shared: Shared
    project: Project
    request: CompletionRequest
    session_id: str
    caller: Caller
    body_digest: str
    request_id: RequestId | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    head: Head = field(init=False)
    opened: OpenedSession | None = field(default=None, repr=False)
    lease: Lease | None = None
    holds_request: bool = False
    is_running: bool = False
    is_lost: bool = False
    is_durable: bool = False
    began: Beginning | None = None
    """How the turn began on a server that died with it; None for a turn that begins here."""
    outlives_client: bool = False
    client_left: bool = False
    rewound: int = 0
    """How many stored messages the turn replaces."""
    journal: TurnJournal | None = field(default=None, repr=False)
    said: tuple[bytes, str | None] = field(default=(b"", None), repr=False)
    """The request's body, and the session that its head names."""

    def __post_init__(self) -> None:
        self.head = Head(
            id=f"chatcmpl-{secrets.token_hex(12)}",
            created=int(time.time()),
            model=self.project.shown_model(self.request),
            session_id=self.session_id,
        )

    def make_durable(self, began: Beginning | None = None) -> None:
        """Let the turn outlive its server, or take it up from one that died with it.

        The request gets a name if it has none, so that another server finds out whether it was
        answered. Clients cannot choose a name with a space.
        """
        self.is_durable, self.began = True, began
        self.outlives_client, self.client_left = True, self.is_taken_over
        self.request_id = self.request_id or RequestId(
            project=self.caller.space, api_key=self.caller.id, name=f"turn {self.head.id}"
        )

    @property
    def is_taken_over(self) -> bool:
        """Whether the turn began on a server that died with it."""
        return self.began is not None

    @property
    def is_named(self) -> bool:
        """Whether the client sent an Idempotency-Key."""
        return self.request_id is not None and " " not in self.request_id.name

    @property
    def last_event_id(self) -> str:
        """The id of the last event that the client of a named request has; empty if it has none."""
        return self.headers.get("last-event-id", "") if self.is_named else ""

    @property
    def repeats_tools(self) -> bool:
        """Whether a repeat of the request could run tools again that have run."""
        return self.journal is not None and self.journal.has_acted and not self.is_named

    async def run(self, writer: Writer, carry: Carry | None = None) -> None:
        """Run the turn, store it, and answer; raise a `Problem` or another of our errors.

        With `carry`, the turn is performed through it as soon as it holds its session.
        """
        async with self._named_request() as earlier:
            with continued(self.headers):
                answer = earlier or await self._run_admitted(writer, carry)
        await writer.end(answer)

    async def _run_admitted(self, writer: Writer, carry: Carry | None) -> Answer:
        place = self.shared.admission.turn(self.project.id, self.caller.id)
        async with (
            nullcontext() if self.is_taken_over else place,  # it was let in before
            self._held_session() as lease,
        ):
            try:
                with anyio.fail_after(self.shared.settings.turn_seconds):
                    seen = await self._stored()
                    if carry is None:
                        await self._refuse_ended(seen)
                        return await self._run_alone(writer, lease, seen)
                    beginning = await self._noted_beginning(lease, seen)
                    return await carry(
                        self, beginning, lambda: self._run_alone(writer, lease, seen)
                    )
            except TimeoutError:
                raise _too_long() from None
            except SessionConflict as error:
                raise await self._conflict(error, lease) from None

    async def _noted_beginning(self, lease: Lease, seen: Session | None) -> Beginning:
        """Return how the turn begins; note it if the session has no row that shows its end."""
        beginning = Beginning.of(self._identity(seen), seen)
        if seen is None:
            await self.shared.store.note_turn(lease, beginning.turn, [state_note(_state(None))])
        return beginning

    async def _refuse_ended(self, seen: Session | None) -> None:
        """Raise if the session was ended after the turn began on another server."""
        if self.began is None:
            return
        if self.began.created_at is not None:
            is_ended = Beginning.of(self.began.turn, seen) != self.began
        else:
            notes = await self.shared.store.turn_notes(self.caller.space, self.session_id)
            is_ended = all(note.turn != self.began.turn for note in notes)
        if is_ended:
            raise _session_ended()

    async def _run_alone(self, writer: Writer, lease: Lease, seen: Session | None) -> Answer:
        stored = seen.messages if seen else ()
        variables = seen.variables if seen else {}
        agent = self.project.agent(self.request, variables)
        context = TurnContext(
            self.project.id, self.session_id, variables, principal=self.caller.principal
        )
        self.journal = journal = await self._opened_journal(lease, context, seen)
        if seen and journal and (answer := await self._unheard_answer(journal, seen)):
            return answer
        own_names = [tool.name for tool in self.project.own_tools]
        size = len(self.said[0]) + (seen.size if seen else 0)
        joined, conversation = await parsed(
            size, lambda: self._joined(seen, own_names, is_large=size > SMALL_BODY_BYTES)
        )
        interrupted = journal.earlier if journal else ()
        decisions = add_news(
            joined, interrupted, conversation, agent, context, self.project.own_tools
        )
        self.rewound = len(stored) - joined.keep
        self.is_running = True
        async with agent.stream(
            conversation=conversation, context=context, decisions=decisions
        ) as stream:
            if journal is not None:
                await _take_up(journal, stream, writer)
            try:
                async for item in stream:
                    await writer.item(item)
            finally:
                self.shared.admission.charge(self.caller.id, stream.result)
                self.shared.metrics.run(self.project, stream.result)
        answer = self._answer(stream.result, writer.activities)
        await self._save(lease, seen, _added(joined.base, conversation.messages), answer)
        return answer

    def _joined(
        self, seen: Session | None, own_names: Sequence[str], *, is_large: bool
    ) -> tuple[Joined, Conversation]:
        """Join the request to the session; return the conversation before the new messages.

        A large history is also encoded for the model. Its messages keep the bytes, so that nothing
        is encoded on the event loop.
        """
        stored = seen.messages if seen else ()
        joined = join(stored, with_stored_ids(self.request.messages, stored), own_names)
        if is_large:
            template = RequestTemplate(profile=self.project.transport.profile)
            template.encode([*joined.base, *joined.new])
        return joined, Conversation(
            joined.base, session_id=self.session_id, id=self._identity(seen)
        )

    async def _opened_journal(
        self, lease: Lease, context: TurnContext, seen: Session | None
    ) -> TurnJournal | None:
        """Open the notes of the project's tools, and of answers that no client got."""
        has_repeats = self.outlives_client and self.request.session_id is not None
        if not self.project.own_tools and not has_repeats:
            return None
        journal = TurnJournal(
            store=self.shared.store,
            lease=lease,
            turn=self._identity(seen),
            since=_state(seen),
            context=context,
        )
        notes: Sequence[TurnNote] = self.opened.notes if self.opened else ()
        if self.is_durable:  # its beginning was noted since
            notes = await self.shared.store.turn_notes(lease.project, lease.session_id)
        await journal.open(notes)
        return journal

    async def _unheard_answer(self, journal: TurnJournal, seen: Session) -> Answer | None:
        """Return the answer to this request if its client left before it came."""
        text = None if self.is_named else journal.unheard(self._said_digest, seen.revision)
        if text is None:
            return None
        if not self.client_left:
            await journal.forget_unheard(self._said_digest)
        return Answer.loaded(text)

    async def _save(
        self, lease: Lease, seen: Session | None, added: Sequence[Message], answer: Answer
    ) -> None:
        journal, text = self.journal, answer.dumped()
        if journal is not None:
            added = journal.with_later(added)
        keep = seen.revision - self.rewound if seen and self.rewound else None
        if journal is not None and self.client_left and not self.is_named:
            grown = (seen.revision if seen else 0) - self.rewound + len(added)
            await journal.keep_unheard(self._said_digest, text, grown)
        # From here on the transaction decides whether the lease holds, and gives it back.
        self.lease = None
        try:
            await self.shared.store.save_turn(
                lease,
                added,
                seen=seen,
                keep=keep,
                request=self.request_id,
                answer=text,
                drop=True,
                turn=self._identity(seen) if journal or self.is_durable else None,
            )
        except BaseException:
            self.lease = lease
            raise
        emit(
            "turn_served",
            project=self.project.id,
            session=self.session_id,
            messages=len(added),
            finish_reason=answer.finish_reason,
        )

    async def keep(self) -> None:
        """Renew the lease of the session and of the request.

        Raises `SessionConflict` if another process has taken the session over.
        """
        seconds = self.shared.settings.lease_seconds
        if self.request_id is not None and self.holds_request:
            await self.shared.store.keep_request(self.request_id, seconds=seconds)
        lease = self.lease
        if lease is None or await self.shared.store.keep_lease(lease, seconds=seconds):
            return
        if self.lease is not lease:  # the turn was stored meanwhile, and its lease given back
            return
        self.is_lost = True
        conflict = SessionConflict("the session was taken over by another process")
        raise await self._conflict(conflict, lease)

    async def _conflict(self, error: SessionConflict, lease: Lease) -> SessionConflict | Problem:
        """Return the error of a turn that cannot be saved; `Problem` if its session was ended."""
        store, seconds = self.shared.store, self.shared.settings.lease_seconds
        if await store.keep_lease(lease, seconds=seconds):
            return error
        try:
            await store.session(self.caller.space, self.session_id)
        except SessionNotFound:
            return _session_ended()
        return error

    def log_failure(self, error: BaseException, status: int) -> None:
        """Log why the turn failed; `status` is what the client is told."""
        if isinstance(error, StoreError) and not isinstance(error, SessionConflict):
            self.shared.metrics.store_error()
        messages = [*self.request.messages, *getattr(error, "messages", ())]
        log_failed_turn(
            error,
            project=self.project.id,
            session=self.session_id,
            status=status,
            contents=[self.project.instructions or "", *(message.text for message in messages)],
        )

    # - what it holds -

    @asynccontextmanager
    async def _named_request(self) -> AsyncGenerator[Answer | None]:
        """Hold the request's Idempotency-Key; give the answer where it was answered before."""
        if self.request_id is None:
            yield None
            return
        settings = self.shared.settings
        async with held(
            self.shared.store,
            self.request_id,
            self.body_digest,
            lease_seconds=settings.lease_seconds,
            patience=math.inf if self.is_taken_over else settings.session_wait_seconds,
            is_lost=lambda: self.is_lost,
        ) as answer:
            self.holds_request = answer is None
            yield answer

    @asynccontextmanager
    async def _held_session(self) -> AsyncGenerator[Lease]:
        """Hold the session against other turns, here and elsewhere; 409 where it stays busy."""
        async with AsyncExitStack() as stack:
            try:
                wait = self.shared.settings.session_wait_seconds
                with anyio.fail_after(None if self.is_taken_over else wait):
                    place = self.shared.sessions.place(self.caller.space, self.session_id)
                    await stack.enter_async_context(place)
                    lease = await stack.enter_async_context(self._lease())
            except TimeoutError:
                raise _session_busy() from None
            yield lease

    @asynccontextmanager
    async def _lease(self) -> AsyncGenerator[Lease]:
        """Hold the session against other processes."""
        self.opened = await self._opened_session()
        self.lease = lease = self.opened.lease
        try:
            with self.shared.metrics.lease():
                yield lease
        finally:
            if self.lease is not None:  # it was not given back with a stored turn
                self.lease = None
                with anyio.move_on_after(CLEAN_UP_SECONDS, shield=True):
                    await self.shared.store.drop_lease(lease)

    async def _opened_session(self) -> OpenedSession:
        holder, pause = secrets.token_hex(8), _FIRST_LOOK_SECONDS
        while True:
            opened = await self.shared.store.open_session(
                self.caller.space,
                self.session_id,
                holder=holder,
                seconds=self.shared.settings.lease_seconds,
            )
            if opened is not None:
                return opened
            await anyio.sleep(pause)
            pause = min(pause * 2, _LAST_LOOK_SECONDS)

    # - what it says -

    async def _stored(self) -> Session | None:
        session = self.opened.session if self.opened else None
        if session is None:
            return None
        if session.size > self.shared.settings.max_session_bytes:
            raise _too_large(self.shared.settings)
        # What is parsed here is kept in the session.
        await parsed(session.size, lambda: (session.messages, session.variables))
        return session

    def _identity(self, seen: Session | None) -> str:
        """Name the turn in its tools' idempotency keys: a repeat of the request has the same."""
        if self.request_id is not None and self.is_named:
            return _hashed(
                self.caller.space, self.caller.id, self.request_id.name, self.body_digest
            )
        return _hashed(self.caller.space, self.session_id, _state(seen), self.body_digest)

    @property
    def _said_digest(self) -> str:
        return _hashed(self.caller.id, self.body_digest)

    # - what it answers -

    def _answer(self, result: RunResult[Any], activities: list[Activity]) -> Answer:
        answers = [m for m in result.messages if isinstance(m, AssistantMessage)]
        said = [message.text for message in answers if message.text]
        waiting = {approval.call.id: approval.digest for approval in result.approvals}
        calls = [_shown_call(write_call(c), waiting.get(c.id)) for c in result.open_calls]
        if result.limit == "seconds":
            raise _too_long()
        reasoning = [m.reasoning for m in answers if m.reasoning]
        shows_reasoning = bool(reasoning) and self.project.shows_reasoning(self.request)
        function_call = _function_call(calls) if self.request.answers_functions else None
        return Answer(
            head=self.head,
            text=BETWEEN_TEXTS.join(said) if said or not calls else None,
            reasoning=BETWEEN_TEXTS.join(reasoning) if shows_reasoning else None,
            refusal=answers[-1].refusal if answers else None,
            calls=calls,
            function_call=function_call,
            finish_reason="function_call" if function_call else _reason(result),
            usage=usage_fields(result.usage),
            activities=activities,
            rewound=self.rewound,
        )


def _state(seen: Session | None) -> str:
    return f"{seen.incarnation}/{seen.revision}" if seen and seen.revision else ""


def _hashed(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _added(base: Sequence[Message], messages: Sequence[Message]) -> list[Message]:
    """Return the messages that are not in the base; results may be sorted in before its end."""
    start = len(base)
    while start and isinstance(base[start - 1], ToolMessage):
        start -= 1
    known = {id(message) for message in base[start:]}
    return [message for message in messages[start:] if id(message) not in known]


async def _take_up(journal: TurnJournal, stream: AsyncRunStream[str], writer: Writer) -> None:
    """Go on from what the turn did before, and note what its tools do."""
    for message in journal.take_up(stream.conversation):
        if isinstance(message, AssistantMessage):
            if message.reasoning:
                await writer.item(ReasoningDelta(message.reasoning))
            if message.text:
                await writer.item(TextDelta(message.text))
        await writer.item(message)
    stream.keep_journal(journal)


def _reason(result: RunResult[Any]) -> str:
    match result.status:
        case Status.SUSPENDED:
            return "tool_calls"
        case Status.LIMIT_REACHED:
            return "length"
        case _:
            return finish_reason(result.ended_by or result.finish_reason)


def _shown_call(call: dict[str, JSONValue], digest: str | None) -> dict[str, JSONValue]:
    return call if digest is None else {**call, "approval": {"digest": digest}}


def _function_call(calls: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the first call in the form that clients of `functions` read."""
    shown = (call["function"] for call in calls if "approval" not in call)
    return next(shown, None)


def _too_long() -> Problem:
    return Problem(504, "The turn took longer than its limit", code="turn_timeout")


def _too_large(settings: ServerSettings) -> Problem:
    return Problem(
        413,
        f"The session is larger than {settings.max_session_bytes} bytes; start a new one",
        code="session_too_large",
    )


def _session_ended() -> Problem:
    return Problem(
        409,
        "The session was ended while this request ran; nothing of it was stored",
        code="session_ended",
        headers=DO_NOT_RETRY,  # OpenAI's clients would begin the session anew
    )


def _session_busy() -> Problem:
    return Problem(
        409,
        "Another request of this session is still running; try again",
        code="session_busy",
        headers={"Retry-After": "1"},
    )
