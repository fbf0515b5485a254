"""A turn: one request to a session, the services it uses, and the session that it holds."""

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import anyio

from pathors_agent.agents.stream import unique_id
from pathors_agent.concurrency.event_loops import Cancellation
from pathors_agent.errors import SessionConflict, SessionNotFound, StoreError
from pathors_agent.history.trim import HistoryTail
from pathors_agent.server.http.completion import CompletionRequest
from pathors_agent.server.http.keys import Caller
from pathors_agent.server.http.problems import DO_NOT_RETRY, Problem, log_failed_turn
from pathors_agent.server.settings import ServerSettings
from pathors_agent.server.streams.front_end import FrontEndRequest
from pathors_agent.server.streams.kept import KeptEvents, StreamName
from pathors_agent.server.turns.admission import Admission, SessionQueue
from pathors_agent.server.turns.answer import Head, TurnAnswer
from pathors_agent.server.turns.metrics import Metrics
from pathors_agent.server.turns.project import Project
from pathors_agent.stores.base import Store
from pathors_agent.stores.values import Lease, OpenedSession, RequestId, RequestRecord, Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts that all turns of a server use. `ending` is set when the turns must end."""

    store: Store
    settings: ServerSettings
    admission: Admission
    metrics: Metrics
    sessions: SessionQueue
    ending: Cancellation = field(default_factory=Cancellation)
    running_streams: dict[StreamName, KeptEvents] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Beginning:
    """The session with which a durable turn began, for another server that continues the turn.

    `created_at` is None if the turn is the session's first. A note under the name `turn` is stored
    then, which is deleted when the session is ended.
    """

    turn: str
    created_at: str | None = None

    @classmethod
    def of(cls, turn: str, seen: Session | None) -> Self:
        """Return the beginning of a turn with a session."""
        return cls(turn, seen.created_at.isoformat() if seen else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request to a session.

    - `caller`, `headers`, `body`, `session_header`: the request as it arrived.
    - `body_digest`: distinguishes requests with one Idempotency-Key.
    - `front_end`: the body in a front end's own protocol; None for a chat completion.
    - `request_id`: the request's name in the store; None for a request without a name.
    - `lifetime`: whether the turn ends with its client, with its server, or with neither.
    - `began`: how the turn began on a server that died with it; None for a turn that begins here.
    """

    services: Services
    project: Project
    request: CompletionRequest
    session_id: str
    caller: Caller
    head: Head
    body: bytes = field(repr=False)
    body_digest: str
    session_header: str | None = None
    front_end: FrontEndRequest | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    request_id: RequestId | None = None
    lifetime: Literal["client", "server", "durable"] = "client"
    began: Beginning | None = None

    @property
    def is_taken_over(self) -> bool:
        """Whether the turn began on a server that died with it."""
        return self.began is not None

    @property
    def outlives_client(self) -> bool:
        """Whether the turn continues when its client disconnects."""
        return self.lifetime != "client"

    @property
    def has_secret_id(self) -> bool:
        """Whether only this server knows the session's id until the turn is stored.

        Such a turn needs no lease. A stream reveals the id at its start, and tools may reveal it.
        """
        return self.has_new_id and not self.request.stream and not self.project.own_tools

    @property
    def has_new_id(self) -> bool:
        """Whether the server made the session's id for this request: nothing is stored under it."""
        return self.request.session_id is None and self.request_id is None

    @property
    def is_named(self) -> bool:
        """Whether the client sent an Idempotency-Key."""
        return self.request_id is not None and " " not in self.request_id.name

    @property
    def last_event_id(self) -> str:
        """The id of the last event that the client has; empty if it has none.

        A chat completion needs a name: its client reconnects by repeating the request.
        """
        can_return = self.is_named or self.front_end is not None
        return self.headers.get("last-event-id", "") if can_return else ""

    @property
    def stream_name(self) -> StreamName | None:
        """The name with which a client reconnects to the turn's stream."""
        if self.front_end is not None:
            return front_end_stream(self.front_end, self.caller, self.session_id)
        return (self.request_id, self.body_digest) if self.is_named else None

    def made_durable(self) -> "Turn":
        """Return the turn with a lifetime of its own.

        The request gets a name if it has none, so that another server finds out whether it was
        answered. Clients cannot choose a name with a space.
        """
        name = RequestId(
            project=self.caller.space, api_key=self.caller.id, name=f"turn {self.head.id}"
        )
        return replace(self, lifetime="durable", request_id=self.request_id or name)

    def identity(self, seen: Session | None) -> str:
        """Return the turn's name in the idempotency keys of its tools.

        A repeat of the request has the same name.
        """
        if self.request_id is not None and self.is_named:
            return hashed(self.caller.space, self.caller.id, self.request_id.name, self.body_digest)
        return hashed(self.caller.space, self.session_id, state_of(seen), self.body_digest)

    @property
    def request_digest(self) -> str:
        """The digest that a request without a name shares with its repeats."""
        return hashed(self.caller.id, self.body_digest)

    def log_failure(self, error: BaseException, status: int) -> None:
        """Log why the turn failed; `status` is what the client gets."""
        if isinstance(error, StoreError) and not isinstance(error, SessionConflict):
            self.services.metrics.store_error()
        messages = [*self.request.messages, *getattr(error, "messages", ())]
        log_failed_turn(
            error,
            project=self.project.id,
            session=self.session_id,
            status=status,
            contents=[self.project.instructions or "", *(message.text for message in messages)],
        )


