"""What keeps sessions, keys and answers: the interface of a store, and the values it holds.

A store is asked by any number of tasks, processes and machines at once. Subclass `Store` and write
its methods; `pathors_agent.testing.check_store` tests a subclass against every rule that stands
here.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar

import anyio

from pathors_agent.errors import SessionNotFound
from pathors_agent.messages import Message
from pathors_agent.stores.texts import (
    Variables,
    data_pieces,
    joined_size,
    read_message_text,
    read_variables_text,
)

ItemT = TypeVar("ItemT")

# A page of this size is read, sent and parsed in moments; the largest request has as many bytes.
MAX_SEARCH_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A project's API key as it is stored: its digest, and enough of it for people to know it by.

    `digest` is the SHA-256 of the key in hexadecimal digits; the key itself is nowhere.
    """

    id: str
    project: str
    digest: str = field(repr=False)
    prefix: str
    last_four: str
    name: str = ""
    created_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Session:
    """A stored conversation.

    The variables and messages are the JSON texts that the store keeps. `variables` and `messages`
    parse them when they are read first, which takes time and memory in proportion to their size.

    `message_texts` are in the order they were stored; `revision` is their number, and what the next
    writer must have seen. `incarnation` tells apart two sessions that had one id after another; a
    session that is rewound gets another, because its revision grows through old numbers again.
    """

    project: str
    id: str
    incarnation: str
    variables_text: str = field(default="{}", repr=False)
    provider: str = ""
    message_texts: tuple[str, ...] = field(default=(), repr=False)
    revision: int = 0
    created_at: datetime
    updated_at: datetime

    @cached_property
    def variables(self) -> Variables:
        """The variables, parsed. Raise `StoreError` if the stored text is damaged."""
        return read_variables_text(self.variables_text)

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """The messages, parsed. Raise `StoreError` if a stored text is damaged."""
        return tuple(read_message_text(text) for text in self.message_texts)

    @cached_property
    def size(self) -> int:
        """The bytes of the session's data as JSON in UTF-8."""
        return joined_size(self.variables_text, self.message_texts)

    def data_pieces(self) -> Iterator[str]:
        """Yield the text of the session's data in pieces: no copy of the whole is made."""
        return data_pieces(self.variables_text, self.message_texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSummary:
    """A line in the list of a project's sessions, ended ones included."""

    id: str
    provider: str
    message_count: int
    created_at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[ItemT]):
    """Some items of a longer list, and how many there are in all."""

    items: tuple[ItemT, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to write one session for a while.

    `fence` grows with each lease of a session, so that the store can refuse who held an older one.
    """

    project: str
    session_id: str
    holder: str
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestId:
    """A request as its client names it: the Idempotency-Key, in one project, of one API key."""

    project: str
    api_key: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """What is known of a named request.

    `begun`: it is the caller's now; `running`: somebody else answers it; `finished`: `answer` is
    what was answered. `body_digest` is that of the request which was first.
    """

    state: Literal["begun", "running", "finished"]
    body_digest: str
    answer: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnNote:
    """A note of a turn that was not saved."""

    project: str
    session_id: str
    turn: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSession:
    """A session as it was when its lease was acquired; None if it does not exist.

    `notes` are those of its turns that were not saved.
    """

    lease: Lease
    session: Session | None
    notes: tuple[TurnNote, ...] = field(default=(), repr=False)


class Store(ABC):
    """Keeps keys, sessions and answers. An async context manager: open while it is used.

    Every method raises `StoreError` where the database cannot be reached, is full or damaged.
    Times are UTC, with milliseconds.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    @abstractmethod
    async def check(self) -> None:
        """Raise `StoreError` unless a turn could be stored now.

        Readiness probes call it every few seconds.
        """

    # - keys -

    @abstractmethod
    async def add_key(self, key: StoredKey) -> None:
        """Store a new key; `StoreError` when the store has its id or digest already."""

    @abstractmethod
    async def find_key(self, digest: str) -> StoredKey | None:
        """Give the key of this digest, a revoked one too."""

    @abstractmethod
    async def keys(self, project: str | None = None) -> list[StoredKey]:
        """Give the keys of a project, or of all; oldest first, revoked ones included."""

    @abstractmethod
    async def revoke_key(self, project: str, key_id: str) -> bool:
        """Revoke a key for good; tell whether it is one of this project. Twice is as once."""

    @abstractmethod
    async def note_key_used(self, key_id: str) -> None:
        """Set a key's `last_used_at` to now."""

    # - sessions -

    @abstractmethod
    async def create_session(
        self, project: str, session_id: str, *, variables: Variables, provider: str = ""
    ) -> Session:
        """Make an empty session.

        One of the same variables and provider that nobody wrote to is given as it is; any other
        of this id raises `SessionConflict`.
        """

    @abstractmethod
    async def session(self, project: str, session_id: str) -> Session:
        """Give a session whole; `SessionNotFound` when there is none or it has ended."""

    @abstractmethod
    async def search_sessions(
        self,
        project: str,
        text: str,
        *,
        limit: int,
        offset: int,
        max_bytes: int = MAX_SEARCH_BYTES,
    ) -> Page[Session]:
        """Return the sessions whose `data_text` contains the text, newest update first.

        Case counts, and no character has a meaning of its own. Ended sessions are not found.

        A page ends at `limit` sessions, or before the session whose data would take the page over
        `max_bytes`. The first session is always in the page, however large it is.
        """

    @abstractmethod
    async def list_sessions(
        self, project: str, *, limit: int, offset: int, text: str = ""
    ) -> Page[SessionSummary]:
        """List sessions, newest first, ended ones included.

        With a text, those whose id or `data_text` contains it.
        """

    @abstractmethod
    async def end_session(self, project: str, session_id: str) -> bool:
        """Delete a session's variables and messages for good. Return False if there was none.

        Also deletes the notes of its turns, the answers of requests that were stored with its
        turns, and its lease: a turn that runs now, which may be the session's first, cannot be
        saved any more and gets `SessionConflict`.
        """

    # - turns -

    @abstractmethod
    async def take_lease(
        self, project: str, session_id: str, *, holder: str, seconds: float
    ) -> Lease | None:
        """Take the right to write a session, which need not exist; None while it is held.

        A lease that was not kept up for its `seconds` is over, whatever became of its holder.
        """

    async def open_session(
        self, project: str, session_id: str, *, holder: str, seconds: float
    ) -> OpenedSession | None:
        """Acquire the lease of a session and read the session and the notes of its turns.

        Return None while another holder has the lease. This takes three calls of other methods;
        a store that can do it in one transaction overrides it.
        """
        lease = await self.take_lease(project, session_id, holder=holder, seconds=seconds)
        if lease is None:
            return None
        session: Session | None = None
        try:
            with suppress(SessionNotFound):
                session = await self.session(project, session_id)
            notes = await self.turn_notes(project, session_id)
        except BaseException:
            with anyio.move_on_after(_DROP_SECONDS, shield=True):
                await self.drop_lease(lease)
            raise
        return OpenedSession(lease=lease, session=session, notes=tuple(notes))

    @abstractmethod
    async def keep_lease(self, lease: Lease, *, seconds: float) -> bool:
        """Hold a lease for so many more seconds from now; False when it is another's by now."""

    @abstractmethod
    async def drop_lease(self, lease: Lease) -> None:
        """Give a lease back; one that is another's by now stays that other's."""

    @abstractmethod
    async def save_turn(
        self,
        lease: Lease,
        messages: Sequence[Message],
        *,
        seen: Session | None,
        keep: int | None = None,
        request: RequestId | None = None,
        answer: str | None = None,
        drop: bool = False,
        turn: str | None = None,
    ) -> Session:
        """Add a turn's messages to the session, all or none, and finish its request with them.

        With `keep`, the session is rewound: its messages after the first `keep` are removed for
        good in the same transaction, and its `incarnation` is another one then.

        With `drop`, the lease is given back with them, for less than `drop_lease` costs. The notes
        of `turn` go.

        `seen` is the session as the writer read it, None when there was none: it is made then.
        `SessionConflict` when the lease is another's, the session is not as it was seen, or the
        request is not running any more.
        """

    @abstractmethod
    async def note_turn(self, lease: Lease, turn: str, notes: Sequence[str]) -> None:
        """Keep notes of a turn that is under way, behind those that are there.

        They are for whoever takes the turn up where its process died, and are gone after
        `ANSWER_HOURS`. `SessionConflict` when the lease is another's.
        """

    @abstractmethod
    async def turn_notes(
        self, project: str | None = None, session_id: str | None = None
    ) -> list[TurnNote]:
        """Return the notes of turns that were not saved, in the order they were written.

        Without arguments, those of all sessions.
        """

    @abstractmethod
    async def forget_notes(self, lease: Lease, turn: str) -> None:
        """Delete the notes of a turn. Raise `SessionConflict` if the lease has expired."""

    # - requests -

    @abstractmethod
    async def begin_request(
        self, request: RequestId, body_digest: str, *, seconds: float
    ) -> RequestRecord:
        """Begin a named request, or tell what became of it.

        It is `running` until `seconds` are over without `keep_request`, then anybody's again;
        `finished` for `ANSWER_HOURS`.
        """

    @abstractmethod
    async def keep_request(self, request: RequestId, *, seconds: float) -> None:
        """Go on answering a request for so many more seconds from now."""

    @abstractmethod
    async def forget_request(self, request: RequestId) -> None:
        """Forget a request that came to no answer; a finished one stays."""


# Dropping a lease is worth this long, also for a caller that was cancelled.
_DROP_SECONDS = 5.0

# What clients that repeat a request rely on; as long as Stripe keeps them.
ANSWER_HOURS = 24


def now() -> datetime:
    """Return the present time as stores keep it: UTC, with milliseconds."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)
