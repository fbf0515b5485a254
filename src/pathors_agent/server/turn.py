"""One turn of a session: take it, run the agent, store what was said, whole or not at all."""

import hashlib
import json
import math
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio

from pathors_agent.conversation import Conversation
from pathors_agent.errors import SessionConflict, SessionNotFound
from pathors_agent.messages import AssistantMessage, JSONValue, Message
from pathors_agent.run import Status
from pathors_agent.run_result import RunResult
from pathors_agent.run_stream import AsyncRunStream
from pathors_agent.server.admission import Admission, SessionQueue
from pathors_agent.server.answer import Answer, Head, finish_reason
from pathors_agent.server.completion_request import CompletionRequest
from pathors_agent.server.incoming import add_news
from pathors_agent.server.journal import TurnJournal
from pathors_agent.server.problems import Problem
from pathors_agent.server.project import Project, TurnContext
from pathors_agent.server.repeats import CLEAN_UP_SECONDS, held
from pathors_agent.server.settings import ServerSettings
from pathors_agent.server.view import BETWEEN_TEXTS
from pathors_agent.stores.base import Lease, RequestId, Session, Store
from pathors_agent.telemetry.events import emit
from pathors_agent.telemetry.spans import continued
from pathors_agent.wire.completion_bytes import usage_fields
from pathors_agent.wire.message_builder import Delta, TextDelta
from pathors_agent.wire.messages import write_call

# How often a lease is asked for that another process holds, from the first to the last time.
_FIRST_LOOK_SECONDS = 0.02
_LAST_LOOK_SECONDS = 0.25
# A lease is kept up this many times in its life, so that one late renewal loses nothing.
KEPT_PER_LEASE = 3


class Writer(Protocol):
    """What a turn tells its client."""

    async def item(self, item: Delta | Message) -> None:
        """Tell of a delta or message as it comes."""

    async def end(self, answer: Answer) -> None:
        """Tell that the turn is stored, and the rest of its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all turns of a server share; `ending` is set when they have to end."""

    store: Store
    settings: ServerSettings
    admission: Admission
    sessions: SessionQueue
    ending: anyio.Event = field(default_factory=anyio.Event)


