"""Transactions on sessions: create, read, search, list and end them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    ScalarSelect,
    Select,
    Text,
    and_,
    bindparam,
    case,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import insert

from pathors_agent.errors import SessionConflict, SessionNotFound, StoreError
from pathors_agent.history.trim import HistoryTail
from pathors_agent.stores.base import Omitted, Page, Session, SessionSummary
from pathors_agent.stores.database import Connection
from pathors_agent.stores.tables import (
    call_ids,
    clock,
    joined,
    json_numbers,
    leases,
    messages,
    notes,
    position,
    read_optional_time,
    read_time,
    requests,
    sessions,
    statement_time,
    text_bytes,
)
from pathors_agent.stores.texts import (
    joined_text,
    json_text,
    read_message_text,
    same_values,
    searchable,
)

# Another writer may end a session between two statements, and a third create it again.
_TRIES = 10

# Sessions of a page whose sizes are read together. SQLite reads a text to know its size, so the
# sizes of all sessions behind the end of a page would be wasted work.
_READ_AT_ONCE = 20

_LIVE = sessions.c.ended_at.is_(None)
_THIS = (
    sessions.c.project == bindparam("project"),
    sessions.c.id == bindparam("session_id"),
    _LIVE,
)


def _joined_messages(separator: str, *conditions: ColumnElement[bool]) -> ScalarSelect[str]:
    """Return the expression for the texts of a session's messages, or NULL if it has none."""
    ordered = (
        select(messages.c.text, messages.c.revision)
        .where(messages.c.session == sessions.c.number, *conditions)
        .correlate(sessions)
        .order_by(messages.c.revision)
        .subquery()
    )
    separated = joined(ordered.c.text, literal_column(f"'{separator}'"), ordered.c.revision)
    return select(separated).scalar_subquery()


# - one session -

_INSERT = (
    insert(sessions)
    .values(
        project=bindparam("project"),
        id=bindparam("session_id"),
        incarnation=bindparam("incarnation"),
        provider=bindparam("provider"),
        variables=bindparam("variables"),
        title=bindparam("title"),
        revision=bindparam("revision"),
        created_at=statement_time(),
        updated_at=statement_time(),
    )
    .on_conflict_do_nothing()
    .returning(sessions.c.number, sessions.c.created_at)
)


def create(
    connection: Connection, project: str, session_id: str, variables: str, provider: str
) -> Session:
    """Create an empty session, or return the same one if it exists and is still empty."""
    for _ in range(_TRIES):
        created = insert_session(connection, project, session_id, variables, provider)
        if created is not None:
            return created[1]
        found = read(connection, project, session_id)
        if found is None:
            continue
        is_same = json_text(found.provider) == json_text(provider)
        if found.revision or not is_same or not same_values(found.variables_text, variables):
            raise SessionConflict(f"The session {session_id} exists with other content.")
        return found
    raise SessionConflict(f"Other writers create and end the session {session_id}.")


def insert_session(
    connection: Connection,
    project: str,
    session_id: str,
    variables: str = "{}",
    provider: str = "",
    texts: Sequence[str] = (),
    title: str = "",
) -> tuple[int, Session] | None:
    """Insert a session, and return it with its number. Return None if the id is taken.

    The rows of its messages are the caller's to insert.
    """
    incarnation = uuid4().hex
    row = connection.row(
        _INSERT,
        project=project,
        session_id=session_id,
        incarnation=incarnation,
        provider=json_text(provider),
        variables=variables,
        title=title,
        revision=len(texts),
    )
    if row is None:
        return None
    number, time = row
    return number, Session(
        project=project,
        id=session_id,
        incarnation=incarnation,
        variables_text=variables,
        provider=provider,
        message_texts=tuple(texts),
        revision=len(texts),
        created_at=read_time(time),
        updated_at=read_time(time),
    )


def _with_messages(*conditions: ColumnElement[bool]) -> Select[Any]:
    """Return the statement that reads sessions with those of their messages that fit."""
    return select(
        sessions.c.project,
        sessions.c.id,
        sessions.c.incarnation,
        sessions.c.variables,
        sessions.c.provider,
        # JSON text holds no raw line break, so one separates the messages.
        _joined_messages("\n", *conditions),
        sessions.c.revision,
        sessions.c.created_at,
        sessions.c.updated_at,
    )


_WHOLE = _with_messages()
_ONE = _WHOLE.where(*_THIS)
_LAST = _with_messages(
    messages.c.revision > sessions.c.revision - bindparam("count", type_=BigInteger)
).where(*_THIS)
_KNOWN = case(
    (
        sessions.c.incarnation == bindparam("known_incarnation"),
        bindparam("known_revision", type_=BigInteger),
    ),
    else_=0,
)
_REST = select(
    sessions.c.incarnation,
    sessions.c.revision,
    sessions.c.updated_at,
    _joined_messages("\n", messages.c.revision > _KNOWN),
).where(*_THIS)


