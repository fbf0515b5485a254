"""The tables in a database, and the steps that bring an older database to them."""

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Integer,
    MetaData,
    Table,
    Text,
    inspect,
    or_,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from pathors_agent.errors import StoreError

_TABLES = MetaData()

# Times are milliseconds since 1970, UTC; texts of JSON are as `texts.json_text` writes them. The
# prefix is for databases that other programs use, too.
schema = Table("pathors_schema", _TABLES, Column("version", Integer), Column("checked", BigInteger))

keys = Table(
    "pathors_keys",
    _TABLES,
    Column("number", BigInteger, primary_key=True),
    Column("id", Text),
    Column("project", Text),
    Column("digest", Text),
    Column("prefix", Text),
    Column("last_four", Text),
    Column("name", Text),  # JSON: people type it, so that it may hold any character
    Column("created_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
)

sessions = Table(
    "pathors_sessions",
    _TABLES,
    Column("number", BigInteger, primary_key=True),
    Column("project", Text),
    Column("id", Text),
    Column("incarnation", Text),
    Column("provider", Text),  # JSON, as clients send it
    Column("variables", Text),
    Column("revision", BigInteger),
    Column("created_at", BigInteger),
    Column("updated_at", BigInteger),
    Column("ended_at", BigInteger),
)

messages = Table(
    "pathors_messages",
    _TABLES,
    Column("session", BigInteger, primary_key=True),
    Column("revision", BigInteger, primary_key=True),
    Column("text", Text),
)

leases = Table(
    "pathors_leases",
    _TABLES,
    Column("fence", BigInteger, primary_key=True),
    Column("project", Text),
    Column("session_id", Text),
    Column("holder", Text),
    Column("until", BigInteger),
    Column("span", BigInteger),
)

requests = Table(
    "pathors_requests",
    _TABLES,
    Column("project", Text, primary_key=True),
    Column("api_key", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("body_digest", Text),
    Column("until", BigInteger),
    Column("span", BigInteger),
    Column("answer", Text),
    Column("session", BigInteger),
)

notes = Table(
    "pathors_notes",
    _TABLES,
    Column("number", BigInteger, primary_key=True),
    Column("project", Text),
    Column("session_id", Text),
    Column("turn", Text),
    Column("text", Text),
    Column("until", BigInteger),
)

# {number} is an integer that the database chooses, always greater than any before.
_FIRST = (
    """CREATE TABLE pathors_keys (
        number {number}, id TEXT NOT NULL UNIQUE, project TEXT NOT NULL,
        digest TEXT NOT NULL UNIQUE, prefix TEXT NOT NULL, last_four TEXT NOT NULL,
        name TEXT NOT NULL, created_at BIGINT NOT NULL, revoked_at BIGINT, last_used_at BIGINT)""",
    """CREATE TABLE pathors_sessions (
        number {number}, project TEXT NOT NULL, id TEXT NOT NULL, incarnation TEXT NOT NULL,
        provider TEXT NOT NULL, variables TEXT NOT NULL, revision BIGINT NOT NULL,
        created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, ended_at BIGINT)""",
    # One session of an id lives at a time.
    """CREATE UNIQUE INDEX pathors_sessions_live ON pathors_sessions (project, id)
        WHERE ended_at IS NULL""",
    """CREATE INDEX pathors_sessions_created
        ON pathors_sessions (project, created_at, number)""",
    """CREATE INDEX pathors_sessions_updated
        ON pathors_sessions (project, updated_at, number)""",
    """CREATE TABLE pathors_messages (
        session BIGINT NOT NULL REFERENCES pathors_sessions (number),
        revision BIGINT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (session, revision))""",
    """CREATE TABLE pathors_leases (
        fence {number}, project TEXT NOT NULL, session_id TEXT NOT NULL, holder TEXT NOT NULL,
        until BIGINT NOT NULL, span BIGINT NOT NULL, UNIQUE (project, session_id))""",
    """CREATE TABLE pathors_requests (
        project TEXT NOT NULL, api_key TEXT NOT NULL, name TEXT NOT NULL,
        body_digest TEXT NOT NULL, until BIGINT NOT NULL, span BIGINT NOT NULL,
        answer TEXT, session BIGINT, PRIMARY KEY (project, api_key, name))""",
    "CREATE INDEX pathors_requests_until ON pathors_requests (until)",
    "CREATE INDEX pathors_requests_session ON pathors_requests (session)",
)

_NOTES = (
    """CREATE TABLE pathors_notes (
        number {number}, project TEXT NOT NULL, session_id TEXT NOT NULL, turn TEXT NOT NULL,
        text TEXT NOT NULL, until BIGINT NOT NULL)""",
    "CREATE INDEX pathors_notes_turn ON pathors_notes (project, session_id, turn)",
    "CREATE INDEX pathors_notes_until ON pathors_notes (until)",
)

# Version 1 is what the first step makes. A released step is never changed: add one.
MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, _NOTES)
VERSION = len(MIGRATIONS)

_NUMBER = {
    "sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "postgresql": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
}

# Any number will do that no other program in the database locks.
_MIGRATION_LOCK = 7284164


def is_up_to_date(connection: Connection) -> bool:
    """Tell whether the tables are of this version; refuse newer ones, and other programs' files."""
    version = _version(connection)
    if version > VERSION:
        raise StoreError(
            f"The database has version {version} of the tables, and this pathors-agent knows them"
            f" up to {VERSION}: install the newer pathors-agent that made it."
        )
    return version == VERSION


def migrate(connection: Connection) -> None:
    """Take the steps that the database lacks, in a transaction that no other program shares."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        _require_utf8(connection)
    if is_up_to_date(connection):  # another process was first
        return
    for step in MIGRATIONS[_version(connection) :]:
        for statement in step:
            number = _NUMBER[connection.dialect.name]
            connection.exec_driver_sql(statement.replace("{number}", number))
    _write_version(connection)


def _require_utf8(connection: Connection) -> None:
    if connection.scalar(text("SHOW server_encoding")) != "UTF8":
        raise StoreError("The database cannot hold every character: make it with ENCODING 'UTF8'.")


def _version(connection: Connection) -> int:
    tables = inspect(connection).get_table_names()
    if schema.name in tables:
        return int(connection.scalar(schema.select().with_only_columns(schema.c.version)) or 0)
    if tables and connection.dialect.name == "sqlite":
        raise StoreError("The database file belongs to another program: name another file.")
    return 0


def _write_version(connection: Connection) -> None:
    connection.exec_driver_sql(
        "CREATE TABLE IF NOT EXISTS pathors_schema (version INTEGER NOT NULL, checked BIGINT)"
    )
    connection.execute(schema.delete())
    connection.execute(schema.insert().values(version=VERSION))


def insert_if_new(
    connection: AsyncConnection, table: Table, **values: object
) -> sqlite.Insert | postgresql.Insert:
    """Make a statement that adds a row unless there is one that it may not be beside."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).values(**values).on_conflict_do_nothing()
    return sqlite.insert(table).values(**values).on_conflict_do_nothing()


# - times -


class clock(FunctionElement[int]):  # noqa: N801  (reads as a function of SQL)
    """The time of the database's machine."""

    name = "clock"
    type = BigInteger()
    inherit_cache = True


@compiles(clock, "postgresql")
def _clock_of_postgresql(element: clock, compiler: SQLCompiler, **_: object) -> str:
    # Not now(), which is the time when the transaction began.
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(clock, "sqlite")
def _clock_of_sqlite(element: clock, compiler: SQLCompiler, **_: object) -> str:
    # SQLite counts milliseconds itself; before 3.42 it tells them as days since noon of a Monday.
    return "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"


# What a clock that is set by the network may jump back while a lease is held.
_CLOCK_SLACK = 60_000


def is_over(table: Table) -> ColumnElement[bool]:
    """Tell whether a lease or a request is over.

    One that has more to go than its whole span was written before the clock was put back, and
    nobody knows how long it lasted already.
    """
    longest = clock() + table.c.span + _CLOCK_SLACK
    return or_(table.c.until <= clock(), table.c.until > longest)


def has_been_over(table: Table, milliseconds: int) -> ColumnElement[bool]:
    """Tell whether a request is over for so long."""
    return table.c.until <= clock() - milliseconds


def span(seconds: float) -> int:
    """Give seconds as the tables have them."""
    return round(seconds * 1000)


def read_time(milliseconds: int) -> datetime:
    """Read a time from the tables."""
    # Whole numbers only: a float rounds a millisecond up or down.
    seconds, rest = divmod(milliseconds, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000)


def read_optional_time(milliseconds: int | None) -> datetime | None:
    """Read a time from the tables that may not have come yet."""
    return None if milliseconds is None else read_time(milliseconds)


def write_time(time: datetime | None) -> int | None:
    """Write a time as the tables have them."""
    if time is None:
        return None
    return int(time.timestamp()) * 1000 + time.microsecond // 1000
