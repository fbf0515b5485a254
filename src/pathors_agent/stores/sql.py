"""Keep sessions, keys and answers in a database: SQLite for one machine, PostgreSQL for many."""

import json
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Self

from sqlalchemy import case, select

from pathors_agent.concurrency.lifetime import OneProcess
from pathors_agent.history.trim import HistoryTail
from pathors_agent.messages import Message, UserMessage
from pathors_agent.stores import sql_lists, sql_sessions, sql_turns
from pathors_agent.stores.base import MAX_SEARCH_BYTES, PROBE_CHARACTERS, Store
from pathors_agent.stores.database import Connection, Database, read_url
from pathors_agent.stores.sqlite import SQLite
from pathors_agent.stores.tables import (
    bound,
    clock,
    keys,
    matching,
    read_optional_time,
    schema,
    write_time,
)
from pathors_agent.stores.texts import (
    Variables,
    first_words,
    json_text,
    message_text,
    message_texts,
)
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

# Far longer than a turn needs from a database that works.
TIMEOUT_SECONDS = 10.0

_PROBE_LEASE_SECONDS = 10.0
# No project has this name.
_PROBE_PROJECT = ""

# Sessions from this length on are kept in memory between turns. Shorter ones are read in moments.
RECENT_MESSAGES = 50
# How many bytes they may take, and how long one is kept after its last turn.
RECENT_WEIGHT = 32 * 1024 * 1024
RECENT_SECONDS = 600.0
# A parsed message takes this much more memory than its text.
_MESSAGE_WEIGHT = 2_000

_KEY_COLUMNS = [column for column in keys.c if column is not keys.c.number]
_KEY_TIMES = ("created_at", "revoked_at", "last_used_at")
_KEYS = select(*_KEY_COLUMNS).order_by(keys.c.created_at, keys.c.number)
_KEYS_OF_PROJECT = _KEYS.where(matching(keys, "project"))
_KEY_BY_DIGEST = _KEYS.where(matching(keys, "digest"))
_ADD_KEY = keys.insert().values(bound(*(column.name for column in _KEY_COLUMNS))).inline()
_REVOKE_KEY = (
    keys.update()
    .where(matching(keys, "project", "id"))
    .values(revoked_at=case((keys.c.revoked_at.is_(None), clock()), else_=keys.c.revoked_at))
)
_NOTE_KEY_USED = keys.update().where(matching(keys, "id")).values(last_used_at=clock())
_NOTE_CHECKED = schema.update().values(checked=clock())


