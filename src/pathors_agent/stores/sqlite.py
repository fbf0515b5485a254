"""A store's database in SQLite: one thread that writes, and threads that read beside it.

Transactions that wait for the writing thread together run in one transaction of SQLite, each in a
savepoint, and share one commit. A caller gets its result only after the commit, and the commit
ends when everything is on the disk. Transactions about leases alone are not flushed: a lease ends
with its process, and so with the machine. The next commit that is flushed flushes them first.
"""

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Select, column, select, table
from sqlalchemy.dialects import sqlite

from pathors_agent.errors import StoreError
from pathors_agent.stores import tables
from pathors_agent.stores.database import (
    CONNECTIONS,
    Connection,
    Database,
    Job,
    Statement,
    StatementTexts,
    Threads,
)
from pathors_agent.stores.errors import is_interrupted, is_locked

# The pauses between two attempts to lock SQLite's file, from the first to the longest.
_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.02

# Writers that share a commit: enough for one fsync to serve many, and short for the first.
GROUP_SIZE = 100

_SETTINGS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    # Deleted content is overwritten with zeros.
    "PRAGMA secure_delete = ON",
)


class SQLiteConnection(Connection):
    """A connection to a file; `in_transaction` tells whether SQLite has one open."""

    def __init__(self, driver: sqlite3.Connection, texts: StatementTexts) -> None:
        super().__init__(texts)
        self._driver = driver
        self._flushes = True

    def rows(self, statement: Statement, **values: object) -> list[Any]:
        """Run a statement and return its rows as tuples."""
        text, _, constants = self.texts[statement]
        return self._driver.execute(text, {**constants, **values}).fetchall()

    def change(self, statement: Statement, **values: object) -> int:
        """Run a statement that returns no rows, and return how many rows it changed."""
        text, _, constants = self.texts[statement]
        return self._driver.execute(text, {**constants, **values}).rowcount

    def execute(self, text: str) -> None:
        """Run SQL without values and results."""
        self._driver.execute(text).fetchall()

    def close(self) -> None:
        """Close the connection, which may be broken already."""
        with suppress(sqlite3.Error):
            self._driver.close()

    def interrupt(self) -> None:
        """Interrupt the statement that another thread runs now."""
        self._driver.interrupt()

    def begin(self, *, flushes: bool) -> None:
        """Lock the file for writing. Commits that are not flushed are lost if the machine fails."""
        if flushes != self._flushes:
            self.execute(f"PRAGMA synchronous = {'FULL' if flushes else 'NORMAL'}")
            self._flushes = flushes
        self.execute("BEGIN IMMEDIATE")

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open: an error may have rolled it back."""
        return self._driver.in_transaction


_TABLE_NAMES: Select[Any] = (
    select(column("name")).select_from(table("sqlite_master")).where(column("type") == "table")
)


class SQLite(Database):
    """A file on a disk of this machine."""

    def __init__(self, url: URL, timeout: float) -> None:
        super().__init__(url, timeout)
        dialect = sqlite.dialect(paramstyle="named")
        self._texts = StatementTexts(dialect)
        (self._path,), self._options = dialect.create_connect_args(url)
        # The file when it was opened.
        self._file: tuple[Path, os.stat_result] | None = None
        self._writers = Threads("pathors-writer", 1, self._write)
        self._readers = Threads("pathors-reader", CONNECTIONS - 1, self._read)

    def _version(self, connection: Connection) -> int:
        names = {name for (name,) in connection.rows(_TABLE_NAMES)}
        if tables.schema.name in names:
            return int(connection.value(tables.VERSION_OF_TABLES) or 0)
        if names:
            raise StoreError("The database file belongs to another program: name another file.")
        return 0

    # - connections -

    def _connect(self, *, timeout: float) -> SQLiteConnection:
        driver = sqlite3.connect(
            self._path, **{**self._options, "timeout": timeout, "isolation_level": None}
        )
        connection = SQLiteConnection(driver, self._texts)
        try:
            for statement in _SETTINGS:
                connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self) -> None:
        path = Path(self._url.database or "")
        is_uri = str(path).startswith("file:")
        if not is_uri:
            # Sessions are private: SQLite gives the files beside this one the same permissions.
            with suppress(OSError):  # SQLite reports it below
                os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        until = time.monotonic() + self._timeout
        # SQLite does not wait by itself while another program turns the same file to WAL.
        while True:
            try:
                self._connect(timeout=self._timeout).close()
                break
            except sqlite3.Error as error:
                if not is_locked(error) or time.monotonic() >= until:
                    raise
            time.sleep(_LONGEST_PAUSE_SECONDS)
        if not is_uri:
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

    # - transactions -

    def _read(self, job: Job[Any], connection: SQLiteConnection | None) -> SQLiteConnection | None:
        try:
            if connection is None:
                connection = self._connect(timeout=self._timeout)
            if job.claim():
                connection.execute("BEGIN")
                job.run(connection)
        except Exception as error:  # noqa: BLE001  (raised again where it is waited for)
            job.error = error
        connection = _rolled_back(connection)
        self._readers.deliver([job])
        return connection

    def _write(self, job: Job[Any], connection: SQLiteConnection | None) -> SQLiteConnection | None:
        """Run a job, and the transactions that wait already together with it."""
        jobs, probes = [job], list[Job[Any]]()
        try:
            if job.kind == "probe":
                self._probe(job)
            else:
                connection = connection or self._connect(timeout=0)
                self._begin(connection, jobs, probes)
                self._run_together(connection, jobs)
        except Exception as error:  # noqa: BLE001  (raised again where it is waited for)
            for each in jobs:
                each.error = each.error or error
        connection = _rolled_back(connection)
        erasing = [each for each in jobs if each.kind == "erase"]
        self._writers.deliver([each for each in jobs if each.kind != "erase"])
        if erasing:
            # It does not wait for readers: no other writer could work meanwhile.
            with suppress(sqlite3.Error):
                if connection is not None:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._writers.deliver(erasing)
        for probe in probes:
            connection = self._write(probe, connection)
        return connection

    def _begin(
        self, connection: SQLiteConnection, jobs: list[Job[Any]], probes: list[Job[Any]]
    ) -> None:
        """Lock the file for writing, as long as a job waits for it.

        Jobs that come meanwhile are added: transactions to `jobs`, and the rest to `probes`.
        """
        pause = _FIRST_PAUSE_SECONDS
        while not all(job.is_withdrawn for job in jobs):
            for job in self._writers.take_waiting(GROUP_SIZE - len(jobs)):
                (probes if job.kind == "probe" else jobs).append(job)
            try:
                connection.begin(flushes=any(job.kind != "lock" for job in jobs))
                return
            except sqlite3.Error as error:
                if not is_locked(error):
                    raise
                for job in (*jobs, *probes):
                    job.obstacle = error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _run_together(self, connection: SQLiteConnection, jobs: Sequence[Job[Any]]) -> None:
        """Run jobs in the transaction that has begun, each in a savepoint, and commit them.

        If the whole transaction fails, each job runs again in a transaction of its own.
        """
        claimed = [job for job in jobs if job.claim()]
        if len(claimed) < 2:
            for job in claimed:
                self._run_alone(connection, job)
            return
        try:
            for job in claimed:
                connection.execute("SAVEPOINT job")
                job.run(connection)
                if job.error is not None:
                    connection.execute("ROLLBACK TO job")
                connection.execute("RELEASE job")
            connection.execute("COMMIT")
        except sqlite3.Error:  # it was rolled back: the disk is full, for example
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            # The connection waits for no lock otherwise.
            connection.execute(f"PRAGMA busy_timeout = {round(self._timeout * 1000)}")
            for job in claimed:
                if job.error is None or not is_interrupted(job.error):
                    self._run_alone(connection, job)
            connection.execute("PRAGMA busy_timeout = 0")

    def _run_alone(self, connection: SQLiteConnection, job: Job[Any]) -> None:
        """Run a job in a transaction that has begun, or in a new one."""
        try:
            if not connection.in_transaction:
                connection.begin(flushes=job.kind != "lock")
            job.run(connection)
            if job.error is None:
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            job.error = error
        if connection.in_transaction:
            connection.execute("ROLLBACK")

    def _probe(self, job: Job[Any]) -> None:
        """Run a job on a new connection, unless it was withdrawn, and roll it back.

        An open connection would not notice a file that was removed, replaced, damaged or made
        read-only. With a cache of one page, a write needs room on the disk before the
        end of the transaction.
        """
        if not job.claim():
            return
        self._check_file()
        connection = self._connect(timeout=self._timeout)
        try:
            for statement in ("PRAGMA cache_size = 1", "PRAGMA cache_spill = 1", "BEGIN IMMEDIATE"):
                connection.execute(statement)
            job.run(connection)
        finally:
            connection.close()


def _rolled_back(connection: SQLiteConnection | None) -> SQLiteConnection | None:
    """Return a connection without a transaction, or None if it cannot be used any more."""
    if connection is None:
        return None
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        connection.close()
        return None
    return connection
