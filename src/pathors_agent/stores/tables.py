"""The tables of a store, the DDL made from them, and the upgrades of older databases.

Times are milliseconds since 1970 in UTC. JSON texts are written by `texts.json_text`. The prefix
`pathors_` keeps the names apart from tables of other programs in the same database.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    Dialect,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    UpdateBase,
    and_,
    bindparam,
    or_,
    select,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from pathors_agent.errors import StoreError

_TABLES = MetaData()


def _number(name: str = "number") -> Column[int]:
    """Return the column of a number that the database chooses, greater than all before it."""
    kind = BigInteger().with_variant(Integer, "sqlite")
    return Column(name, kind, Identity(always=True), primary_key=True)


def _text(name: str, *, primary_key: bool = False) -> Column[str]:
    return Column(name, Text, nullable=False, primary_key=primary_key)


def _integer(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


schema = Table(
    "pathors_schema",
    _TABLES,
    Column("version", Integer, nullable=False),
    Column("checked", BigInteger),
)

keys = Table(
    "pathors_keys",
    _TABLES,
    _number(),
    Column("id", Text, nullable=False, unique=True),
    _text("project"),
    Column("digest", Text, nullable=False, unique=True),
    _text("prefix"),
    _text("last_four"),
    _text("name"),  # JSON: people type it, so that it may hold any character
    _integer("created_at"),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
    sqlite_autoincrement=True,
)

sessions = Table(
    "pathors_sessions",
    _TABLES,
    _number(),
    _text("project"),
    _text("id"),
    _text("incarnation"),
    _text("provider"),  # JSON, as clients send it
    _text("variables"),
    _text("title"),  # JSON, or empty
    _integer("revision"),
    _integer("created_at"),
    _integer("updated_at"),
    Column("ended_at", BigInteger),
    # At most one session with an id is live.
    Index(
        "pathors_sessions_live",
        "project",
        "id",
        unique=True,
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
    Index("pathors_sessions_created", "project", "created_at", "number"),
    Index("pathors_sessions_updated", "project", "updated_at", "number"),
    sqlite_autoincrement=True,
)

messages = Table(
    "pathors_messages",
    _TABLES,
    Column("session", BigInteger, ForeignKey(sessions.c.number), primary_key=True),
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    _text("text"),
)

leases = Table(
    "pathors_leases",
    _TABLES,
    _number("fence"),
    _text("project"),
    _text("session_id"),
    _text("holder"),
    _integer("until"),
    _integer("span"),
    UniqueConstraint("project", "session_id"),
    sqlite_autoincrement=True,
)

requests = Table(
    "pathors_requests",
    _TABLES,
    _text("project", primary_key=True),
    _text("api_key", primary_key=True),
    _text("name", primary_key=True),
    _text("body_digest"),
    _integer("until"),
    _integer("span"),
    Column("answer", Text),
    Column("session", BigInteger),
    Index("pathors_requests_until", "until"),
    Index("pathors_requests_session", "session"),
)

notes = Table(
    "pathors_notes",
    _TABLES,
    _number(),
    _text("project"),
    _text("session_id"),
    _text("turn"),
    _text("text"),
    _integer("until"),
    Index("pathors_notes_turn", "project", "session_id", "turn"),
    Index("pathors_notes_until", "until"),
    sqlite_autoincrement=True,
)

# UPGRADES[0] holds the statements that bring a database of version 2 to version 3, and so on. A
# released step is never changed. Add a step for each change of the tables above.
UPGRADES: tuple[tuple[str, ...], ...] = (
    ("ALTER TABLE pathors_sessions ADD COLUMN title TEXT NOT NULL DEFAULT ''",),
)
_FIRST_VERSION = 2


VERSION_OF_TABLES = select(schema.c.version)


def version() -> int:
    """Return the version of the tables that this program knows."""
    return _FIRST_VERSION + len(UPGRADES)


def upgrade(dialect: Dialect, found: int) -> Iterator[str]:
    """Yield the statements that bring a database of a version to `version()`; 0 is an empty one."""
    if found == 0:
        for table in _TABLES.sorted_tables:
            yield str(CreateTable(table).compile(dialect=dialect))
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                yield str(CreateIndex(index).compile(dialect=dialect))
        yield _literally(schema.insert().values(version=version()), dialect)
        return
    if found < _FIRST_VERSION:
        raise StoreError("The tables are older than the first release: use another database.")
    for step in UPGRADES[found - _FIRST_VERSION :]:
        yield from step
    yield _literally(schema.update().values(version=version()), dialect)


def _literally(statement: UpdateBase, dialect: Dialect) -> str:
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


# - values by name -


def bound(*names: str) -> dict[str, BindParameter[Any]]:
    """Return the values of columns that a statement gets by their names."""
    return {name: bindparam(name) for name in names}


def matching(table: Table, *names: str) -> ColumnElement[bool]:
    """Return the condition that columns have the values that a statement gets by their names."""
    return and_(*(table.c[name] == value for name, value in bound(*names).items()))


# - functions of SQL that the databases spell differently -

# In SQLite and in PostgreSQL; {0} is the first argument.
_SPELLINGS = {
    # SQLite counts milliseconds, but before 3.42 it returns them as Julian days only. In
    # PostgreSQL, now() would be the start of the transaction.
    "clock": (
        "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
        "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
    ),
    "statement_time": (
        "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
        "CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT)",
    ),
    # In SQLite, in the order of the subquery: ORDER BY in an aggregate came with 3.44.
    "joined": ("group_concat({0}, {1})", "string_agg({0}, {1} ORDER BY {2})"),
    "position": ("instr({0}, {1})", "strpos({0}, {1})"),
    # octet_length came with SQLite 3.43.
    "text_bytes": ("length(CAST({0} AS BLOB))", "octet_length({0})"),
    "call_ids": (
        "(SELECT json_group_array(json_extract(value, '$.id'))"
        " FROM json_each({0}, '$.tool_calls'))",
        "(SELECT CAST(json_agg(value->'id') AS TEXT) FROM json_array_elements(CAST({0} AS JSON)->'tool_calls'))",
    ),
    "json_numbers": (
        "(SELECT value FROM json_each({0}))",
        "(SELECT CAST(value AS BIGINT) FROM json_array_elements_text(CAST({0} AS JSON)))",
    ),
}


class _Function(FunctionElement[Any]):
    inherit_cache = False  # a statement of a store is compiled once

    def __init__(self, name: str, kind: TypeEngine[Any], *arguments: ColumnElement[Any]) -> None:
        super().__init__(*arguments)
        self.type = kind
        self.spellings = _SPELLINGS[name]


@compiles(_Function)
def _spelled(element: _Function, compiler: SQLCompiler, **kw: Any) -> str:
    sqlite, postgresql = element.spellings
    spelling = sqlite if compiler.dialect.name == "sqlite" else postgresql
    return spelling.format(*(compiler.process(argument, **kw) for argument in element.clauses))


def clock() -> ColumnElement[int]:
    """Return the current time of the database's machine."""
    return _Function("clock", BigInteger())


