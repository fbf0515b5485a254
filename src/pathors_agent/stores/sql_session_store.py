"""Sessions of a program in a database: the tables and transactions of the server's store."""

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Self, TypeVar

from pathors_agent.concurrency.lifetime import OneProcess
from pathors_agent.errors import SessionConflict
from pathors_agent.history.trim import HistoryTail
from pathors_agent.stores import sql_lists, sql_sessions, sql_turns
from pathors_agent.stores.database import Connection, Kind
from pathors_agent.stores.session_store import LoadedSession, SessionStore
from pathors_agent.stores.sql import TIMEOUT_SECONDS, database_of
from pathors_agent.stores.values import OpenedSession

ResultT = TypeVar("ResultT")


class SQLSessions(OneProcess, SessionStore):
    """Sessions in a database, for blocking and for async code.

    The URL is `sqlite:///file.db` or `postgresql://user:password@host:5432/name`, as that of
    `SQLStore`: a server with the same database and a project with the id `project` has the same
    sessions. An operation waits up to `timeout` seconds for a connection or a lock.

    The database is opened by the first operation, and closed by `close` or the end of a `with`
    block, or else when the store is collected. A forked process opens it anew.
    """

    def __init__(
        self, url: str, *, project: str = "default", timeout: float = TIMEOUT_SECONDS
    ) -> None:
        self._url, self._project, self._timeout = url, project, timeout
        self._database = database_of(url, timeout)
        self._held: dict[tuple[str, str], OpenedSession] = {}  # by id and holder
        # Called once: by `close`, or when the store is collected, or at the end of the program.
        self._end: weakref.finalize[..., SQLSessions] | None = None
        self._lock = threading.Lock()
        _ALL.add(self)

    def __repr__(self) -> str:
        return f"SQLSessions({self._database.shown!r}, project={self._project!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database, until the next operation. Idempotent."""
        with self._lock:
            if self._end is not None:
                self._end.detach()
                self._database.disconnect()
            self._end = None

    def forget_parent(self) -> None:
        """Leave the database to the parent of this forked process, which lacks its threads."""
        self._lock, self._held = threading.Lock(), {}
        self._database = database_of(self._url, self._timeout)
        if self._end is not None:
            self._end.detach()
        self._end = None

    def load(self, session_id: str, *, holder: str, seconds: float) -> Sequence[str | bytes] | None:
        """Acquire the lease of a session, or renew it, and return its messages."""
        loaded = self.load_tail(session_id, holder=holder, seconds=seconds, tail=None)
        return None if loaded is None else loaded.messages

    def load_tail(
        self, session_id: str, *, holder: str, seconds: float, tail: HistoryTail | None
    ) -> LoadedSession | None:
        """Acquire or renew the lease; return the messages without those that a tail leaves out."""
        held = self._held.get((session_id, holder))
        if held is not None:
            lease = held.lease
            is_kept = self._run(
                "lock",
                "keep the lease of a session",
                lambda c: sql_turns.keep_lease(c, lease, seconds),
            )
            return _loaded(held) if is_kept else None
        opened = self._run(
            "lock",
            "open a session",
            lambda c: sql_turns.open_session(
                c, self._project, session_id, holder, seconds, tail=tail
            ),
        )
        if opened is None:
            return None
        self._held[session_id, holder] = opened
        return _loaded(opened)

    def append(self, session_id: str, messages: Sequence[str], *, holder: str, after: int) -> bool:
        """Append the messages of a turn and release the lease, in one transaction."""
        held = self._held.pop((session_id, holder), None)
        if held is None or _loaded(held).count != after:
            return False
        if not messages:
            return self._run(
                "lock", "drop the lease of a session", lambda c: sql_turns.drop_lease(c, held.lease)
            )
        try:
            self._run(
                "write",
                "save a turn",
                lambda c: sql_turns.save(c, held.lease, messages, seen=held.session, drop=True),
            )
        except SessionConflict:
            return False
        return True

    def list(self, *, limit: int = 100, offset: int = 0) -> Sequence[str]:
        """Return the ids of the sessions, the most recently updated first."""
        return self._run(
            "read",
            "list the sessions",
            lambda c: sql_lists.live_ids(c, self._project, limit, offset),
        )

    def delete(self, session_id: str) -> None:
        """Delete a session and its lease. A server's list still has its id and times."""
        self._run(
            "erase", "end a session", lambda c: sql_sessions.end(c, self._project, session_id)
        )

    def _run(self, kind: Kind, doing: str, work: Callable[[Connection], ResultT]) -> ResultT:
        with self._lock:
            if self._end is None:
                self._database.connect()
                self._end = weakref.finalize(self, self._database.disconnect, waits=False)
        return self._database.run_blocking(kind, doing, work)


def _loaded(opened: OpenedSession) -> LoadedSession:
    session = opened.session
    if session is None:
        return LoadedSession((), 0)
    return LoadedSession(session.message_texts, session.revision, session.omitted)


# - forked processes -

_ALL: "weakref.WeakSet[SQLSessions]" = weakref.WeakSet()


def _forget_parents() -> None:
    for sessions in [*_ALL]:
        sessions.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)