class SQLStore(OneProcess, Store):
    """A store in a database, for asyncio.

    The URL is `sqlite:///file.db` (a file on a disk of this machine) or
    `postgresql://user:password@host:5432/name` (needs the extra `postgres`). Opening the store
    creates the tables, or upgrades them to this version. An operation waits up to `timeout`
    seconds for a connection, or for a lock that another program holds.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self._url, self._timeout = url, timeout
        self._database = database_of(url, timeout)
        self._recent = _RecentSessions()

    def __repr__(self) -> str:
        return f"SQLStore({self._database.shown!r})"

    async def __aenter__(self) -> Self:
        await self._database.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._database.close()

    async def check(self) -> None:
        """Raise `StoreError` unless a turn could be stored now. Nothing of the check is kept."""
        await self._database.run("probe", "check the sessions", _try_turn)
        await self._database.run("write", "check the sessions", lambda c: c.change(_NOTE_CHECKED))

    # - keys -

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Database]:
        """Yield the database, opened for this block only if the store is not open.

        Programs that set up keys run before a server opens the store.
        """
        if self._database.is_open:
            yield self._database
            return
        database = database_of(self._url, self._timeout)
        await database.open()
        try:
            yield database
        finally:
            await database.close()

    async def add_key(self, key: StoredKey) -> None:
        """Store a new key. Like `keys` and `revoke_key`, it works on a store that is not open."""
        async with self._opened() as database:
            await database.run("write", "add a key", lambda c: c.change(_ADD_KEY, **_key_row(key)))

    async def find_key(self, digest: str) -> StoredKey | None:
        """Return the key with this SHA-256 digest, including revoked keys, or None."""
        found = await self._database.run(
            "read", "find a key", lambda c: c.row(_KEY_BY_DIGEST, digest=digest)
        )
        return None if found is None else _key(found)

    async def keys(self, project: str | None = None) -> list[StoredKey]:
        """Return the keys of a project, or of all projects: oldest first, revoked ones included."""

        def read(connection: Connection) -> list[Any]:
            if project is None:
                return connection.rows(_KEYS)
            return connection.rows(_KEYS_OF_PROJECT, project=project)

        async with self._opened() as database:
            return [_key(row) for row in await database.run("read", "list the keys", read)]

    async def revoke_key(self, project: str, key_id: str) -> bool:
        """Revoke a key permanently. Return False if the project has no such key. Idempotent."""
        async with self._opened() as database:
            return await database.run(
                "write",
                "revoke a key",
                lambda c: c.change(_REVOKE_KEY, project=project, id=key_id) > 0,
            )

    async def note_key_used(self, key_id: str) -> None:
        """Set a key's `last_used_at` to now."""
        await self._database.run(
            "lock", "note that a key was used", lambda c: c.change(_NOTE_KEY_USED, id=key_id)
        )

    # - sessions -

    async def create_session(
        self, project: str, session_id: str, *, variables: Variables, provider: str = ""
    ) -> Session:
        """Create an empty session, or return the same one if it exists and is still empty."""
        text = json_text(variables)
        return await self._database.run(
            "write",
            "make a session",
            lambda c: sql_sessions.create(c, project, session_id, text, provider),
        )

    async def session(self, project: str, session_id: str) -> Session:
        """Return a session with its messages. Raise `SessionNotFound` if there is none."""
        return await self._database.run(
            "read", "read a session", lambda c: sql_sessions.whole(c, project, session_id)
        )

    async def search_sessions(
        self, project: str, text: str, *, limit: int, offset: int, max_bytes: int = MAX_SEARCH_BYTES
    ) -> Page[Session]:
        """Return the sessions whose `data_text` contains the text, newest update first."""
        return await self._database.run(
            "read",
            "search the sessions",
            lambda c: sql_lists.search(
                c, project, text, limit=limit, offset=offset, max_bytes=max_bytes
            ),
        )

    async def list_sessions(
        self, project: str, *, limit: int, offset: int, text: str = ""
    ) -> Page[SessionSummary]:
        """List sessions, newest first, ended ones included."""
        return await self._database.run(
            "read",
            "list the sessions",
            lambda c: sql_lists.summaries(c, project, text, limit, offset),
        )

    async def rename_session(self, project: str, session_id: str, title: str) -> bool:
        """Set a session's title. Return False if there is no such session."""
        return await self._database.run(
            "write",
            "rename a session",
            lambda c: sql_sessions.rename(c, project, session_id, title),
        )

    async def end_session(self, project: str, session_id: str) -> bool:
        """Delete a session's content permanently. Return False if there was none."""
        ended = await self._database.run(
            "erase", "end a session", lambda c: sql_sessions.end(c, project, session_id)
        )
        self._recent.forget(project, session_id)
        return ended

    # - turns -

    async def take_lease(
        self, project: str, session_id: str, *, holder: str, seconds: float
    ) -> Lease | None:
        """Acquire the lease of a session. Return None while another holder has it."""
        return await self._database.run(
            "lock",
            "take the lease of a session",
            lambda c: sql_turns.take_lease(c, project, session_id, holder, seconds),
        )

    async def open_session(
        self,
        project: str,
        session_id: str,
        *,
        holder: str,
        seconds: float,
        tail: HistoryTail | None = None,
    ) -> OpenedSession | None:
        """Acquire the lease of a session and read the session, in one transaction."""
        known = self._recent.get(project, session_id)
        opened = await self._database.run(
            "lock",
            "open a session",
            lambda c: sql_turns.open_session(c, project, session_id, holder, seconds, known, tail),
        )
        if opened is not None and opened.session is not None:
            self._recent.keep(opened.session)
        return opened

    async def keep_lease(self, lease: Lease, *, seconds: float) -> bool:
        """Renew a lease. Return False if another holder has taken it over."""
        return await self._database.run(
            "lock", "keep the lease of a session", lambda c: sql_turns.keep_lease(c, lease, seconds)
        )

    async def drop_lease(self, lease: Lease) -> None:
        """Release a lease. Idempotent; a lease that another holder took over stays theirs."""
        await self._database.run(
            "lock", "drop the lease of a session", lambda c: sql_turns.drop_lease(c, lease)
        )

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
        """Append the messages of a turn in one transaction, and return the updated session."""
        texts = await message_texts(messages)
        words = first_words(messages)
        title = json_text(words) if words else ""
        saved = await self._database.run(
            "write" if keep is None else "erase",
            "save a turn",
            lambda c: sql_turns.save(
                c,
                lease,
                texts,
                seen=seen,
                keep=keep,
                request=request,
                answer=answer,
                drop=drop,
                turn=turn,
                title=title,
            ),
        )
        self._recent.keep(saved)
        return saved

    async def note_turn(self, lease: Lease, turn: str, notes: Sequence[str]) -> None:
        """Append notes of a running turn. Raise `SessionConflict` if the lease was lost."""
        await self._database.run(
            "write", "note a turn", lambda c: sql_turns.add_notes(c, lease, turn, notes)
        )

    async def forget_notes(self, lease: Lease, turn: str) -> None:
        """Delete the notes of a turn. Raise `SessionConflict` if the lease was lost."""
        await self._database.run(
            "write", "forget the notes of a turn", lambda c: sql_turns.forget_notes(c, lease, turn)
        )

    async def turn_notes(
        self, project: str | None = None, session_id: str | None = None
    ) -> list[TurnNote]:
        """Return the notes of turns that were not saved, in the order they were written."""
        return await self._database.run(
            "read",
            "read the notes of turns",
            lambda c: sql_turns.read_notes(c, project, session_id),
        )

    # - requests -

    async def begin_request(
        self, request: RequestId, body_digest: str, *, seconds: float
    ) -> RequestRecord:
        """Begin a named request, or return the record of the one that has begun."""
        return await self._database.run(
            "lock",
            "begin a request",
            lambda c: sql_turns.begin_request(c, request, body_digest, seconds),
        )

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
        """Begin a named request and, if it has begun, open its session in the same transaction."""
        known = self._recent.get(request.project, session_id)

        def begin(connection: Connection) -> tuple[RequestRecord, OpenedSession | None]:
            record = sql_turns.begin_request(connection, request, body_digest, seconds)
            if record.state != "begun":
                return record, None
            return record, sql_turns.open_session(
                connection, request.project, session_id, holder, seconds, known, tail
            )

        record, opened = await self._database.run("lock", "begin a request", begin)
        if opened is not None and opened.session is not None:
            self._recent.keep(opened.session)
        return record, opened

    async def keep_request(self, request: RequestId, *, seconds: float) -> None:
        """Renew a running request."""
        await self._database.run(
            "lock", "keep a request", lambda c: sql_turns.keep_request(c, request, seconds)
        )

    async def forget_request(self, request: RequestId) -> None:
        """Forget a request without an answer. A finished request stays."""
        await self._database.run(
            "lock", "forget a request", lambda c: sql_turns.forget_request(c, request)
        )