def front_end_stream(
    front_end: FrontEndRequest | type[FrontEndRequest], caller: Caller, session_id: str
) -> StreamName:
    """Return the name of a stream of a front end: its client knows the session only."""
    return front_end.name, caller.space, session_id


def new_head(project: Project, request: CompletionRequest, session_id: str) -> Head:
    """Return the head of an answer that begins now."""
    return Head(
        id=f"chatcmpl-{unique_id(24)}",
        created=int(time.time()),
        model=project.shown_model(request),
        session_id=session_id,
    )


def state_of(seen: Session | None) -> str:
    """Name the state of a session; empty for one without messages."""
    return f"{seen.incarnation}/{seen.revision}" if seen and seen.revision else ""


def hashed(*parts: str) -> str:
    """Return a short digest of texts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


# How long to wait before the next attempt to acquire a lease: at first, and at most.
_FIRST_PAUSE_SECONDS = 0.02
_LAST_PAUSE_SECONDS = 0.25
# How often to check whether another process has answered a request.
_POLL_SECONDS = 0.25
# How often a lease is renewed before it would expire, so that one late renewal does no harm.
RENEWALS_PER_LEASE = 3
# How long a turn may take to release its leases, even if it was cancelled.
CLEAN_UP_SECONDS = 5.0
_KEY = "Idempotency-Key"


class HeldSession:
    """A turn's right to write its session and to answer its request. `renew` keeps both.

    An async context manager, which holds the session; the request is held from `begin_request` on.
    `lease` is None until the session is held, and again once the turn is saved. With a `tail`, the
    session may be read without messages that it leaves out.
    """

    def __init__(self, turn: Turn, *, tail: HistoryTail | None = None) -> None:
        self._turn = turn
        self._tail = tail
        self._store = turn.services.store
        self._seconds = turn.services.settings.lease_seconds
        self._holds_request = self._is_lost = False
        self._queue = turn.services.sessions
        self._name = (turn.caller.space, turn.session_id)
        self._holder = turn.head.id  # of this turn alone
        self._early: OpenedSession | None = None  # opened together with the request
        self.lease: Lease | None = None

    # - the request -

    async def begin_request(self) -> TurnAnswer | None:
        """Hold the request while it is answered; return its answer if it was answered before."""
        request = self._turn.request_id
        if request is None:
            return None
        record = await self._begun(request)
        if record.answer is not None:
            return TurnAnswer.loaded(record.answer)
        self._holds_request = True
        return None

    async def abandon_request(self, error: BaseException) -> None:
        """Forget the request after an error, so that a repeat of it runs."""
        request = self._turn.request_id
        if request is None:
            return
        await self.close_early()
        if self._is_lost or isinstance(error, SessionConflict):
            return  # another process may answer it by now; if not, its lease expires
        with anyio.move_on_after(CLEAN_UP_SECONDS, shield=True):
            await self._store.forget_request(request)

    async def _begun(self, request: RequestId) -> RequestRecord:
        turn = self._turn
        wait = turn.services.settings.session_wait_seconds
        until = math.inf if turn.is_taken_over else time.monotonic() + wait
        while True:
            record = await self._begin(request)
            if record.body_digest != turn.body_digest:
                raise Problem(422, f"The {_KEY} was used with another body", param=_KEY)
            if record.state != "running":
                return record
            if time.monotonic() >= until:
                raise Problem(
                    409,
                    f"The request with this {_KEY} is being answered; try again",
                    param=_KEY,
                    headers={"Retry-After": "1"},
                )
            await anyio.sleep(_POLL_SECONDS)

    async def _begin(self, request: RequestId) -> RequestRecord:
        """Begin the request, together with its session if there is nothing to wait for."""
        turn = self._turn
        admission = turn.services.admission
        has_room = admission.has_room(turn.project.id, turn.caller.id)
        if turn.is_taken_over or not (has_room and self._queue.is_free(*self._name)):
            return await self._store.begin_request(request, turn.body_digest, seconds=self._seconds)
        await self._queue.enter(*self._name)
        try:
            record, self._early = await self._store.begin_turn(
                request,
                turn.body_digest,
                session_id=turn.session_id,
                holder=self._holder,
                seconds=self._seconds,
                tail=self._tail,
            )
        finally:
            if self._early is None:
                self._queue.leave(*self._name)
            else:
                self.lease = self._early.lease
        return record

    # - the session -

    async def __aenter__(self) -> OpenedSession:
        """Hold the session against other turns. Raise a 409 `Problem` if it stays busy."""
        turn = self._turn
        if turn.has_secret_id:
            lease = Lease.of_secret_id(turn.caller.space, turn.session_id)
            opened = OpenedSession(lease=lease, session=None)
        else:
            early, self._early = self._early, None
            opened = early or await self._opened_in_time()
        turn.services.metrics.held(1)
        return opened

    async def __aexit__(self, *_: object) -> None:
        self._turn.services.metrics.held(-1)
        if not self._turn.has_secret_id:
            await self._close()

    async def close_early(self) -> None:
        """Close the session again if it was opened together with the request."""
        opened, self._early = self._early, None
        if opened is not None:
            await self._close()

    async def _close(self) -> None:
        """Release the session for other turns."""
        lease, self.lease = self.lease, None
        try:
            if lease is not None:  # the turn was not saved, which drops the lease
                with anyio.move_on_after(CLEAN_UP_SECONDS, shield=True):
                    await self._store.drop_lease(lease)
        finally:
            self._queue.leave(*self._name)

    async def _opened_in_time(self) -> OpenedSession:
        turn = self._turn
        wait = turn.services.settings.session_wait_seconds
        with anyio.move_on_after(None if turn.is_taken_over else wait):
            await self._queue.enter(*self._name)
            try:
                return await self._opened()
            except BaseException:
                self._queue.leave(*self._name)
                raise
        raise Problem(
            409,
            "Another request of this session is still running; try again",
            code="session_busy",
            headers={"Retry-After": "1"},
        )

    async def _opened(self) -> OpenedSession:
        """Open the session as soon as no other process holds it."""
        if self._turn.has_new_id:
            self.lease = lease = await self._store.take_lease(
                *self._name, holder=self._holder, seconds=self._seconds
            )
            if lease is not None:
                return OpenedSession(lease=lease, session=None)
        pause = _FIRST_PAUSE_SECONDS
        while True:
            opened = await self._store.open_session(
                *self._name, holder=self._holder, seconds=self._seconds, tail=self._tail
            )
            if opened is not None:
                self.lease = opened.lease
                return opened
            await anyio.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE_SECONDS)

    # - both -

    async def renew(self) -> None:
        """Renew the lease of the session and of the request.

        Raises `SessionConflict` if another process has taken the session over, or the `Problem`
        that says that the session was ended.
        """
        request, lease = self._turn.request_id, self.lease
        if request is not None and self._holds_request:
            await self._store.keep_request(request, seconds=self._seconds)
        if lease is None or await self._store.keep_lease(lease, seconds=self._seconds):
            return
        if self.lease is not lease:  # the turn was saved meanwhile
            return
        self._is_lost = True
        conflict = SessionConflict("the session was taken over by another process")
        raise await self.cause_of(conflict, lease)

    async def cause_of(self, error: SessionConflict, lease: Lease) -> SessionConflict | Problem:
        """Return why a turn cannot be saved: `Problem` if its session was ended."""
        if await self._store.keep_lease(lease, seconds=self._seconds):
            return error
        try:
            await self._store.session(self._turn.caller.space, self._turn.session_id)
        except SessionNotFound:
            return session_ended()
        return error


def session_ended() -> Problem:
    """Return the answer to a turn whose session was ended meanwhile."""
    return Problem(
        409,
        "The session was ended while this request ran; nothing of it was stored",
        code="session_ended",
        headers=DO_NOT_RETRY,  # OpenAI's clients would begin the session anew
    )