def read(
    connection: Connection,
    project: str,
    session_id: str,
    known: Session | None = None,
    tail: HistoryTail | None = None,
) -> Session | None:
    """Return a session with its messages, or None if there is none.

    Messages that an earlier read of the session returned, `known`, are not read again; nor are
    those that a `tail` leaves out.
    """
    this = {"project": project, "session_id": session_id}
    if known is not None and (tail is not None or known.omitted is None):
        row = connection.row(
            _REST, **this, known_incarnation=known.incarnation, known_revision=known.revision
        )
        if row is None:
            return None
        incarnation, revision, updated_at, rest = row
        if incarnation == known.incarnation:
            texts = _split(rest, revision - known.revision)
            grown = known.grown(texts, updated_at=read_time(updated_at))
            return grown if tail is None else _trimmed(grown, tail)
    if tail is not None:
        return _read_tail(connection, this, tail)
    row = connection.row(_ONE, **this)
    return None if row is None else _session(row)


# Messages of a session that are read first; if its tail is longer, it is read with more of them.
_READ_FIRST = 64
_READ_MORE = 4

_FIRST = (
    select(messages.c.text, messages.c.revision)
    .where(
        messages.c.session == select(sessions.c.number).where(*_THIS).scalar_subquery(),
        messages.c.revision <= bindparam("last", type_=BigInteger),
    )
    .order_by(messages.c.revision)
    .subquery()
)


def _has_role(role: str) -> ColumnElement[bool]:
    """Return the condition that a message has a role, which `write_message` writes first."""
    start = json_text({"role": role})[:-1]
    return func.substr(_FIRST.c.text, 1, len(start)) == start


def _lines_of(text: ColumnElement[str], condition: ColumnElement[bool]) -> ColumnElement[str]:
    """Return texts of the first messages that fit a condition, joined by line breaks."""
    return joined(case((condition, text)), literal_column("'\n'"), _FIRST.c.revision)


_IS_SYSTEM, _IS_ANSWER = _has_role("system"), _has_role("assistant")
_HAS_CALLS = and_(_IS_ANSWER, position(_FIRST.c.text, literal('"tool_calls":[', Text)) > 0)
_OMITTED = select(
    _lines_of(_FIRST.c.text, _IS_SYSTEM),
    func.min(case((not_(_IS_SYSTEM), _FIRST.c.revision))),
    func.count(case((_IS_ANSWER, 1))),
    func.sum(case((not_(_IS_SYSTEM), text_bytes(_FIRST.c.text) + 1))),
    _lines_of(call_ids(_FIRST.c.text), _HAS_CALLS),
)


def _read_tail(
    connection: Connection, this: Mapping[str, str], tail: HistoryTail
) -> Session | None:
    """Return a session without messages that a tail leaves out, or None if there is none."""
    count = _READ_FIRST
    while (row := connection.row(_LAST, **this, count=count)) is not None:
        session = _session(row, count)
        if session.revision <= count:
            return session
        if place := tail.start(session.messages):
            before = _with_omitted(connection, this, session, session.revision - count)
            return before.without_first(len(before.message_texts) - count + place)
        count *= _READ_MORE
    return None


def _with_omitted(
    connection: Connection, this: Mapping[str, str], session: Session, last: int
) -> Session:
    """Return a session that was read without its messages up to `last`, and what is known of them."""
    row = connection.row(_OMITTED, **this, last=last)
    assert row is not None  # aggregates of no rows are a row
    lines, other, turns, size, ids = row
    system = tuple(lines.split("\n")) if lines else ()
    omitted: Omitted | None = None
    if other is not None:
        calls = [json.loads(line) for line in ids.split("\n")] if ids else []
        call_ids = frozenset(call_id for line in calls for call_id in line)
        omitted = Omitted(leading=other - 1, turns=turns, size=size, call_ids=call_ids)
    return replace(
        session,
        message_texts=(*system, *session.message_texts),
        omitted=omitted,
        _parsed=(*map(read_message_text, system), *session.messages),
    )


def _trimmed(session: Session, tail: HistoryTail) -> Session:
    """Return a session without messages that a tail leaves out, if there are many of them."""
    if len(session.message_texts) < 2 * _READ_FIRST:
        return session
    place = tail.start(session.messages)
    return session.without_first(place) if place > _READ_FIRST else session


def _split(lines: str | None, count: int) -> tuple[str, ...]:
    """Return the texts of messages. Raise `StoreError` if they are not as many as they should be."""
    texts = () if lines is None else tuple(lines.split("\n"))
    if len(texts) != count:
        raise StoreError(
            "A stored session cannot be read: the database is damaged; restore it from a backup."
        )
    return texts