class _RecentSessions:
    """The sessions that this process read or stored last, parsed if they were read.

    The next turn reads only what other processes added. What another process rewinds or ends gets
    another incarnation, so an entry is never wrong, only useless.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[tuple[str, str], tuple[float, Session]] = OrderedDict()
        self._weight = 0

    def get(self, project: str, session_id: str) -> Session | None:
        """Return the latest state of a session."""
        _, session = self._sessions.get((project, session_id), (0.0, None))
        return session

    def keep(self, session: Session) -> None:
        """Keep a session for the next turn, and forget the oldest ones beyond the limits."""
        self.forget(session.project, session.id)
        if session.revision < RECENT_MESSAGES or _weight(session) > RECENT_WEIGHT:
            return
        self._sessions[session.project, session.id] = time.monotonic(), session
        self._weight += _weight(session)
        while self._sessions:
            moment, oldest = next(iter(self._sessions.values()))
            is_old = moment + RECENT_SECONDS < time.monotonic()
            if not is_old and self._weight <= RECENT_WEIGHT:
                break
            self.forget(oldest.project, oldest.id)

    def forget(self, project: str, session_id: str) -> None:
        """Forget a session."""
        _, session = self._sessions.pop((project, session_id), (0.0, None))
        if session is not None:
            self._weight -= _weight(session)


def _weight(session: Session) -> int:
    """Return the approximate bytes of memory of a parsed session."""
    return sum(map(len, session.message_texts)) + len(session.message_texts) * _MESSAGE_WEIGHT


def _key_row(key: StoredKey) -> dict[str, object]:
    times = {name: write_time(getattr(key, name)) for name in _KEY_TIMES}
    return asdict(key) | times | {"name": json_text(key.name)}


def _key(row: Sequence[Any]) -> StoredKey:
    values = dict(zip((column.name for column in _KEY_COLUMNS), row, strict=True))
    times = {name: read_optional_time(values[name]) for name in _KEY_TIMES}
    return StoredKey(**values | times | {"name": json.loads(values["name"])})


def _try_turn(connection: Connection) -> None:
    """Store a turn and read it, so that every table is used. The caller rolls it back."""
    name = f"check-{secrets.token_hex(8)}"
    request = RequestId(project=_PROBE_PROJECT, api_key="", name=name)
    message = message_text(UserMessage(content="x" * PROBE_CHARACTERS))
    connection.row(_KEY_BY_DIGEST, digest="")
    lease = sql_turns.take_lease(connection, _PROBE_PROJECT, name, name, _PROBE_LEASE_SECONDS)
    assert lease is not None  # no other process uses the name
    sql_turns.begin_request(connection, request, "", _PROBE_LEASE_SECONDS)
    sql_turns.add_notes(connection, lease, name, ["{}"])
    sql_turns.save(
        connection, lease, [message], seen=None, request=request, answer="{}", drop=True, turn=name
    )
    sql_sessions.whole(connection, _PROBE_PROJECT, name)


def database_of(text: str, timeout: float) -> Database:
    """Return the database with a URL, not open. Raise `StoreError` if no store can open it."""
    url = read_url(text)
    if url.get_backend_name() == "sqlite":
        return SQLite(url, timeout)
    from pathors_agent.stores.postgresql import PostgreSQL  # needs the extra `postgres`

    return PostgreSQL(url, timeout)
