"""The statements for sessions: one is made, read, searched and ended."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Row,
    Select,
    String,
    Text,
    case,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from pathors_agent.errors import SessionConflict, SessionNotFound
from pathors_agent.stores import sql_notes
from pathors_agent.stores.base import Page, Session, SessionSummary
from pathors_agent.stores.sql_schema import (
    clock,
    insert_if_new,
    leases,
    messages,
    read_optional_time,
    read_time,
    requests,
    sessions,
)
from pathors_agent.stores.texts import joined_text, json_text, same_json, searchable

# A session may be ended, and begun by another, between two statements; not for ever.
_TRIES = 10

_LIVE = sessions.c.ended_at.is_(None)

# The columns of a line in a list: variables may be megabytes.
_SUMMARY = (
    sessions.c.id,
    sessions.c.provider,
    sessions.c.revision,
    sessions.c.created_at,
    sessions.c.ended_at,
)

# Sessions of a page whose sizes are asked for at once. SQLite reads a text to know its size, and
# most of what is behind the end of a page is not worth that.
_READ_AT_ONCE = 20


async def create(
    connection: AsyncConnection, project: str, session_id: str, variables: str, provider: str
) -> Session:
    """Make an empty session, or give the same one that is there and still empty."""
    for _ in range(_TRIES):
        if begun := await begin(connection, project, session_id, variables, provider):
            return begun
        if live := await _row(connection, project, session_id):
            return await _same(live, variables, provider)
    raise SessionConflict(f"The session {session_id} is begun and ended by others.")


async def _same(row: Row[Any], variables: str, provider: str) -> Session:
    same = row.provider == json_text(provider) and await same_json(row.variables, variables)
    if row.revision or not same:
        raise SessionConflict(f"The session {row.id} exists with other content.")
    return _read(row, ())


async def begin(
    connection: AsyncConnection, project: str, session_id: str, variables: str, provider: str
) -> Session | None:
    """Make a session; None when there is one of this id."""
    time = await connection.scalar(select(clock()))
    insert = insert_if_new(
        connection,
        sessions,
        project=project,
        id=session_id,
        incarnation=uuid4().hex,
        provider=json_text(provider),
        variables=variables,
        revision=0,
        created_at=time,
        updated_at=time,
    )
    made = await connection.execute(insert.returning(*sessions.c))
    row = made.first()
    return None if row is None else _read(row, ())


async def _row(connection: AsyncConnection, project: str, session_id: str) -> Row[Any] | None:
    wanted = select(sessions).where(
        sessions.c.project == project, sessions.c.id == session_id, _LIVE
    )
    return (await connection.execute(wanted)).first()


async def whole(connection: AsyncConnection, project: str, session_id: str) -> Session:
    """Give a session with its messages."""
    row = await _row(connection, project, session_id)
    if row is None:
        raise SessionNotFound(f"There is no session {session_id}.")
    return (await _with_messages(connection, [row]))[0]


async def _with_messages(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> list[Session]:
    found: dict[int, list[str]] = {row.number: [] for row in rows}
    wanted = (
        select(messages.c.session, messages.c.text)
        .where(messages.c.session.in_(found))
        .order_by(messages.c.session, messages.c.revision)
    )
    for number, text in await connection.execute(wanted):
        found[number].append(text)
    return [_read(row, found[row.number]) for row in rows]


def _read(row: Row[Any], texts: Sequence[str]) -> Session:
    return Session(
        project=row.project,
        id=row.id,
        incarnation=row.incarnation,
        variables_text=row.variables,
        provider=json.loads(row.provider),
        message_texts=tuple(texts),
        revision=row.revision,
        created_at=read_time(row.created_at),
        updated_at=read_time(row.updated_at),
    )


# - lists -


async def search(
    connection: AsyncConnection,
    project: str,
    text: str,
    *,
    limit: int,
    offset: int,
    max_bytes: int,
) -> Page[Session]:
    """Find sessions whose data contains the text, newest update first."""
    wanted = searchable(text)
    if wanted is None:
        return Page((), total=0)
    found = select(sessions.c.number).where(sessions.c.project == project, _LIVE)
    if wanted:
        found = found.where(_data_contains(wanted))
    ordered = found.order_by(sessions.c.updated_at.desc(), sessions.c.number.desc())
    rows, total = await _page(connection, ordered, limit, offset)
    page: list[Session] = []
    left = max_bytes
    for start in range(0, len(rows), _READ_AT_ONCE):
        numbers = [row.number for row in rows[start : start + _READ_AT_ONCE]]
        fitting = await _fitting(connection, numbers, left, is_first=not page)
        added = await _whole_by_number(connection, fitting)
        page += added
        left -= sum(session.size for session in added)
        if len(fitting) < len(numbers):
            break
    return Page(tuple(page), total=total)


async def _fitting(
    connection: AsyncConnection, numbers: Sequence[int], left: int, *, is_first: bool
) -> Sequence[int]:
    """Return the sessions from the first on whose data has room in the bytes that are left."""
    of_messages = (
        select(func.coalesce(func.sum(text_bytes(messages.c.text)), 0))
        .where(messages.c.session == sessions.c.number)
        .correlate(sessions)
        .scalar_subquery()
    )
    commas = case((sessions.c.revision > 0, sessions.c.revision - 1), else_=0)
    rest = text_bytes(sessions.c.variables) + commas + len(joined_text("", ()))
    size = of_messages + rest
    wanted = select(sessions.c.number, size.label("size")).where(sessions.c.number.in_(numbers))
    sizes = {row.number: row.size for row in await connection.execute(wanted)}
    for index, number in enumerate(numbers):
        left -= sizes[number]
        if left < 0 and not (is_first and index == 0):
            return numbers[:index]
    return numbers


async def _whole_by_number(connection: AsyncConnection, numbers: Sequence[int]) -> list[Session]:
    if not numbers:
        return []
    rows = (await connection.execute(select(sessions).where(sessions.c.number.in_(numbers)))).all()
    return await _with_messages(connection, sorted(rows, key=lambda row: numbers.index(row.number)))


async def summaries(
    connection: AsyncConnection, project: str, text: str, limit: int, offset: int
) -> Page[SessionSummary]:
    """List sessions, newest first, ended ones included."""
    wanted = searchable(text)
    if wanted is None:
        return Page((), total=0)
    found = select(*_SUMMARY).where(sessions.c.project == project)
    if wanted:
        in_id = position(sessions.c.id, literal(wanted, Text)) > 0
        found = found.where(or_(in_id, _LIVE & _data_contains(wanted)))
    ordered = found.order_by(sessions.c.created_at.desc(), sessions.c.number.desc())
    rows, total = await _page(connection, ordered, limit, offset)
    return Page(tuple(_summary(row) for row in rows), total=total)


async def _page(
    connection: AsyncConnection, found: Select[Any], limit: int, offset: int
) -> tuple[Sequence[Row[Any]], int]:
    counted = found.add_columns(func.count().over().label("total"))
    rows = (await connection.execute(counted.limit(limit).offset(offset))).all()
    if rows:
        return rows, rows[0].total
    # Past the end, or nothing was asked for: no row says how many there are.
    count = select(func.count()).select_from(found.order_by(None).subquery())
    return rows, int(await connection.scalar(count) or 0)


def _summary(row: Row[Any]) -> SessionSummary:
    return SessionSummary(
        id=row.id,
        provider=json.loads(row.provider),
        message_count=row.revision,
        created_at=read_time(row.created_at),
        ended_at=read_optional_time(row.ended_at),
    )


def _data_contains(text: str) -> ColumnElement[bool]:
    """Tell whether the text that `texts.data_text` would write contains another."""
    ordered = (
        select(messages.c.text, messages.c.revision)
        .where(messages.c.session == sessions.c.number)
        .correlate(sessions)
        .order_by(messages.c.revision)
        .subquery()
    )
    joined = select(joined_in_order(ordered.c.text, ordered.c.revision)).scalar_subquery()
    data = (
        literal('{"variables":', Text)
        + sessions.c.variables
        + literal(',"messages":[', Text)
        + func.coalesce(joined, literal("", Text))
        + literal("]}", Text)
    )
    return position(data, literal(text, Text)) > 0


class joined_in_order(FunctionElement[str]):  # noqa: N801  (reads as a function of SQL)
    """Texts, joined by commas in an order."""

    name = "joined_in_order"
    type = String()
    inherit_cache = True


@compiles(joined_in_order, "postgresql")
def _joined_by_postgresql(element: joined_in_order, compiler: SQLCompiler, **kw: Any) -> str:
    text, order = (compiler.process(part, **kw) for part in element.clauses)
    return f"string_agg({text}, ',' ORDER BY {order})"


@compiles(joined_in_order, "sqlite")
def _joined_by_sqlite(element: joined_in_order, compiler: SQLCompiler, **kw: Any) -> str:
    # Takes them as the subquery orders them; an order of its own came with SQLite 3.44.
    text, _ = element.clauses
    return f"group_concat({compiler.process(text, **kw)}, ',')"


class position(FunctionElement[int]):  # noqa: N801  (reads as a function of SQL)
    """The place of the second text in the first, by their characters; 0 when it is not there."""

    name = "position"
    type = Integer()
    inherit_cache = True


@compiles(position, "postgresql")
def _position_by_postgresql(element: position, compiler: SQLCompiler, **kw: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **kw)})"


@compiles(position, "sqlite")
def _position_by_sqlite(element: position, compiler: SQLCompiler, **kw: Any) -> str:
    return f"instr({compiler.process(element.clauses, **kw)})"


class text_bytes(FunctionElement[int]):  # noqa: N801  (reads as a function of SQL)
    """The bytes of a text in UTF-8."""

    name = "text_bytes"
    type = BigInteger()
    inherit_cache = True


@compiles(text_bytes, "postgresql")
def _bytes_by_postgresql(element: text_bytes, compiler: SQLCompiler, **kw: Any) -> str:
    return f"octet_length({compiler.process(element.clauses, **kw)})"


@compiles(text_bytes, "sqlite")
def _bytes_by_sqlite(element: text_bytes, compiler: SQLCompiler, **kw: Any) -> str:
    # octet_length came with SQLite 3.43.
    return f"length(CAST({compiler.process(element.clauses, **kw)} AS BLOB))"


# - ends -


async def end(connection: AsyncConnection, project: str, session_id: str) -> bool:
    """Delete the content of a session, its answers and its lease; keep its line in lists."""
    # The lease is first, as in a turn that is saved: of two, one waits for the other, not each.
    await connection.execute(
        leases.delete().where(leases.c.project == project, leases.c.session_id == session_id)
    )
    ended = await connection.execute(
        sessions.update()
        .where(sessions.c.project == project, sessions.c.id == session_id, _LIVE)
        .values(ended_at=clock(), variables="{}")
        .returning(sessions.c.number)
    )
    number = ended.scalar()
    await sql_notes.forget(connection, project, session_id)
    if number is None:
        return False
    await connection.execute(messages.delete().where(messages.c.session == number))
    await connection.execute(requests.delete().where(requests.c.session == number))
    return True
