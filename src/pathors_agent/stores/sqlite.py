"""A store's database in SQLite: one thread that writes, and threads that read beside it.

Transactions that wait for the writing thread together run in one transaction of SQLite, each in a
savepoint, and share one commit. A caller gets its result only after the commit.
"""

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL
from sqlalchemy.dialects import sqlite

from pathors_agent.errors import StoreError
from pathors_agent.stores import tables
from pathors_agent.stores.database import (
    CONNECTIONS,
    Connection,
    Database,
    Job,
    Texts,
    Threads,
    close_driver,
    deliver,
)
from pathors_agent.stores.errors import is_interrupted, is_locked

# The pauses between two attempts to lock SQLite's file, from the first to the longest.
_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.02

# Writers that share a commit: enough for one fsync to serve many, and short for the first.
GROUP_SIZE = 100

_SQLITE_SETTINGS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    # Deleted content is overwritten with zeros.
    "PRAGMA secure_delete = ON",
)


class SQLite(Database):
    """A file on a disk of this machine."""

    def __init__(self, url: URL, timeout: float) -> None:
        super().__init__(url, timeout)
        dialect = sqlite.dialect(paramstyle="named")
        self._texts = Texts(dialect)
        (self._path,), self._options = dialect.create_connect_args(url)
        # The file when it was opened.
        self._file: tuple[Path, os.stat_result] | None = None
        self._writer = Threads("pathors-writer", 1, self._write)
        self._readers = Threads("pathors-reader", CONNECTIONS - 1, self._read)

    async def forget_deleted(self) -> None:
        """Overwrite deleted content in the log beside the file.

        Best effort: while others read, it happens after a later deletion.
        """
        with suppress(StoreError):
            await self._done(Job("clear the log", _clear_log, "alone"))

    def _put(self, job: Job[Any]) -> None:
        (self._readers if job.kind == "read" else self._writer).put(job)

    def _stop(self) -> None:
        self._readers.stop()
        self._writer.stop()

    def _interrupt(self, job: Job[Any]) -> None:
        job.interrupt()

    def _version(self, connection: Connection) -> int:
        found = connection.driver.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        names = {name for (name,) in found.fetchall()}
        if tables.schema.name in names:
            return int(connection.value(tables.VERSION_OF_TABLES) or 0)
        if names:
            raise StoreError("The database file belongs to another program: name another file.")
        return 0

    # - connections -

    def _connect(self, *, timeout: float) -> sqlite3.Connection:
        driver: sqlite3.Connection = sqlite3.connect(
            self._path, **{**self._options, "timeout": timeout, "isolation_level": None}
        )
        try:
            for statement in _SQLITE_SETTINGS:
                driver.execute(statement).fetchall()
        except BaseException:
            driver.close()
            raise
        return driver

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

    def _read(self, job: Job[Any], connection: Connection | None) -> Connection | None:
        if not job.claim():
            return connection
        try:
            if connection is None:
                connection = Connection(self._connect(timeout=self._timeout), self._texts)
            connection.driver.execute("BEGIN")
            job.run(connection)
        except Exception as error:  # noqa: BLE001  (raised again where it is waited for)
            job.error = error
        connection = _rolled_back(connection)
        deliver([job])
        return connection

    def _write(self, job: Job[Any], connection: Connection | None) -> Connection | None:
        """Run a job, and the transactions that wait already together with it."""
        jobs, others = [job], list[Job[Any]]()
        try:
            if job.kind == "probe":
                self._probe(job)
            elif connection is None:
                connection = Connection(self._connect(timeout=0), self._texts)
            if job.kind == "write" and connection is not None:
                self._begin(connection, jobs, others)
                self._run_together(connection, jobs)
            elif job.kind == "alone" and connection is not None and job.claim():
                job.run(connection)
        except Exception as error:  # noqa: BLE001  (raised again where it is waited for)
            for each in jobs:
                each.error = each.error or error
        connection = _rolled_back(connection)
        deliver([each for each in jobs if each.claim()])
        for other in others:
            connection = self._write(other, connection)
        return connection

    def _begin(self, connection: Connection, jobs: list[Job[Any]], others: list[Job[Any]]) -> None:
        """Lock the file for writing, as long as a job waits for it.

        Jobs that come meanwhile are added: transactions to `jobs`, and the rest to `others`.
        """
        pause = _FIRST_PAUSE_SECONDS
        while jobs:
            for job in self._writer.take_waiting(GROUP_SIZE - len(jobs)):
                (jobs if job.kind == "write" else others).append(job)
            try:
                connection.driver.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.Error as error:
                if not is_locked(error):
                    raise
                for job in (*jobs, *others):
                    job.obstacle = error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            jobs[:] = [job for job in jobs if not job.is_withdrawn]

    def _run_together(self, connection: Connection, jobs: Sequence[Job[Any]]) -> None:
        """Run jobs in the transaction that has begun, each in a savepoint, and commit them.

        If the whole transaction fails, each job runs again in a transaction of its own.
        """
        claimed = [job for job in jobs if job.claim()]
        driver = connection.driver
        if len(claimed) < 2:
            for job in claimed:
                self._run_alone(connection, job)
            return
        try:
            for job in claimed:
                driver.execute("SAVEPOINT job")
                job.run(connection)
                if job.error is not None:
                    driver.execute("ROLLBACK TO job")
                driver.execute("RELEASE job")
            driver.execute("COMMIT")
        except sqlite3.Error:  # it was rolled back: the disk is full, for example
            if driver.in_transaction:
                driver.execute("ROLLBACK")
            # The connection waits for no lock otherwise.
            driver.execute(f"PRAGMA busy_timeout = {round(self._timeout * 1000)}")
            for job in claimed:
                if job.error is None or not is_interrupted(job.error):
                    self._run_alone(connection, job)
            driver.execute("PRAGMA busy_timeout = 0")

    def _run_alone(self, connection: Connection, job: Job[Any]) -> None:
        """Run a job in a transaction that has begun, or in a new one."""
        driver = connection.driver
        try:
            if not driver.in_transaction:
                driver.execute("BEGIN IMMEDIATE")
            job.run(connection)
            if job.error is None:
                driver.execute("COMMIT")
        except sqlite3.Error as error:
            job.error = error
        if driver.in_transaction:
            driver.execute("ROLLBACK")

    def _probe(self, job: Job[Any]) -> None:
        """Run a job on a new connection, unless it was withdrawn, and roll it back.

        An open connection would not notice a file that was removed, replaced, damaged or made
        read-only. With a cache of one page, what is written needs room on the disk before the
        end of the transaction.
        """
        if not job.claim():
            return
        self._check_file()
        driver = self._connect(timeout=self._timeout)
        try:
            for statement in ("PRAGMA cache_size = 1", "PRAGMA cache_spill = 1", "BEGIN IMMEDIATE"):
                driver.execute(statement)
            job.run(Connection(driver, self._texts))
        finally:
            driver.close()


def _clear_log(connection: Connection) -> None:
    # It does not wait for readers: no other writer could work meanwhile.
    connection.driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _rolled_back(connection: Connection | None) -> Connection | None:
    """Return a connection without a transaction, or None if it cannot be used any more."""
    if connection is None:
        return None
    try:
        if connection.driver.in_transaction:
            connection.driver.execute("ROLLBACK")
    except sqlite3.Error:
        close_driver(connection.driver)
        return None
    return connection
