"""The interface of a store, and the values it returns.

To write a store of your own, subclass `Store`, and run `pathors_agent.testing.check_store` against
it: it tests every rule in these docstrings.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar

import anyio

from pathors_agent.errors import SessionConflict, SessionNotFound, StoreError
from pathors_agent.history.trim import HistoryTail
from pathors_agent.messages import AssistantMessage, Message, SystemMessage
from pathors_agent.stores.texts import (
    Variables,
    data_pieces,
    joined_size,
    read_message_text,
    read_variables_text,
    utf8_size,
)

ItemT = TypeVar("ItemT")

# Read, sent and parsed in moments. The largest request has the same size.
MAX_SEARCH_BYTES = 8 * 1024 * 1024
"""The maximum size of the messages that one search returns, in bytes."""

MAX_SESSION_ID = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A project's API key as it is stored: its digest, and the parts that people recognise it by.

    `digest` is the SHA-256 of the key in hexadecimal digits. The key itself is not stored.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Omitted:
    """What is known of the first messages of a session that was read without them.

    System messages are never omitted; the session began with `leading` of them. `turns` is the
    number of answers, `call_ids` are the ids of their calls, and `size` is what the messages add to
    the size of the session's data.
    """

    leading: int
    turns: int
    size: int
    call_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Session:
    """A stored conversation.

    It holds the JSON texts that the store keeps. `variables` and `messages` parse them on first
    use, in time and memory proportional to their size.

    `message_texts` are in the order they were stored; those that `omitted` describes are missing.
    `revision` is the number of all messages; a writer passes
    the session it has seen, and the store compares the revisions. `incarnation` distinguishes
    sessions that had the same id one after the other. A session that is rewound gets a new one,
    because its revision passes through old numbers again.
    """

    project: str
    id: str
    incarnation: str
    variables_text: str = field(default="{}", repr=False)
    provider: str = ""
    message_texts: tuple[str, ...] = field(default=(), repr=False)
    omitted: Omitted | None = None
    revision: int = 0
    created_at: datetime
    updated_at: datetime
    _parsed: tuple[Message, ...] = field(default=(), repr=False, compare=False)

    @cached_property
    def variables(self) -> Variables:
        """The variables, parsed. Raise `StoreError` if the stored text is damaged."""
        return read_variables_text(self.variables_text)

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """The messages, parsed. Raise `StoreError` if a stored text is damaged."""
        rest = self.message_texts[len(self._parsed) :]
        return (*self._parsed, *map(read_message_text, rest))

    def grown(
        self,
        texts: Sequence[str],
        *,
        kept: int | None = None,
        incarnation: str | None = None,
        updated_at: datetime,
    ) -> "Session":
        """Return the session with more messages after the first `kept`, or after all of them.

        Messages that have been parsed are not parsed again.
        """
        kept = self.revision if kept is None else kept
        left = len(self.message_texts) - (self.revision - kept)
        parsed: tuple[Message, ...] = self.__dict__.get("messages", self._parsed)
        return replace(
            self,
            message_texts=(*self.message_texts[:left], *texts),
            revision=kept + len(texts),
            incarnation=incarnation or self.incarnation,
            updated_at=updated_at,
            _parsed=parsed[:left],
        )

    def without_first(self, count: int) -> "Session":
        """Return the session without its first `count` messages, except for system messages."""
        first, texts = self.messages[:count], self.message_texts
        known = self.omitted or Omitted(leading=self.leading, turns=0, size=0)
        system = [i for i, message in enumerate(first) if isinstance(message, SystemMessage)]
        answers = [message for message in first if isinstance(message, AssistantMessage)]
        size = sum(utf8_size(text) + 1 for text in texts[:count])  # with the comma behind each
        size -= sum(utf8_size(texts[i]) + 1 for i in system)
        ids = (call.id for message in answers for call in message.tool_calls)
        return replace(
            self,
            message_texts=(*(texts[i] for i in system), *texts[count:]),
            omitted=Omitted(
                leading=known.leading,
                turns=known.turns + len(answers),
                size=known.size + size,
                call_ids=known.call_ids.union(ids),
            ),
            _parsed=(*(first[i] for i in system), *self.messages[count:]),
        )

    @property
    def leading(self) -> int:
        """The number of system messages before any other."""
        if self.omitted is not None:
            return self.omitted.leading
        others = (i for i, m in enumerate(self.messages) if not isinstance(m, SystemMessage))
        return next(others, len(self.messages))

    @cached_property
    def size(self) -> int:
        """The size of the session's data as JSON in UTF-8, in bytes."""
        return self.size_read + (self.omitted.size if self.omitted else 0)

    @cached_property
    def size_read(self) -> int:
        """The part of the size that was read: all but omitted messages."""
        return joined_size(self.variables_text, self.message_texts)

    def data_pieces(self) -> Iterator[str]:
        """Yield the JSON text of the session's data in pieces, without a copy of the whole."""
        return data_pieces(self.variables_text, self.message_texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSummary:
    """An entry in the list of a project's sessions. Ended sessions have `ended_at`, and no title."""

    id: str
    provider: str
    message_count: int
    created_at: datetime
    ended_at: datetime | None = None
    title: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Page(Generic[ItemT]):
    """A page of a list, and the number of items in the whole list."""

    items: tuple[ItemT, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The exclusive right to write a session for a limited time.

    `fence` is a fencing token: each lease of a session has a larger one than the lease before, and
    the store rejects writes with an older one. It is 0 for a session whose id only the caller
    knows: `save_turn` creates the session with it if the id has neither a session nor a lease.
    """

    project: str
    session_id: str
    holder: str
    fence: int

    @classmethod
    def of_secret_id(cls, project: str, session_id: str) -> Self:
        """Return a lease for a session whose id was made up just now; the store has none for it."""
        return cls(project=project, session_id=session_id, holder="", fence=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestId:
    """The name of a request: its Idempotency-Key, which is unique per project and API key."""

    project: str
    api_key: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """The state of a named request.

    `begun`: the caller must answer it. `running`: another caller answers it. `finished`: `answer`
    is its answer. `body_digest` is the digest of the first request with this name.
    """

    state: Literal["begun", "running", "finished"]
    body_digest: str
    answer: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnNote:
    """A note about a turn that has not been saved."""

    project: str
    session_id: str
    turn: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSession:
    """A session and its lease, as they were when the lease was acquired.

    `session` is None if it does not exist. `notes` belong to its turns that were not saved.
    """

    lease: Lease
    session: Session | None
    notes: tuple[TurnNote, ...] = field(default=(), repr=False)


class Store(ABC):
    """Persist API keys, sessions and idempotent answers.

    An async context manager. Methods may be called concurrently from any number of tasks, processes
    and machines. Each method raises `StoreError` if the database is unreachable, full or damaged.
    Times are UTC with millisecond precision.
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
        """Store a new key. Raise `StoreError` if its id or digest already exists."""

    @abstractmethod
    async def find_key(self, digest: str) -> StoredKey | None:
        """Return the key with this SHA-256 digest, including revoked keys, or None."""

    @abstractmethod
    async def keys(self, project: str | None = None) -> list[StoredKey]:
        """Return the keys of a project, or of all projects, oldest first, including revoked keys."""

    @abstractmethod
    async def revoke_key(self, project: str, key_id: str) -> bool:
        """Revoke a key permanently. Return False if the project has no such key. Idempotent."""

    @abstractmethod
    async def note_key_used(self, key_id: str) -> None:
        """Set a key's `last_used_at` to now."""

    # - sessions -

    @abstractmethod
    async def create_session(
        self, project: str, session_id: str, *, variables: Variables, provider: str = ""
    ) -> Session:
        """Create an empty session.

        Idempotent: an existing session with the same variables and provider, and without messages,
        is returned unchanged. Raise `SessionConflict` if the id is taken by any other session.
        """

    @abstractmethod
    async def session(self, project: str, session_id: str) -> Session:
        """Return a session with its messages.

        Raise `SessionNotFound` if it does not exist or has ended.
        """

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

        The search is case-sensitive and has no wildcards. Ended sessions are not found.

        A page holds up to `limit` sessions whose data is at most `max_bytes` in total. It always
        holds the first session, even if that is larger.
        """

    @abstractmethod
    async def list_sessions(
        self, project: str, *, limit: int, offset: int, text: str = ""
    ) -> Page[SessionSummary]:
        """List sessions, newest first, including ended sessions.

        With `text`, list the sessions whose id, title or `data_text` contains it.
        """

    async def rename_session(self, project: str, session_id: str, title: str) -> bool:
        """Set a session's title. Return False if there is no such session.

        `save_turn` gives a session without a title that of its first messages, see
        `texts.first_words`. A store without titles raises `StoreError`.
        """
        raise StoreError("This store keeps no titles of sessions.")

    @abstractmethod
    async def end_session(self, project: str, session_id: str) -> bool:
        """Delete a session's variables and messages permanently. Return False if there was none.

        Also delete the notes of its turns, the answers that were stored with its turns, and its
        lease: saving a turn that is running now raises `SessionConflict`, even if it is the first
        turn of the session.
        """

    # - turns -

    @abstractmethod
    async def take_lease(
        self, project: str, session_id: str, *, holder: str, seconds: float
    ) -> Lease | None:
        """Acquire the lease of a session, or return None while another holder has it.

        The session need not exist. A lease that is not renewed with `keep_lease` expires after
        `seconds`.
        """

    async def open_session(
        self,
        project: str,
        session_id: str,
        *,
        holder: str,
        seconds: float,
        tail: HistoryTail | None = None,
    ) -> OpenedSession | None:
        """Acquire the lease of a session and read the session and the notes of its turns.

        Return None while another holder has the lease. With a `tail`, the session may be read
        without messages that it leaves out, see `Session.omitted`. This takes three calls of other
        methods; a store that can do it in one transaction overrides it.
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
        """Renew a lease for `seconds` from now. Return False if another holder has taken it over."""

    @abstractmethod
    async def drop_lease(self, lease: Lease) -> None:
        """Release a lease. No effect if another holder has taken it over."""

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
        """Append the messages of a turn in one transaction, and return the updated session.

        `seen` is the session as the caller read it, or None to create it. Raise `SessionConflict`,
        and write nothing, if the lease has expired, the session has changed since it was read, or
        the request is no longer running. In the same transaction:

        - `keep` rewinds the session: the messages after the first `keep` are deleted permanently,
          and the session gets a new `incarnation`.
        - `answer` is stored as the answer of `request`.
        - `drop` releases the lease.
        - The notes of `turn` are deleted.
        """

    @abstractmethod
    async def note_turn(self, lease: Lease, turn: str, notes: Sequence[str]) -> None:
        """Append notes about a running turn. Raise `SessionConflict` if the lease has expired.

        Another process reads them to take over the turn after a crash. They are deleted after
        `ANSWER_HOURS`.
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
        """Begin a named request, or return its state if it has begun before.

        A request that is not renewed with `keep_request` expires after `seconds`, and may begin
        again. An answer is kept for `ANSWER_HOURS`.
        """

    async def begin_turn(
        self,
        request: RequestId,
        body_digest: str,
        *,
        session_id: str,
        holder: str,
        seconds: float,
        tail: HistoryTail | None = None,
    ) -> tuple[RequestRecord, OpenedSession | None]:
        """Begin a named request and, if it has begun, open its session in the same transaction.

        Returns the record of `begin_request`, and what `open_session` returns; None as well if the
        request had begun before. A store may leave it at the two transactions of this method. The
        request is forgotten again if its session cannot be opened.
        """
        record = await self.begin_request(request, body_digest, seconds=seconds)
        if record.state != "begun":
            return record, None
        try:
            return record, await self.open_session(
                request.project, session_id, holder=holder, seconds=seconds, tail=tail
            )
        except BaseException:
            with anyio.move_on_after(_DROP_SECONDS, shield=True):
                await self.forget_request(request)
            raise

    @abstractmethod
    async def keep_request(self, request: RequestId, *, seconds: float) -> None:
        """Renew a running request for `seconds` from now."""

    @abstractmethod
    async def forget_request(self, request: RequestId) -> None:
        """Delete a request without an answer. A finished request stays."""


# Dropping a lease is worth this long, also for a caller that was cancelled.
_DROP_SECONDS = 5.0

# How long an answer is kept for repeats of its request: the same time as at Stripe.
ANSWER_HOURS = 24
"""The hours that a store keeps an answer for repeats of its request."""
# The message that checks whether a turn could be stored: as long as a long turn.
PROBE_CHARACTERS = 64 * 1024


def now() -> datetime:
    """Return the current time as stores keep it: UTC with millisecond precision."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def id_problem(text: str) -> str | None:
    """Return the problem of a text that cannot be an id, or None."""
    is_visible = text.isascii() and text.isprintable() and " " not in text
    if 0 < len(text) <= MAX_SESSION_ID and is_visible:
        return None
    return f"must be 1 to {MAX_SESSION_ID} visible ASCII characters without spaces"


def session_id_problem(text: str) -> str | None:
    """Return the problem of a text that cannot be a session's id, or None.

    URL libraries remove the path segments `.` and `..`, even percent-encoded ones, so that a
    session with one of these ids could not be queried.
    """
    if text in (".", ".."):
        return f"must not be {text!r}, which URLs cannot hold"
    return id_problem(text)


def changed_conflict(lease: Lease) -> SessionConflict:
    """Return the error for a session that another writer changed first."""
    return SessionConflict(f"Another writer changed the session {lease.session_id} first.")