def whole(connection: Connection, project: str, session_id: str) -> Session:
    """Return a session with its messages. Raise `SessionNotFound` if there is none."""
    session = read(connection, project, session_id)
    if session is None:
        raise SessionNotFound(f"There is no session {session_id}.")
    return session


def _session(row: Sequence[Any], count: int | None = None) -> Session:
    project, session_id, incarnation, variables, provider, lines, revision, *times = row
    texts = _split(lines, revision if count is None else min(count, revision))
    created_at, updated_at = map(read_time, times)
    return Session(
        project=project,
        id=session_id,
        incarnation=incarnation,
        variables_text=variables,
        provider=json.loads(provider),
        message_texts=texts,
        revision=revision,
        created_at=created_at,
        updated_at=updated_at,
    )


_END = (
    sessions.update()
    .where(*_THIS)
    .values(ended_at=clock(), variables="{}", title="")
    .returning(sessions.c.number)
)
_DELETE_LEASE = leases.delete().where(
    leases.c.project == bindparam("project"), leases.c.session_id == bindparam("session_id")
)
_DELETE_NOTES = notes.delete().where(
    notes.c.project == bindparam("project"), notes.c.session_id == bindparam("session_id")
)
_DELETE_MESSAGES = messages.delete().where(messages.c.session == bindparam("number"))
_DELETE_ANSWERS = requests.delete().where(requests.c.session == bindparam("number"))


def end(connection: Connection, project: str, session_id: str) -> bool:
    """Delete a session's content, answers, notes and lease; its summary stays in lists."""
    this = {"project": project, "session_id": session_id}
    # The lease is first, as in `save`: two transactions in different order could deadlock.
    connection.change(_DELETE_LEASE, **this)
    number = connection.value(_END, **this)
    connection.change(_DELETE_NOTES, **this)
    if number is None:
        return False
    connection.change(_DELETE_MESSAGES, number=number)
    connection.change(_DELETE_ANSWERS, number=number)
    return True


_RENAME = sessions.update().where(*_THIS).values(title=bindparam("title"))


def rename(connection: Connection, project: str, session_id: str, title: str) -> bool:
    """Set a session's title. Return False if there is no such session."""
    named = {"project": project, "session_id": session_id}
    return connection.change(_RENAME, **named, title=json_text(title)) > 0


# - lists -

_TEXT = bindparam("text", type_=Text)
_DATA = (
    literal('{"variables":', Text)
    + sessions.c.variables
    + literal(',"messages":[', Text)
    + func.coalesce(_joined_messages(","), literal("", Text))
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

    def read(
        self, connection: Connection, limit: int, offset: int, **values: str
    ) -> tuple[list[Any], int]:
        """Return the rows of a page, and the number of all rows."""
        rows = connection.rows(self._page, limit=limit, offset=offset, **values)
        # Without a row, the page is empty or past the end.
        total = rows[0][-1] if rows else connection.value(self._count, **values)
        return rows, int(total or 0)


_NUMBER = (sessions.c.number,)
_ALL_LIVE = _ListStatements(_NUMBER, [_LIVE], sessions.c.updated_at)
_LIVE_IDS = _ListStatements((sessions.c.id,), [_LIVE], sessions.c.updated_at)
_FOUND = _ListStatements(_NUMBER, [_LIVE, _DATA_CONTAINS], sessions.c.updated_at)
_ALL = _ListStatements(_SUMMARY, [], sessions.c.created_at)
_LISTED = _ListStatements(
    _SUMMARY,
    [
        or_(
            position(sessions.c.id, _TEXT) > 0,
            position(sessions.c.title, _TEXT) > 0,
            _LIVE & _DATA_CONTAINS,
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
_SEVERAL = _WHOLE.add_columns(sessions.c.number).where(_AMONG)


def search(
    connection: Connection, project: str, text: str, *, limit: int, offset: int, max_bytes: int
) -> Page[Session]:
    """Return the sessions whose data contains a text, newest update first."""
    wanted = searchable(text)
    if wanted is None:
        return Page((), total=0)
    values = {"project": project} | ({"text": wanted} if wanted else {})
    rows, total = (_FOUND if wanted else _ALL_LIVE).read(connection, limit, offset, **values)
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
    rows, _ = _LIVE_IDS.read(connection, limit, offset, project=project)
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
    return [_session(row[:-1]) for row in sorted(rows, key=lambda row: numbers.index(row[-1]))]


def summaries(
    connection: Connection, project: str, text: str, limit: int, offset: int
) -> Page[SessionSummary]:
    """List sessions, newest first, ended ones included."""
    wanted = searchable(text)
    if wanted is None:
        return Page((), total=0)
    values = {"project": project} | ({"text": wanted} if wanted else {})
    rows, total = (_LISTED if wanted else _ALL).read(connection, limit, offset, **values)
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
