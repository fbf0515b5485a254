"""One database, open: its connections, and transactions that read or write."""

import asyncio
import logging
import math
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import Connection, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from pathors_agent.errors import StoreError
from pathors_agent.stores.sql_errors import is_locked, told_as_store_errors
from pathors_agent.stores.sql_schema import is_up_to_date, migrate
from pathors_agent.stores.sql_url import read_url, shown

# PostgreSQL allows 100 connections unless told otherwise: room for several workers.
CONNECTIONS = 10

# One statement does what a request needs; only a search through gigabytes takes seconds.
STATEMENT_SECONDS = 30.0

# Between two statements of a transaction there is nothing to wait for: its process hangs.
IDLE_SECONDS = 60.0

# Between two tries for a lock that SQLite does not wait for by itself.
_RETRY_SECONDS = 0.02

_SQLITE_SETTINGS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    # What was deleted is overwritten with zeros.
    "PRAGMA secure_delete = ON",
)


# In one statement, and until the transaction ends: a pooler such as pgbouncer gives the session to
# another program then.
_BOUNDS = text(
    "SELECT set_config('lock_timeout', :lock, true), set_config('statement_timeout', :statement, true),"
    " set_config('idle_in_transaction_session_timeout', :idle, true)"
)


class Database:
    """A database by its URL. `timeout` is how long to wait for a connection or a lock."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = read_url(url)
        self.shown = shown(self._url)
        self._timeout = timeout
        self._engine: AsyncEngine | None = None
        self._checking: AsyncEngine | None = None
        # SQLite's file when it was opened.
        self._file: tuple[Path, os.stat_result] | None = None
        # SQLite has one writer; waiting here is fair and costs nothing, waiting there is neither.
        self._writing = anyio.Lock()

    @property
    def is_sqlite(self) -> bool:
        """Tell whether the database is a file."""
        return self._url.get_backend_name() == "sqlite"

    @property
    def is_open(self) -> bool:
        """Return True between `open` and `close`."""
        return self._engine is not None

    async def open(self) -> None:
        """Connect, and bring the tables to this version."""
        self._engine = self._make_engine(
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=self._timeout,
            pool_pre_ping=not self.is_sqlite,
        )
        try:
            with told_as_store_errors("open the sessions", self.shown):
                if self.is_sqlite:
                    await self._prepare_file()
            await self._prepare_tables()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every connection."""
        engine, self._engine = self._engine, None
        if engine is not None:
            with anyio.CancelScope(shield=True):
                await engine.dispose()

    @asynccontextmanager
    async def reading(self, doing: str) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees the database as it is at one moment."""
        options = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        async with self._transaction(doing, options) as connection:
            yield connection

    @asynccontextmanager
    async def writing(self, doing: str) -> AsyncIterator[AsyncConnection]:
        """A transaction that is stored, whole or not at all, when its block ends."""
        options = {"pathors_begin": "BEGIN IMMEDIATE"}
        async with self._only_writer(doing), self._transaction(doing, options) as connection:
            yield connection

    @asynccontextmanager
    async def _only_writer(self, doing: str) -> AsyncIterator[None]:
        """Wait until no other task writes to the file; PostgreSQL takes many writers."""
        async with AsyncExitStack() as stack:
            if self.is_sqlite:
                with told_as_store_errors(doing, self.shown), anyio.fail_after(self._timeout):
                    await stack.enter_async_context(self._writing)
            yield

    @asynccontextmanager
    async def trying(self, doing: str) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes and is rolled back, for checks.

        SQLite gets a new connection, since an open one would not notice a file that was removed,
        replaced, damaged or made read-only, and a cache of one page, so that what is written needs
        room on the disk before the end of the transaction.
        """
        engine = self._engine
        if self.is_sqlite:
            with told_as_store_errors(doing, self.shown):
                await anyio.to_thread.run_sync(self._check_file)
            # Kept: an engine remembers how its statements are written.
            engine = self._checking = self._checking or self._make_engine(poolclass=NullPool)
        options = {"pathors_begin": "BEGIN IMMEDIATE"}
        async with (
            self._only_writer(doing),
            self._transaction(doing, options, engine) as connection,
        ):
            if self.is_sqlite:
                await connection.exec_driver_sql("PRAGMA cache_size = 1")
                await connection.exec_driver_sql("PRAGMA cache_spill = 1")
            yield connection
            await connection.rollback()

    @asynccontextmanager
    async def _transaction(
        self, doing: str, options: dict[str, Any], engine: AsyncEngine | None = None
    ) -> AsyncIterator[AsyncConnection]:
        engine = engine or self._engine
        if self._engine is None or engine is None:
            raise StoreError("The store is not open: use it inside `async with store:`.")
        engine = engine.execution_options(**options)
        # Who is cancelled meanwhile waits for the end, some milliseconds: what was begun is
        # stored or not, and the connection is fit for the next.
        with anyio.CancelScope(shield=True), told_as_store_errors(doing, self.shown):
            async with engine.begin() as connection:
                async with self._bounded_time(connection):
                    yield connection

    async def forget_deleted(self) -> None:
        """Overwrite what was deleted where SQLite still has it: in the log beside the file."""
        # Best effort: while others read, it happens with the next session that ends.
        if not self.is_sqlite or self._engine is None:
            return
        with suppress(StoreError), told_as_store_errors("clear the log", self.shown):
            with anyio.CancelScope(shield=True):
                async with self._engine.connect() as connection:
                    await connection.execution_options(pathors_begin=None)
                    # It may not wait: while it waits for readers, no other may write.
                    await connection.exec_driver_sql("PRAGMA busy_timeout = 0")
                    try:
                        await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                    finally:
                        milliseconds = round(self._timeout * 1000)
                        await connection.exec_driver_sql(f"PRAGMA busy_timeout = {milliseconds}")

    # - connections -

    def _make_engine(self, **pool: Any) -> AsyncEngine:
        _keep_values_out_of_logs()
        with _missing_driver_told():
            engine = create_async_engine(
                self._url, connect_args=self._connect_args(), hide_parameters=True, **pool
            )
        if self.is_sqlite:
            event.listen(engine.sync_engine, "connect", _set_up_sqlite)
            event.listen(engine.sync_engine, "begin", _begin)
        return engine

    def _connect_args(self) -> dict[str, Any]:
        if self.is_sqlite:
            # No isolation level: the driver begins no transaction behind our back.
            return {"timeout": self._timeout, "isolation_level": None}
        seconds = math.ceil(self._timeout)
        wanted = {
            "application_name": "pathors-agent",
            # A prepared statement belongs to a session, which a pooler changes after a transaction.
            "prepare_threshold": None,
            "connect_timeout": seconds,
            # A machine that went away without a word is noticed.
            "keepalives_idle": seconds,
            "keepalives_interval": seconds,
            "keepalives_count": 3,
            "tcp_user_timeout": math.ceil(STATEMENT_SECONDS) * 1000,
        }
        return {name: value for name, value in wanted.items() if name not in self._url.query}

    @asynccontextmanager
    async def _bounded_time(self, connection: AsyncConnection) -> AsyncIterator[None]:
        if not self.is_sqlite:
            await connection.execute(_BOUNDS, self._bounds())
            yield
            return
        driver = _driver_connection(connection)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(
            STATEMENT_SECONDS, lambda: asyncio.ensure_future(driver.interrupt())
        )
        try:
            yield
        finally:
            timer.cancel()

    def _bounds(self) -> dict[str, str]:
        return {
            "lock": f"{round(self._timeout * 1000)}",
            "statement": f"{round(STATEMENT_SECONDS * 1000)}",
            "idle": f"{round(IDLE_SECONDS * 1000)}",
        }

    # - opening -

    async def _prepare_file(self) -> None:
        await anyio.to_thread.run_sync(self._make_file)
        until = time.monotonic() + self._timeout
        while not await self._first_connection(  # noqa: ASYNC110  (SQLite sends no event)
            is_last=time.monotonic() >= until
        ):
            await anyio.sleep(_RETRY_SECONDS)

    def _make_file(self) -> None:
        name = self._url.database or ""
        path = Path(name)
        if name.startswith("file:"):
            return
        # What people say to a model is nobody else's: the files beside it get the same rights.
        with suppress(OSError):  # SQLite says it
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        # aiosqlite leaves a thread behind where it cannot open a file: it must not come so far.
        sqlite3.connect(path).close()
        self._file = path.absolute(), path.stat()

    def _check_file(self) -> None:
        """Raise `StoreError` if the file is not the one that was opened."""
        if self._file is None:
            return
        path, opened = self._file
        try:
            is_same = os.path.samestat(path.stat(), opened)
        except FileNotFoundError:
            is_same = False
        if not is_same:
            raise StoreError(
                f"The database file of {self.shown} was removed or replaced while it was open:"
                " bring it back, and restart this program."
            )
        sqlite3.connect(path).close()  # as in `_make_file`

    async def _first_connection(self, *, is_last: bool) -> bool:
        """Connect once. Return False if another program is connecting too, unless it `is_last`."""
        assert self._engine is not None
        try:
            async with self._engine.connect():
                return True
        except DBAPIError as error:
            if is_last or not is_locked(error):
                raise
            return False

    async def _prepare_tables(self) -> None:
        doing = "open the sessions"
        async with self.reading(doing) as connection:
            if await connection.run_sync(is_up_to_date):
                return
        async with self.writing(doing) as connection:
            await connection.run_sync(migrate)


def _keep_values_out_of_logs() -> None:
    """Let aiosqlite log its statements, which hold what is stored, only to who asks it by name."""
    logger = logging.getLogger("aiosqlite")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


@contextmanager
def _missing_driver_told() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise ModuleNotFoundError(
            "a store in PostgreSQL needs psycopg: pip install 'pathors-agent[postgres]'",
            name="psycopg",
        ) from None


def _set_up_sqlite(connection: DBAPIConnection, _: object) -> None:
    try:
        cursor = connection.cursor()
        for statement in _SQLITE_SETTINGS:
            cursor.execute(statement)
        cursor.close()
        connection.commit()
    except BaseException:
        # The pool forgets a connection that fails here: its thread would outlive the loop.
        connection.close()
        raise


def _driver_connection(connection: AsyncConnection) -> Any:
    assert connection.sync_connection is not None
    return connection.sync_connection.connection.driver_connection


def _begin(connection: Connection) -> None:
    # A transaction that reads first cannot become a writer once another wrote: so it says at
    # once what it is.
    statement = connection.get_execution_options().get("pathors_begin", "BEGIN")
    if statement:
        connection.exec_driver_sql(statement)
