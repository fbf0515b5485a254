"""Sessions of a program in a database: the tables and transactions of the server's store."""

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextvars import Context
from types import TracebackType
from typing import Any, Self, TypeVar

from pathors_agent.errors import SessionConflict
from pathors_agent.history.trim import HistoryTail
from pathors_agent.stores import sql_lists, sql_sessions, sql_turns
from pathors_agent.stores.database import Connection, Database
from pathors_agent.stores.session_store import LoadedSession, SessionStore
from pathors_agent.stores.sql import TIMEOUT_SECONDS, database_of
from pathors_agent.stores.values import OpenedSession

ResultT = TypeVar("ResultT")


class SQLSessions(SessionStore):
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
        self._opened: _OpenedDatabase | None = None
        self._lock = threading.Lock()
        _ALL.add(self)

    def __repr__(self) -> str:
        return f"SQLSessions({self._database.shown!r}, project={self._project!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database, until the next operation. Idempotent."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def forget_parent(self) -> None:
        """Leave the database to the parent of this forked process, which lacks its threads."""
        self._lock, self._held = threading.Lock(), {}
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.abandon()

    def load(self, session_id: str, *, holder: str, seconds: float) -> Sequence[str | bytes] | None:
        """Acquire the lease of a session, or renew it, and return its messages."""
        loaded = self._load(session_id, holder, seconds)
        return None if loaded is None else loaded.messages

    def load_tail(
        self, session_id: str, *, holder: str, seconds: float, tail: HistoryTail
    ) -> LoadedSession | None:
        """Acquire or renew the lease; return the messages without those that a tail leaves out."""
        return self._load(session_id, holder, seconds, tail)

    def _load(
        self, session_id: str, holder: str, seconds: float, tail: HistoryTail | None = None
    ) -> LoadedSession | None:
        held = self._held.get((session_id, holder))
        if held is not None:
            lease = held.lease
            is_kept = self._write(
                "keep the lease of a session", lambda c: sql_turns.keep_lease(c, lease, seconds)
            )
            return _loaded(held) if is_kept else None
        opened = self._write(
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
            return self._write(
                "drop the lease of a session", lambda c: sql_turns.drop_lease(c, held.lease)
            )
        try:
            self._write("save a turn", lambda c: _save(c, held, messages))
        except SessionConflict:
            return False
        return True

    def list(self, *, limit: int = 100, offset: int = 0) -> Sequence[str]:
        """Return the ids of the sessions, the most recently updated first."""
        return self._run(
            lambda database: database.read(
                "list the sessions",
                lambda c: sql_lists.live_ids(c, self._project, limit, offset),
            )
        )

    def delete(self, session_id: str) -> None:
        """Delete a session and its lease. A server's list still has its id and times."""
        ended = self._write(
            "end a session", lambda c: sql_sessions.end(c, self._project, session_id)
        )
        if ended:
            self._run(lambda database: database.forget_deleted())

    def _write(self, doing: str, work: Callable[[Connection], ResultT]) -> ResultT:
        return self._run(lambda database: database.write(doing, work))

    def _run(self, work: Callable[[Database], Coroutine[Any, Any, ResultT]]) -> ResultT:
        """Run an operation of the database on its event loop, and wait for it."""
        with self._lock:
            if self._opened is None:
                database = database_of(self._url, self._timeout)
                self._opened = _OpenedDatabase(self, database)
            opened = self._opened
        return opened.run(work)


def _loaded(opened: OpenedSession) -> LoadedSession:
    session = opened.session
    if session is None:
        return LoadedSession((), 0)
    return LoadedSession(session.message_texts, session.revision, session.omitted)


def _save(connection: Connection, held: OpenedSession, messages: Sequence[str]) -> None:
    sql_turns.save(
        connection,
        held.lease,
        messages,
        seen=held.session,
        keep=None,
        request=None,
        answer=None,
        drop=True,
        turn=None,
    )


class _OpenedDatabase:
    """An open database, and the event loop in a thread that its operations need."""

    def __init__(self, owner: SQLSessions, database: Database) -> None:
        self._database = database
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=_run_loop, args=(self._loop,), name="pathors-sessions", daemon=True
        )
        self._thread.start()
        # Called once: by `close`, or when the owner is collected, or at the end of the program.
        self._end = weakref.finalize(owner, _end, self._loop, database)
        try:
            self.run(lambda database: database.open())
        except BaseException:
            self.close()
            raise

    def run(self, work: Callable[[Database], Coroutine[Any, Any, ResultT]]) -> ResultT:
        """Run an operation on the event loop, and wait for it."""
        return _submit(work(self._database), self._loop).result()

    def abandon(self) -> None:
        """Close nothing: the connections belong to the parent process."""
        self._end.detach()
        _OF_PARENTS.append(self)

    def close(self) -> None:
        """Close the database and end the event loop."""
        self._end()
        self._thread.join()


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _submit(work: Coroutine[Any, Any, ResultT], loop: asyncio.AbstractEventLoop) -> Future[ResultT]:
    # In a context of its own: that of a caller on trio says that its code runs on trio.
    return Context().run(asyncio.run_coroutine_threadsafe, work, loop)


def _end(loop: asyncio.AbstractEventLoop, database: Database) -> None:
    """Close the database on its event loop, and stop the loop; do not wait for it."""
    closing = _submit(database.close(), loop)
    # After the callbacks of the task, which end anyio's worker threads.
    closing.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))


# - forked processes -

_ALL: "weakref.WeakSet[SQLSessions]" = weakref.WeakSet()
_OF_PARENTS: list[_OpenedDatabase] = []


def _forget_parents() -> None:
    for sessions in [*_ALL]:
        sessions.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)
