"""Transactions on many sessions: their lists, and searches of their data."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Text, bindparam, case, func, literal, or_, select

from pathors_agent.stores.database import Connection
from pathors_agent.stores.sql_sessions import LIVE, WHOLE, joined_messages, session_of
from pathors_agent.stores.tables import (
    json_numbers,
    messages,
    position,
    read_optional_time,
    read_time,
    sessions,
    text_bytes,
)
from pathors_agent.stores.texts import joined_text, searchable
from pathors_agent.stores.values import Page, Session, SessionSummary, check_page

# Sessions of a page whose sizes are read together. SQLite reads a text to know its size, so the
# sizes of all sessions after the end of a page would be wasted work.
_READ_AT_ONCE = 20

_TEXT = bindparam("text", type_=Text)
_DATA = (
    literal('{"variables":', Text)
    + sessions.c.variables
    + literal(',"messages":[', Text)
    + func.coalesce(joined_messages(","), literal("", Text))
    + literal("]}", Text)
)
_DATA_CONTAINS = position(_DATA, _TEXT) > 0
_OF_PROJECT = sessions.c.project == bindparam("project")
_SUMMARY = (
    sessions.c.id,
    sessions.c.provider,
    sessions.c.revision,
    sessions.c.created_at,
    sessions.c.ended_at,
    sessions.c.title,
)


class _ListStatements:
    """The statements of a list: a page of rows, each with the total at its end; the total alone."""

    def __init__(
        self,
        columns: Iterable[ColumnElement[Any]],
        conditions: Iterable[ColumnElement[bool]],
        newest: ColumnElement[int],
    ) -> None:
        found = select(*columns).where(_OF_PROJECT, *conditions)
        self._page = (
            found.add_columns(func.count().over())
            .order_by(newest.desc(), sessions.c.number.desc())
            .limit(bindparam("limit", type_=BigInteger))
            .offset(bindparam("offset", type_=BigInteger))
        )
        self._count = select(func.count()).select_from(found.subquery())

    def search(
        self, connection: Connection, project: str, text: str, limit: int, offset: int
    ) -> tuple[list[Any], int]:
        """Return the rows of a page, and the number of all rows. Without `text`, find all rows."""
        check_page(limit, offset)
        wanted = searchable(text)
        if wanted is None:
            return [], 0
        values = {"project": project} | ({"text": wanted} if wanted else {})
        rows = connection.rows(self._page, limit=limit, offset=offset, **values)
        # Without a row, the page is empty or past the end.
        total = rows[0][-1] if rows else connection.value(self._count, **values)
        return rows, int(total or 0)


_NUMBER = (sessions.c.number,)
_ALL_LIVE = _ListStatements(_NUMBER, [LIVE], sessions.c.updated_at)
_LIVE_IDS = _ListStatements((sessions.c.id,), [LIVE], sessions.c.updated_at)
_FOUND = _ListStatements(_NUMBER, [LIVE, _DATA_CONTAINS], sessions.c.updated_at)
_ALL = _ListStatements(_SUMMARY, [], sessions.c.created_at)
_LISTED = _ListStatements(
    _SUMMARY,
    [
        or_(
            position(sessions.c.id, _TEXT) > 0,
            position(sessions.c.title, _TEXT) > 0,
            LIVE & _DATA_CONTAINS,
        )
    ],
    sessions.c.created_at,
)

_AMONG = sessions.c.number.op("IN")(json_numbers(bindparam("numbers", type_=Text)))
_MESSAGE_BYTES = (
    select(func.coalesce(func.sum(text_bytes(messages.c.text)), 0))
    .where(messages.c.session == sessions.c.number)
    .correlate(sessions)
    .scalar_subquery()
)
_COMMAS = case((sessions.c.revision > 0, sessions.c.revision - 1), else_=0)
_SIZES = select(
    sessions.c.number,
    _MESSAGE_BYTES + text_bytes(sessions.c.variables) + _COMMAS + len(joined_text("", ())),
).where(_AMONG)
_SEVERAL = WHOLE.add_columns(sessions.c.number).where(_AMONG)


def search(
    connection: Connection, project: str, text: str, *, limit: int, offset: int, max_bytes: int
) -> Page[Session]:
    """Return the sessions whose data contains a text, newest update first."""
    statements = _FOUND if text else _ALL_LIVE
    rows, total = statements.search(connection, project, text, limit, offset)
    page: list[Session] = []
    left = max_bytes
    for start in range(0, len(rows), _READ_AT_ONCE):
        numbers = [number for number, _ in rows[start : start + _READ_AT_ONCE]]
        fitting = _fitting(connection, numbers, left, is_first=not page)
        added = _several(connection, fitting)
        page += added
        left -= sum(session.size for session in added)
        if len(fitting) < len(numbers):
            break
    return Page(tuple(page), total=total)


def live_ids(connection: Connection, project: str, limit: int, offset: int) -> list[str]:
    """Return the ids of the sessions that have not ended, newest update first."""
    rows, _ = _LIVE_IDS.search(connection, project, "", limit, offset)
    return [session_id for session_id, _ in rows]


def _fitting(
    connection: Connection, numbers: Sequence[int], left: int, *, is_first: bool
) -> Sequence[int]:
    """Return the sessions from the first on whose data fits into the bytes that are left."""
    sizes = dict(connection.rows(_SIZES, numbers=json.dumps(numbers)))
    for index, number in enumerate(numbers):
        left -= sizes[number]
        if left < 0 and not (is_first and index == 0):
            return numbers[:index]
    return numbers


def _several(connection: Connection, numbers: Sequence[int]) -> list[Session]:
    if not numbers:
        return []
    rows = connection.rows(_SEVERAL, numbers=json.dumps(numbers))
    return [session_of(row[:-1]) for row in sorted(rows, key=lambda row: numbers.index(row[-1]))]


def summaries(
    connection: Connection, project: str, text: str, limit: int, offset: int
) -> Page[SessionSummary]:
    """List sessions, newest first, ended ones included."""
    statements = _LISTED if text else _ALL
    rows, total = statements.search(connection, project, text, limit, offset)
    return Page(tuple(_summary(row) for row in rows), total=total)


def _summary(row: Sequence[Any]) -> SessionSummary:
    session_id, provider, revision, created_at, ended_at, title, _ = row
    return SessionSummary(
        id=session_id,
        provider=json.loads(provider),
        message_count=revision,
        created_at=read_time(created_at),
        ended_at=read_optional_time(ended_at),
        title=json.loads(title) if title else "",
    )
