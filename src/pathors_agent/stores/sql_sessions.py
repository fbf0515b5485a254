"""Transactions on one session: create, read, rename and end it."""

import json
from collections.abc import Mapping, Sequence
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
    select,
)
from sqlalchemy.dialects.postgresql import insert

from pathors_agent.errors import SessionConflict, SessionNotFound
from pathors_agent.history.trim import HistoryTail
from pathors_agent.stores.database import Connection
from pathors_agent.stores.tables import (
    bound,
    call_ids,
    clock,
    joined,
    leases,
    matching,
    messages,
    notes,
    position,
    read_time,
    requests,
    sessions,
    statement_time,
    text_bytes,
)
from pathors_agent.stores.texts import damaged, json_text, read_message_text, same_values
from pathors_agent.stores.values import Omitted, Session

# Another writer may end a session between two statements, and a third create it again.
_TRIES = 10

LIVE = sessions.c.ended_at.is_(None)
THIS = (matching(sessions, "project"), sessions.c.id == bindparam("session_id"), LIVE)


def joined_messages(separator: str, *conditions: ColumnElement[bool]) -> ScalarSelect[str]:
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
        **bound("project", "incarnation", "provider", "variables", "title", "revision"),
        id=bindparam("session_id"),
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
    raise SessionConflict(f"Other writers keep creating and ending the session {session_id}.")


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
        joined_messages("\n", *conditions),
        sessions.c.revision,
        sessions.c.created_at,
        sessions.c.updated_at,
    )


WHOLE = _with_messages()
_ONE = WHOLE.where(*THIS)
_LAST = _with_messages(
    messages.c.revision > sessions.c.revision - bindparam("count", type_=BigInteger)
).where(*THIS)
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
    joined_messages("\n", messages.c.revision > _KNOWN),
).where(*THIS)


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
    return None if row is None else session_of(row)


# Messages of a session that are read first; if its tail is longer, it is read with more of them.
_READ_FIRST = 64
_READ_MORE = 4

_FIRST = (
    select(messages.c.text, messages.c.revision)
    .where(
        messages.c.session == select(sessions.c.number).where(*THIS).scalar_subquery(),
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
        session = session_of(row, count)
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
        raise damaged("session")
    return texts


def whole(connection: Connection, project: str, session_id: str) -> Session:
    """Return a session with its messages. Raise `SessionNotFound` if there is none."""
    session = read(connection, project, session_id)
    if session is None:
        raise SessionNotFound(f"There is no session {session_id}.")
    return session


def session_of(row: Sequence[Any], count: int | None = None) -> Session:
    """Return the session of a row of `WHOLE`; `count` is the number of messages that were read."""
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
    .where(*THIS)
    .values(ended_at=clock(), variables="{}", title="")
    .returning(sessions.c.number)
)
_DELETE_LEASE = leases.delete().where(matching(leases, "project", "session_id"))
_DELETE_NOTES = notes.delete().where(matching(notes, "project", "session_id"))
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


_RENAME = sessions.update().where(*THIS).values(title=bindparam("title"))


def rename(connection: Connection, project: str, session_id: str, title: str) -> bool:
    """Set a session's title. Return False if there is no such session."""
    named = {"project": project, "session_id": session_id}
    return connection.change(_RENAME, **named, title=json_text(title)) > 0
