"""The interface of a store of sessions, API keys and answers.

To write a store of your own, subclass `Store`, and run `pathors_agent.testing.check_store` against
it: it tests every rule in these docstrings.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import anyio

from pathors_agent.errors import SessionNotFound, StoreError
from pathors_agent.history.trim import HistoryTail
from pathors_agent.messages import Message
from pathors_agent.stores.texts import Variables
from pathors_agent.stores.values import (
    Lease,
    OpenedSession,
    Page,
    RequestId,
    RequestRecord,
    Session,
    SessionSummary,
    StoredKey,
    TurnNote,
)

# Read, sent and parsed in moments. The largest request has the same size.
MAX_SEARCH_BYTES = 8 * 1024 * 1024
"""The maximum size of the messages that one search returns, in bytes."""

# Dropping a lease is worth this long, also for a caller that was cancelled.
_DROP_SECONDS = 5.0

# How long an answer is kept for repeats of its request: the same time as at Stripe.
ANSWER_HOURS = 24
"""The hours that a store keeps an answer for repeats of its request."""
# The message that checks whether a turn could be stored: as long as a long turn.
PROBE_CHARACTERS = 64 * 1024


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
        self, project: str, text: str, *, limit: int, offset: int, max_bytes: int = MAX_SEARCH_BYTES
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
