"""A store's database in PostgreSQL: threads with a connection each.

The server commits concurrent transactions together by itself.
"""

import math
from typing import Any

from sqlalchemy import URL

from pathors_agent.errors import StoreError
from pathors_agent.stores import database, tables
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
from pathors_agent.stores.errors import CutOff

# A transaction never waits between two statements, unless its process hangs.
IDLE_SECONDS = 60.0

# Any number that no other program in the database locks.
_MIGRATION_LOCK = 7284164


class PostgreSQL(Database):
    """A database of a PostgreSQL server."""

    def __init__(self, url: URL, timeout: float) -> None:
        super().__init__(url, timeout)
        try:
            import psycopg
        except ModuleNotFoundError as error:
            if error.name != "psycopg":
                raise
            raise ModuleNotFoundError(
                "a store in PostgreSQL needs psycopg: pip install 'pathors-agent[postgres]'",
                name="psycopg",
            ) from None
        self._open_driver = psycopg.connect
        dialect = url.get_dialect()()
        self._texts = Texts(dialect)
        seconds = math.ceil(timeout)
        self._options: dict[str, Any] = {
            "application_name": "pathors-agent",
            # A prepared statement belongs to a session. A pooler such as pgbouncer may change it
            # after each transaction.
            "prepare_threshold": None,
            "connect_timeout": seconds,
            # Notice a machine that disappeared.
            "keepalives_idle": seconds,
            "keepalives_interval": seconds,
            "keepalives_count": 3,
            "tcp_user_timeout": math.ceil(database.STATEMENT_SECONDS) * 1000,
            **dialect.create_connect_args(url)[1],
        }
        self._threads = Threads("pathors-postgresql", CONNECTIONS, self._transact)

    def _put(self, job: Job[Any]) -> None:
        self._threads.put(job)

    def _prepare(self) -> None:
        self._connect().driver.close()

    def _stop(self) -> None:
        self._threads.stop()

    def _version(self, connection: Connection) -> int:
        found = connection.driver.execute(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_tables"
            " WHERE schemaname = current_schema() AND tablename = %s)",
            [tables.schema.name],
        )
        (exists,) = found.fetchone()
        return int(connection.value(tables.VERSION_OF_TABLES) or 0) if exists else 0

    def _migrate(self, connection: Connection) -> None:
        connection.driver.execute(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        (encoding,) = connection.driver.execute("SHOW server_encoding").fetchone()
        if encoding != "UTF8":
            raise StoreError(
                "The database cannot hold every character: make it with ENCODING 'UTF8'."
            )
        super()._migrate(connection)

    def _connect(self) -> Connection:
        return Connection(self._open_driver(autocommit=True, **self._options), self._texts)

    def _transact(self, job: Job[Any], connection: Connection | None) -> Connection | None:
        if not job.claim():
            return connection
        try:
            connection = self._begun(connection, job.kind)
        except Exception as error:  # noqa: BLE001  (raised again where it is waited for)
            connection, job.error = None, error
        else:
            connection = self._ended(connection, job)
        deliver([job])
        return connection

    def _ended(self, connection: Connection, job: Job[Any]) -> Connection | None:
        """Run a job and end its transaction. Return None if the connection broke."""
        job.run(connection)
        is_kept = job.error is None and job.kind != "probe"
        try:
            connection.driver.execute("COMMIT" if is_kept else "ROLLBACK")
        except Exception as error:  # noqa: BLE001  (raised again where it is waited for)
            job.error = job.error or error
        if not connection.driver.closed:
            return connection
        if getattr(job.error, "sqlstate", "") is None:  # libpq has no code for this
            job.error = CutOff()
        return None

    def _begun(self, connection: Connection | None, kind: str) -> Connection:
        """Begin a transaction, on a new connection if there is none or it broke while idle.

        The limits hold until the transaction ends: a pooler may give the session to another
        program then.
        """
        level = "ISOLATION LEVEL REPEATABLE READ READ ONLY" if kind == "read" else ""
        begin = (
            f"BEGIN {level}; SET LOCAL lock_timeout = {round(self._timeout * 1000)};"
            f" SET LOCAL statement_timeout = {round(database.STATEMENT_SECONDS * 1000)};"
            f" SET LOCAL idle_in_transaction_session_timeout = {round(IDLE_SECONDS * 1000)}"
        )
        if connection is not None:
            try:
                connection.driver.execute(begin)
                return connection
            except Exception:
                if not connection.driver.closed:
                    close_driver(connection.driver)
                    raise
        connection = self._connect()
        try:
            connection.driver.execute(begin)
        except BaseException:
            close_driver(connection.driver)
            raise
        return connection