def statement_time() -> ColumnElement[int]:
    """Return the time when the statement began, which is the same in the whole statement."""
    return _Function("statement_time", BigInteger())


def joined(
    texts: ColumnElement[str], separator: ColumnElement[str], order: ColumnElement[int]
) -> ColumnElement[str]:
    """Return the texts of a group of rows in an order, joined by a separator."""
    return _Function("joined", Text(), texts, separator, order)


def position(text: ColumnElement[str], searched: ColumnElement[str]) -> ColumnElement[int]:
    """Return the position of the second text in the first in characters; 0 if it is not in it."""
    return _Function("position", BigInteger(), text, searched)


def text_bytes(text: ColumnElement[str]) -> ColumnElement[int]:
    """Return the bytes of a text in UTF-8."""
    return _Function("text_bytes", BigInteger(), text)


def call_ids(message: ColumnElement[str]) -> ColumnElement[str]:
    """Return the ids of the calls in a message's text, as a JSON array."""
    return _Function("call_ids", Text(), message)


def json_numbers(array: ColumnElement[str]) -> ColumnElement[int]:
    """Return the numbers of a JSON array, as the subquery of an IN."""
    return _Function("json_numbers", BigInteger(), array)


# - times -

# A clock that is set by the network may jump back this far while a lease is held.
_CLOCK_SLACK = 60_000


def is_over(table: Table) -> ColumnElement[bool]:
    """Return the condition that a lease or a request has expired.

    One that has more than its whole span left was written before the clock was set back. Its true
    age is unknown, so it counts as expired.
    """
    longest = clock() + table.c.span + _CLOCK_SLACK
    return or_(table.c.until <= clock(), table.c.until > longest)


def has_been_over(table: Table, milliseconds: int) -> ColumnElement[bool]:
    """Return the condition that a request or a note expired at least `milliseconds` ago."""
    return table.c.until <= clock() - milliseconds


def span(seconds: float) -> int:
    """Return seconds as milliseconds."""
    return round(seconds * 1000)


def read_time(milliseconds: int) -> datetime:
    """Return a stored time as a datetime."""
    # Integers only: a float could round to another millisecond.
    seconds, rest = divmod(milliseconds, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000)


def read_optional_time(milliseconds: int | None) -> datetime | None:
    """Return a stored time as a datetime, or None if there is none."""
    return None if milliseconds is None else read_time(milliseconds)


def write_time(time: datetime | None) -> int | None:
    """Return a datetime as a stored time, or None if there is none."""
    if time is None:
        return None
    return int(time.timestamp()) * 1000 + time.microsecond // 1000