@dataclass(slots=True, kw_only=True)
class Turn:
    """One request to a session, and how far it has come."""

    shared: Shared
    project: Project
    request: CompletionRequest
    session_id: str
    api_key: str
    body_digest: str
    request_id: RequestId | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    head: Head = field(init=False)
    lease: Lease | None = None
    holds_request: bool = False
    is_running: bool = False
    is_lost: bool = False
    is_durable: bool = False
    is_taken_over: bool = False
    said: tuple[bytes, str | None] = field(default=(b"", None), repr=False)
    """The request's body, and the session that its head names."""

    def __post_init__(self) -> None:
        self.head = Head(
            id=f"chatcmpl-{secrets.token_hex(12)}",
            created=int(time.time()),
            model=self.project.shown_model(self.request),
            session_id=self.session_id,
        )

    def make_durable(self, *, is_taken_over: bool = False) -> None:
        """Let the turn outlive its server; `is_taken_over` from one that died with it.

        It gets a name, so that who takes it up knows whether it was answered.
        """
        self.is_durable, self.is_taken_over = True, is_taken_over
        self.request_id = self.request_id or RequestId(
            project=self.project.id, api_key=self.api_key, name=self.head.id
        )

    async def run(self, writer: Writer) -> None:
        """Run the turn, store it, and tell the client; a `Problem` or another of our errors else."""
        async with self._named_request() as earlier:
            with continued(self.headers):
                answer = earlier or await self._run_admitted(writer)
        await writer.end(answer)

    async def _run_admitted(self, writer: Writer) -> Answer:
        place = self.shared.admission.turn(self.project.id, self.api_key)
        async with (
            nullcontext() if self.is_taken_over else place,  # it was let in before
            self._held_session() as lease,
        ):
            try:
                with anyio.fail_after(self.shared.settings.turn_seconds):
                    return await self._run_alone(writer, lease)
            except TimeoutError:
                raise _too_long() from None

    async def _run_alone(self, writer: Writer, lease: Lease) -> Answer:
        seen = await self._stored()
        conversation = self._conversation(seen)
        variables = seen.variables if seen else {}
        agent = self.project.agent(self.request, variables)
        context = TurnContext(self.project.id, self.session_id, variables)
        before = {id(message) for message in conversation.messages}
        decisions = add_news(
            self.request.messages, conversation, agent, context, self.project.own_tools
        )
        self.is_running = True
        async with agent.stream(
            conversation=conversation, context=context, decisions=decisions
        ) as stream:
            await self._keep_journal(stream, lease, context, seen, writer)
            async for item in stream:
                await writer.item(item)
        answer = self._answer(stream.result)
        added = [m for m in conversation.messages if id(m) not in before]
        await self._save(lease, seen, added, answer, conversation.id)
        return answer

    async def _keep_journal(
        self,
        stream: AsyncRunStream[str],
        lease: Lease,
        context: TurnContext,
        seen: Session | None,
        writer: Writer,
    ) -> None:
        """Note the calls of the project's tools, and take up what is noted of this turn."""
        if not self.project.own_tools:
            return
        journal = TurnJournal(
            store=self.shared.store,
            lease=lease,
            turn=stream.conversation.id or "",
            since=_state(seen),
            context=context,
        )
        for message in await journal.take_up(stream.conversation):
            if isinstance(message, AssistantMessage) and message.text:
                await writer.item(TextDelta(message.text))
            await writer.item(message)
        stream.keep_journal(journal)

    async def _save(
        self,
        lease: Lease,
        seen: Session | None,
        added: Sequence[Message],
        answer: Answer,
        turn: str | None,
    ) -> None:
        await self.shared.store.save_turn(
            lease,
            added,
            seen=seen,
            request=self.request_id,
            answer=answer.dumped(),
            drop=True,
            turn=turn if self.project.own_tools else None,
        )
        self.lease = None
        emit(
            "turn_served",
            project=self.project.id,
            session_id=self.session_id,
            messages=len(added),
            finish_reason=answer.finish_reason,
        )

    async def keep(self) -> None:
        """Hold on to the session and the request; `SessionConflict` when they are another's."""
        seconds = self.shared.settings.lease_seconds
        if self.request_id is not None and self.holds_request:
            await self.shared.store.keep_request(self.request_id, seconds=seconds)
        if self.lease and not await self.shared.store.keep_lease(self.lease, seconds=seconds):
            self.is_lost = True
            raise SessionConflict("the session was taken over by another process")

    # - what it holds -

    @asynccontextmanager
    async def _named_request(self) -> AsyncGenerator[Answer | None]:
        """Hold the request's Idempotency-Key; give the answer where it was answered before."""
        if self.request_id is None:
            yield None
            return
        settings = self.shared.settings
        patience = settings.session_wait_seconds if self.is_durable else 0
        async with held(
            self.shared.store,
            self.request_id,
            self.body_digest,
            lease_seconds=settings.lease_seconds,
            patience=math.inf if self.is_taken_over else patience,
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
                    place = self.shared.sessions.place(self.project.id, self.session_id)
                    await stack.enter_async_context(place)
                    lease = await stack.enter_async_context(self._lease())
            except TimeoutError:
                raise _session_busy() from None
            yield lease

    @asynccontextmanager
    async def _lease(self) -> AsyncGenerator[Lease]:
        """Hold the session against other processes."""
        self.lease = lease = await self._taken_lease()
        try:
            yield lease
        finally:
            if self.lease is not None:  # it was not given back with a stored turn
                self.lease = None
                with anyio.move_on_after(CLEAN_UP_SECONDS, shield=True):
                    await self.shared.store.drop_lease(lease)

    async def _taken_lease(self) -> Lease:
        holder, pause = secrets.token_hex(8), _FIRST_LOOK_SECONDS
        while True:
            lease = await self.shared.store.take_lease(
                self.project.id,
                self.session_id,
                holder=holder,
                seconds=self.shared.settings.lease_seconds,
            )
            if lease is not None:
                return lease
            await anyio.sleep(pause)
            pause = min(pause * 2, _LAST_LOOK_SECONDS)

    # - what it says -

    async def _stored(self) -> Session | None:
        if self.request.session_id is None:
            return None  # its id was made up a moment ago
        try:
            return await self.shared.store.session(self.project.id, self.session_id)
        except SessionNotFound:
            return None

    def _conversation(self, seen: Session | None) -> Conversation:
        stored = seen.messages if seen else ()
        return Conversation(stored, session_id=self.session_id, id=self._identity(seen))

    def _identity(self, seen: Session | None) -> str:
        """Name the turn in its tools' idempotency keys: a repeat of the request has the same."""
        if self.request_id is not None:
            parts = [self.project.id, self.request_id.api_key, self.request_id.name]
        else:
            parts = [self.project.id, self.session_id, _state(seen)]
        return hashlib.sha256(json.dumps([*parts, self.body_digest]).encode()).hexdigest()[:32]

    # - what it answers -

    def _answer(self, result: RunResult[Any]) -> Answer:
        answers = [m for m in result.messages if isinstance(m, AssistantMessage)]
        said = [message.text for message in answers if message.text]
        waiting = {approval.call.id: approval.digest for approval in result.approvals}
        calls = [_shown_call(write_call(c), waiting.get(c.id)) for c in result.open_calls]
        if result.limit == "seconds":
            raise _too_long()
        return Answer(
            head=self.head,
            text=BETWEEN_TEXTS.join(said) if said or not calls else None,
            refusal=answers[-1].refusal if answers else None,
            calls=calls,
            finish_reason=_reason(result),
            usage=usage_fields(result.usage),
        )


def _state(seen: Session | None) -> str:
    return f"{seen.incarnation}/{seen.revision}" if seen else ""


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


def _too_long() -> Problem:
    return Problem(504, "The turn took longer than its limit", code="turn_timeout")


def _session_busy() -> Problem:
    return Problem(
        409,
        "Another request of this session is still running; try again",
        code="session_busy",
        headers={"Retry-After": "1"},
    )
