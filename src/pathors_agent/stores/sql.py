"""Keep sessions, keys and answers in a database: SQLite for one machine, PostgreSQL for many."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from pathors_agent.messages import Message
from pathors_agent.stores import sql_keys, sql_notes, sql_requests, sql_sessions, sql_turns
from pathors_agent.stores.base import (
    MAX_SEARCH_BYTES,
    Lease,
    Page,
    RequestId,
    RequestRecord,
    Session,
    SessionSummary,
    Store,
    StoredKey,
    TurnNote,
)
from pathors_agent.stores.sql_database import Database
from pathors_agent.stores.sql_readiness import try_turn
from pathors_agent.stores.sql_schema import clock, schema
from pathors_agent.stores.texts import Variables, json_text, message_texts

# A turn's other work takes longer than this; who waits so long for a database has lost it.
TIMEOUT_SECONDS = 10.0


class SQLStore(Store):
    """A store in a database, for asyncio.

    The URL is `sqlite:///file.db` (a file on a disk of this machine) or
    `postgresql://user:password@host:5432/name` (needs the extra `postgres`). The tables are made,
    and brought to this version, when the store is opened. An operation waits up to `timeout`
    seconds for a connection or for a lock of others.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self._url, self._timeout = url, timeout
        self._database = Database(url, timeout)

    def __repr__(self) -> str:
        return f"SQLStore({self._database.shown!r})"

    async def __aenter__(self) -> Self:
        await self._database.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._database.close()

    async def check(self) -> None:
        """Raise `StoreError` unless a turn could be stored now; nothing of the check is kept."""
        async with self._database.trying("check the sessions") as connection:
            await try_turn(connection)
        async with self._database.writing("check the sessions") as connection:
            await connection.execute(schema.update().values(checked=clock()))

    # - keys -

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Database]:
        """Yield the database, opened for this block only if the store is not open.

        Programs that set up keys run before a server opens the store.
        """
        if self._database.is_open:
            yield self._database
            return
        database = Database(self._url, self._timeout)
        await database.open()
        try:
            yield database
        finally:
            await database.close()

    async def add_key(self, key: StoredKey) -> None:
        """Store a new key. Like `keys` and `revoke_key`, it works on a store that is not open."""
        async with self._opened() as database, database.writing("add a key") as connection:
            await sql_keys.add(connection, key)

    async def find_key(self, digest: str) -> StoredKey | None:
        """Give the key of this digest, a revoked one too."""
        async with self._database.reading("find a key") as connection:
            return await sql_keys.by_digest(connection, digest)

    async def keys(self, project: str | None = None) -> list[StoredKey]:
        """Give the keys of a project, or of all; oldest first, revoked ones included."""
        async with self._opened() as database, database.reading("list the keys") as connection:
            return await sql_keys.of_project(connection, project)

    async def revoke_key(self, project: str, key_id: str) -> bool:
        """Revoke a key for good; tell whether it is one of this project. Twice is as once."""
        async with self._opened() as database, database.writing("revoke a key") as connection:
            return await sql_keys.revoke(connection, project, key_id)

    async def note_key_used(self, key_id: str) -> None:
        """Set a key's `last_used_at` to now."""
        async with self._database.writing("note that a key was used") as connection:
            await sql_keys.note_used(connection, key_id)

    # - sessions -

    async def create_session(
        self, project: str, session_id: str, *, variables: Variables, provider: str = ""
    ) -> Session:
        """Make an empty session, or give the same one that is there and still empty."""
        text = json_text(variables)
        async with self._database.writing("make a session") as connection:
            return await sql_sessions.create(connection, project, session_id, text, provider)

    async def session(self, project: str, session_id: str) -> Session:
        """Give a session whole; `SessionNotFound` when there is none or it has ended."""
        async with self._database.reading("read a session") as connection:
            return await sql_sessions.whole(connection, project, session_id)

    async def search_sessions(
        self,
        project: str,
        text: str,
        *,
        limit: int,
        offset: int,
        max_bytes: int = MAX_SEARCH_BYTES,
    ) -> Page[Session]:
        """Return the sessions whose `data_text` contains the text, newest update first."""
        async with self._database.reading("search the sessions") as connection:
            return await sql_sessions.search(
                connection, project, text, limit=limit, offset=offset, max_bytes=max_bytes
            )

    async def list_sessions(
        self, project: str, *, limit: int, offset: int, text: str = ""
    ) -> Page[SessionSummary]:
        """List sessions, newest first, ended ones included."""
        async with self._database.reading("list the sessions") as connection:
            return await sql_sessions.summaries(connection, project, text, limit, offset)

    async def end_session(self, project: str, session_id: str) -> bool:
        """Delete a session's variables and messages for good. Return False if there was none."""
        async with self._database.writing("end a session") as connection:
            ended = await sql_sessions.end(connection, project, session_id)
        if ended:
            await self._database.forget_deleted()
        return ended

    # - turns -

    async def take_lease(
        self, project: str, session_id: str, *, holder: str, seconds: float
    ) -> Lease | None:
        """Take the right to write a session; None while it is held."""
        async with self._database.writing("take the lease of a session") as connection:
            return await sql_turns.take_lease(connection, project, session_id, holder, seconds)

    async def keep_lease(self, lease: Lease, *, seconds: float) -> bool:
        """Hold a lease for so many more seconds from now; False when it is another's by now."""
        async with self._database.writing("keep the lease of a session") as connection:
            return await sql_turns.keep_lease(connection, lease, seconds)

    async def drop_lease(self, lease: Lease) -> None:
        """Give a lease back; one that is another's by now stays that other's."""
        async with self._database.writing("drop the lease of a session") as connection:
            await sql_turns.drop_lease(connection, lease)

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
        """Add a turn's messages to the session, all or none, and finish its request with them."""
        texts = await message_texts(messages)
        async with self._database.writing("save a turn") as connection:
            saved = await sql_turns.save(
                connection, lease, texts, seen, request, answer, keep=keep, drop=drop, turn=turn
            )
        if keep is not None:
            await self._database.forget_deleted()
        return saved

    async def note_turn(self, lease: Lease, turn: str, notes: Sequence[str]) -> None:
        """Keep notes of a turn that is under way, behind those that are there."""
        async with self._database.writing("note a turn") as connection:
            await sql_turns.note(connection, lease, turn, notes)

    async def forget_notes(self, lease: Lease, turn: str) -> None:
        """Delete the notes of a turn. Raise `SessionConflict` if the lease has expired."""
        async with self._database.writing("forget the notes of a turn") as connection:
            await sql_turns.forget_notes(connection, lease, turn)

    async def turn_notes(
        self, project: str | None = None, session_id: str | None = None
    ) -> list[TurnNote]:
        """Return the notes of turns that were not saved, in the order they were written."""
        async with self._database.reading("read the notes of turns") as connection:
            return await sql_notes.read(connection, project, session_id)

    # - requests -

    async def begin_request(
        self, request: RequestId, body_digest: str, *, seconds: float
    ) -> RequestRecord:
        """Begin a named request, or tell what became of it."""
        async with self._database.writing("begin a request") as connection:
            return await sql_requests.begin(connection, request, body_digest, seconds)

    async def keep_request(self, request: RequestId, *, seconds: float) -> None:
        """Go on answering a request for so many more seconds from now."""
        async with self._database.writing("keep a request") as connection:
            await sql_requests.keep(connection, request, seconds)

    async def forget_request(self, request: RequestId) -> None:
        """Forget a request that came to no answer; a finished one stays."""
        async with self._database.writing("forget a request") as connection:
            await sql_requests.forget(connection, request)
