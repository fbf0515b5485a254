"""A store's database in PostgreSQL: threads with a connection each.

The server commits concurrent transactions together by itself. Statements go through psycopg's
wrapper of libpq: a cursor of psycopg takes four times as much time for a small statement.
"""

import math
from typing import Any

from sqlalchemy import URL, column, create_engine, func, select, table

from pathors_agent.errors import StoreError
from pathors_agent.stores import database, tables
from pathors_agent.stores.database import (
    CONNECTIONS,
    Connection,
    Database,
    Job,
    Statement,
    StatementTexts,
    Threads,
)
from pathors_agent.stores.errors import CutOff

try:
    import psycopg
    from psycopg import pq
except ModuleNotFoundError as missing:
    if missing.name != "psycopg":
        raise
    raise ModuleNotFoundError(
        "a store in PostgreSQL needs psycopg: pip install 'pathors-agent[postgres]'", name="psycopg"
    ) from None

# A transaction never waits between two statements, unless its process hangs.
IDLE_SECONDS = 60.0

# Any number that no other program in the database locks.
_MIGRATION_LOCK = 7284164

# How values of PostgreSQL's types are read, by the numbers of the types: int8, int2, int4, and
# numeric, which is what sum() returns. All other columns are texts.
_READERS = dict.fromkeys((20, 21, 23, 1700), int)


class StatementRefused(Exception):
    """PostgreSQL refused a statement; the error has no text, which could quote stored data."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


class PostgreSQLConnection(Connection):
    """A connection to a server."""

    def __init__(self, driver: "psycopg.Connection[Any]", texts: StatementTexts) -> None:
        super().__init__(texts)
        self._driver = driver
        self._libpq = driver.pgconn

    def rows(self, statement: Statement, **values: object) -> list[Any]:
        """Run a statement and return its rows as tuples."""
        result = self._run(statement, values)
        columns = range(result.nfields)
        readers = [_READERS.get(result.ftype(index), bytes.decode) for index in columns]
        return [
            tuple(
                None if (value := result.get_value(row, index)) is None else readers[index](value)
                for index in columns
            )
            for row in range(result.ntuples)
        ]

    def change(self, statement: Statement, **values: object) -> int:
        """Run a statement that returns no rows, and return how many rows it changed."""
        return self._run(statement, values).command_tuples or 0

    def execute(self, text: str) -> None:
        """Run SQL without values and results; it may be several statements."""
        self._checked(self._libpq.exec_(text.encode()))

    def close(self) -> None:
        """Close the connection, which may be broken already."""
        self._driver.close()

    @property
    def is_idle(self) -> bool:
        """Whether the connection works and has no transaction."""
        return self._libpq.transaction_status == pq.TransactionStatus.IDLE

    def _run(self, statement: Statement, values: dict[str, Any]) -> "pq.abc.PGresult":
        text, names, constants = self.texts[statement]
        values = {**constants, **values}
        parameters = [
            None if (value := values[name]) is None else str(value).encode() for name in names
        ]
        if any(b"\0" in parameter for parameter in parameters if parameter):
            raise StatementRefused("22021")  # libpq would cut the text there
        return self._checked(self._libpq.exec_params(text.encode(), parameters))

    def _checked(self, result: "pq.abc.PGresult") -> "pq.abc.PGresult":
        if result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            return result
        code = result.error_field(pq.DiagnosticField.SQLSTATE)
        is_broken = self._libpq.status != pq.ConnStatus.OK
        raise CutOff if is_broken else StatementRefused(code.decode() if code else None)


_HAS_TABLES = (
    select(func.count())
    .select_from(table("pg_tables", schema="pg_catalog"))
    .where(column("schemaname") == func.current_schema(), column("tablename") == tables.schema.name)
)
_ENCODING = select(func.current_setting("server_encoding"))


class PostgreSQL(Database):
    """A database of a PostgreSQL server."""

    def __init__(self, url: URL, timeout: float) -> None:
        super().__init__(url, timeout)
        dialect = create_engine(url, paramstyle="numeric_dollar").dialect
        self._texts = StatementTexts(dialect)
        seconds = math.ceil(timeout)
        self._options: dict[str, Any] = {
            "application_name": "pathors-agent",
            "connect_timeout": seconds,
            # Notice a machine that disappeared.
            "keepalives_idle": seconds,
            "keepalives_interval": seconds,
            "keepalives_count": 3,
            "tcp_user_timeout": math.ceil(database.STATEMENT_SECONDS) * 1000,
            **dialect.create_connect_args(url)[1],
            "client_encoding": "UTF8",
        }
        self._readers = self._writers = Threads("pathors-postgresql", CONNECTIONS, self._transact)

    def _prepare(self) -> None:
        self._connect().close()

    def _version(self, connection: Connection) -> int:
        if not connection.value(_HAS_TABLES):
            return 0
        return int(connection.value(tables.VERSION_OF_TABLES) or 0)

    def _migrate(self, connection: Connection) -> None:
        connection.execute(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        if connection.value(_ENCODING) != "UTF8":
            raise StoreError(
                "The database cannot hold every character: make it with ENCODING 'UTF8'."
            )
        super()._migrate(connection)

    def _connect(self) -> PostgreSQLConnection:
        driver = psycopg.connect(autocommit=True, **self._options)
        return PostgreSQLConnection(driver, self._texts)

    def _transact(
        self, job: Job[Any], connection: PostgreSQLConnection | None
    ) -> PostgreSQLConnection | None:
        """Run a job in a transaction. Return None if the connection cannot be used any more."""
        try:
            if job.claim():
                connection = self._begun(connection, job.kind)
                job.run(connection)
                is_kept = job.error is None and job.kind != "probe"
                connection.execute("COMMIT" if is_kept else "ROLLBACK")
        except Exception as error:  # noqa: BLE001  (raised again where it is waited for)
            job.error = job.error or error
        self._writers.deliver([job])
        if connection is not None and not connection.is_idle:
            connection.close()
            return None
        return connection

    def _begun(self, connection: PostgreSQLConnection | None, kind: str) -> PostgreSQLConnection:
        """Begin a transaction, on a new connection if there is none or it broke while idle.

        The limits hold until the transaction ends: a pooler such as pgbouncer may give the session
        to another program then.
        """
        level = "ISOLATION LEVEL REPEATABLE READ READ ONLY" if kind == "read" else ""
        begin = (
            f"BEGIN {level}; SET LOCAL lock_timeout = {round(self._timeout * 1000)};"
            f" SET LOCAL statement_timeout = {round(database.STATEMENT_SECONDS * 1000)};"
            f" SET LOCAL idle_in_transaction_session_timeout = {round(IDLE_SECONDS * 1000)}"
        )
        if connection is not None:
            try:
                connection.execute(begin)
                return connection
            except CutOff:
                connection.close()
        connection = self._connect()
        try:
            connection.execute(begin)
        except BaseException:
            connection.close()
            raise
        return connection
