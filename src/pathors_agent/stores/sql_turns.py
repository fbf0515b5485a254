"""Transactions of turns: leases, saved turns, notes of running turns, and named requests."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from uuid import uuid4

from sqlalchemy import BigInteger, ColumnElement, Insert, and_, bindparam, case, or_, select
from sqlalchemy.dialects.postgresql import insert

from pathors_agent.errors import SessionConflict
from pathors_agent.history.trim import HistoryTail
from pathors_agent.stores import sql_sessions
from pathors_agent.stores.base import ANSWER_HOURS
from pathors_agent.stores.database import Connection
from pathors_agent.stores.tables import (
    bound,
    clock,
    has_been_over,
    is_over,
    leases,
    matching,
    messages,
    notes,
    read_time,
    requests,
    sessions,
    span,
)
from pathors_agent.stores.texts import json_text, lost_title
from pathors_agent.stores.values import (
    Lease,
    OpenedSession,
    RequestId,
    RequestRecord,
    Session,
    TurnNote,
    changed_conflict,
)

_KEPT_SPAN = span(ANSWER_HOURS * 3600)

# Old rows deleted for each new one: more than one, so that the tables shrink again.
_FORGOTTEN_AT_ONCE = 10

# Another process may forget a request between two statements, and a third begin it again.
_TRIES = 10

_SPAN = bindparam("span", type_=BigInteger)
_UNTIL = clock() + _SPAN


# - leases -

_OF_SESSION = matching(leases, "project", "session_id")
_THIS_LEASE = matching(leases, "project", "session_id", "fence", "holder")
# Fences are row numbers, which only grow, whatever was deleted.
_TAKE_LEASE = (
    insert(leases)
    .values(**bound("project", "session_id", "holder"), until=_UNTIL, span=_SPAN)
    .on_conflict_do_nothing()
    .returning(leases.c.fence)
)
_DELETE_EXPIRED_LEASE = leases.delete().where(_OF_SESSION, is_over(leases))
_KEEP_LEASE = leases.update().where(_THIS_LEASE).values(until=_UNTIL, span=_SPAN)
_DROP_LEASE = leases.delete().where(_THIS_LEASE)
_ANY_LEASE = select(leases.c.fence).where(_OF_SESSION)
# In a transaction that writes, the lease is locked or deleted: no other process can take it over
# until the transaction has ended.
_LOCK_LEASE = select(leases.c.fence).where(_THIS_LEASE).with_for_update()


def take_lease(
    connection: Connection, project: str, session_id: str, holder: str, seconds: float
) -> Lease | None:
    """Acquire the lease of a session. Return None while another holder has it.

    Of two processes that find an expired lease, one deletes it, and the other meets the new one.
    """
    this = {"project": project, "session_id": session_id}
    new = {**this, "holder": holder, "span": span(seconds)}
    fence = connection.value(_TAKE_LEASE, **new)
    if fence is None and connection.change(_DELETE_EXPIRED_LEASE, **this):
        fence = connection.value(_TAKE_LEASE, **new)
    if fence is None:
        return None
    return Lease(project=project, session_id=session_id, holder=holder, fence=fence)


def open_session(
    connection: Connection,
    project: str,
    session_id: str,
    holder: str,
    seconds: float,
    known: Session | None = None,
    tail: HistoryTail | None = None,
) -> OpenedSession | None:
    """Acquire the lease of a session and read the session. Return None while it is held.

    Messages that an earlier read of the session returned, `known`, are not read again; nor are
    those that a `tail` leaves out.
    """
    lease = take_lease(connection, project, session_id, holder, seconds)
    if lease is None:
        return None
    session = sql_sessions.read(connection, project, session_id, known, tail)
    notes = read_notes(connection, project, session_id)
    return OpenedSession(lease=lease, session=session, notes=tuple(notes))


def keep_lease(connection: Connection, lease: Lease, seconds: float) -> bool:
    """Renew a lease. Return False if another holder has taken it over."""
    return connection.change(_KEEP_LEASE, **_named(lease), span=span(seconds)) > 0


def drop_lease(connection: Connection, lease: Lease) -> bool:
    """Release a lease. Return False if another holder has taken it over."""
    return connection.change(_DROP_LEASE, **_named(lease)) > 0


def _named(lease: Lease) -> dict[str, object]:
    return {
        "project": lease.project,
        "session_id": lease.session_id,
        "holder": lease.holder,
        "fence": lease.fence,
    }


# - turns -

# An update never has an earlier time than the one before, also if the clock was set back.
_NEXT_TIME = case((clock() > sessions.c.updated_at, clock()), else_=sessions.c.updated_at)
_GROW = (
    sessions.update()
    .where(
        *sql_sessions.THIS,
        sessions.c.incarnation == bindparam("seen_incarnation"),
        sessions.c.revision == bindparam("seen_revision"),
    )
    .values(
        revision=bindparam("new_revision", type_=BigInteger),
        updated_at=_NEXT_TIME,
        incarnation=bindparam("new_incarnation"),
        title=case(
            (sessions.c.title.in_(["", bindparam("old_title")]), bindparam("title")),
            else_=sessions.c.title,
        ),
    )
    .returning(sessions.c.number, sessions.c.updated_at)
)
_CUT = messages.delete().where(
    messages.c.session == bindparam("number"), messages.c.revision > bindparam("kept")
)

# Messages inserted by one statement.
_APPENDED_AT_ONCE = 50


@cache
def _append(count: int) -> Insert:
    """Return the statement that inserts a number of messages."""
    rows: list[dict[str, ColumnElement[Any]]] = [
        {
            "session": bindparam("number"),
            "revision": bindparam("kept") + index + 1,
            "text": bindparam(f"text_{index}"),
        }
        for index in range(count)
    ]
    return messages.insert().values(rows).inline()


def save(
    connection: Connection,
    lease: Lease,
    texts: Sequence[str],
    *,
    seen: Session | None,
    keep: int | None = None,
    request: RequestId | None = None,
    answer: str | None = None,
    drop: bool = False,
    turn: str | None = None,
    title: str = "",
) -> Session:
    """Add the messages of a turn. Raise `SessionConflict` if the session changed since it was read."""
    _check_held(connection, lease, drop=drop)
    if lease.fence == 0:
        seen = None
    kept = 0 if seen is None else seen.revision if keep is None else keep
    grown = (
        sql_sessions.insert_session(
            connection, lease.project, lease.session_id, texts=texts, title=title
        )
        if seen is None
        else _grow(connection, lease, seen, kept, texts, title)
    )
    if grown is None:
        raise changed_conflict(lease)
    number, saved = grown
    if keep is not None:
        connection.change(_CUT, number=number, kept=kept)
    for start in range(0, len(texts), _APPENDED_AT_ONCE):
        part = texts[start : start + _APPENDED_AT_ONCE]
        named = {f"text_{index}": text for index, text in enumerate(part)}
        connection.change(_append(len(part)), number=number, kept=kept + start, **named)
    if request is not None:
        _finish(connection, request, answer or "", number)
    if turn is not None:
        _delete_notes(connection, lease, turn)
    return saved


def _check_held(connection: Connection, lease: Lease, *, drop: bool = False) -> None:
    """Raise `SessionConflict` if another holder has the lease, or `drop` it."""
    if lease.fence == 0:  # the session's id is new
        of_session = {"project": lease.project, "session_id": lease.session_id}
        is_held = connection.value(_ANY_LEASE, **of_session) is None
    elif drop:
        is_held = drop_lease(connection, lease)
    else:
        is_held = connection.value(_LOCK_LEASE, **_named(lease)) is not None
    if not is_held:
        raise changed_conflict(lease)


def _grow(
    connection: Connection, lease: Lease, seen: Session, kept: int, texts: Sequence[str], title: str
) -> tuple[int, Session] | None:
    """Set the revision of a session. Return None if the session changed since it was read."""
    incarnation = seen.incarnation if kept == seen.revision else uuid4().hex
    revision = kept + len(texts)
    lost = lost_title(seen.messages, kept) if kept < seen.revision else ""
    row = connection.row(
        _GROW,
        project=lease.project,
        session_id=lease.session_id,
        seen_incarnation=seen.incarnation,
        seen_revision=seen.revision,
        new_revision=revision,
        new_incarnation=incarnation,
        title=title if kept == 0 or lost else "",
        old_title=json_text(lost) if lost else "",
    )
    if row is None:
        return None
    number, updated_at = row
    time = read_time(updated_at)
    return number, seen.grown(texts, kept=kept, incarnation=incarnation, updated_at=time)


# - notes of running turns -

_ADD_NOTE = (
    notes.insert()
    .values(**bound("project", "session_id", "turn", "text"), until=clock() + _KEPT_SPAN)
    .inline()
)
_OLD_NOTES = (
    select(notes.c.number)
    .where(has_been_over(notes, 0))
    .limit(_FORGOTTEN_AT_ONCE)
    .with_for_update(skip_locked=True)
)
_DELETE_NOTE = notes.delete().where(matching(notes, "number"))
_DELETE_NOTES = notes.delete().where(matching(notes, "project", "session_id", "turn"))
_NOTES = select(notes.c.project, notes.c.session_id, notes.c.turn, notes.c.text).order_by(
    notes.c.number
)
_NOTES_OF_PROJECT = _NOTES.where(matching(notes, "project"))
_NOTES_OF_SESSION = _NOTES.where(matching(notes, "project", "session_id"))


def add_notes(connection: Connection, lease: Lease, turn: str, texts: Sequence[str]) -> None:
    """Add notes of a turn. Raise `SessionConflict` if another holder has the lease."""
    _check_held(connection, lease)
    of = {"project": lease.project, "session_id": lease.session_id, "turn": turn}
    for text in texts:  # one statement for each: their numbers are their order
        connection.change(_ADD_NOTE, **of, text=text)
    for (number,) in connection.rows(_OLD_NOTES):
        connection.change(_DELETE_NOTE, number=number)


def read_notes(
    connection: Connection, project: str | None, session_id: str | None
) -> list[TurnNote]:
    """Return the notes of a session, of a project, or of all, in the order they were written."""
    if project is None:
        rows = connection.rows(_NOTES)
    elif session_id is None:
        rows = connection.rows(_NOTES_OF_PROJECT, project=project)
    else:
        rows = connection.rows(_NOTES_OF_SESSION, project=project, session_id=session_id)
    return [
        TurnNote(project=of, session_id=session, turn=turn, text=text)
        for of, session, turn, text in rows
    ]


def forget_notes(connection: Connection, lease: Lease, turn: str) -> None:
    """Delete the notes of a turn. Raise `SessionConflict` if another holder has the lease."""
    _check_held(connection, lease)
    _delete_notes(connection, lease, turn)


def _delete_notes(connection: Connection, lease: Lease, turn: str) -> None:
    connection.change(_DELETE_NOTES, project=lease.project, session_id=lease.session_id, turn=turn)


# - named requests -

_THIS_REQUEST = matching(requests, "project", "api_key", "name")
_RUNNING = _THIS_REQUEST & requests.c.answer.is_(None)
# An answer is kept for its whole time: if the clock was set back, nothing is done twice.
_DELETE_EXPIRED_REQUEST = requests.delete().where(
    _THIS_REQUEST, has_been_over(requests, 0) | (requests.c.answer.is_(None) & is_over(requests))
)
_BEGIN = (
    insert(requests)
    .values(**bound("project", "api_key", "name", "body_digest"), until=_UNTIL, span=_SPAN)
    .on_conflict_do_nothing()
)
_KNOWN = select(requests.c.body_digest, requests.c.answer).where(_THIS_REQUEST)
# A running request may still be saved after its seconds.
_OLD_REQUESTS = (
    select(requests.c.project, requests.c.api_key, requests.c.name)
    .where(
        or_(
            and_(requests.c.answer.is_not(None), has_been_over(requests, 0)),
            has_been_over(requests, _KEPT_SPAN),
        )
    )
    .order_by(requests.c.until)
    .limit(_FORGOTTEN_AT_ONCE)
    .with_for_update(skip_locked=True)
)
_DELETE_REQUEST = requests.delete().where(_THIS_REQUEST)
_KEEP_REQUEST = requests.update().where(_RUNNING).values(until=_UNTIL, span=_SPAN)
_FORGET_REQUEST = requests.delete().where(_RUNNING)
_FINISH = (
    requests.update()
    .where(_RUNNING)
    .values(
        answer=bindparam("new_answer"),
        session=bindparam("number"),
        until=clock() + _KEPT_SPAN,
        span=_KEPT_SPAN,
    )
)


def begin_request(
    connection: Connection, request: RequestId, body_digest: str, seconds: float
) -> RequestRecord:
    """Begin a request, or return the record of the one that has begun."""
    this = _of(request)
    for _ in range(_TRIES):
        connection.change(_DELETE_EXPIRED_REQUEST, **this)
        new = {**this, "body_digest": body_digest, "span": span(seconds)}
        if connection.change(_BEGIN, **new):
            _forget_old_requests(connection)
            return RequestRecord(state="begun", body_digest=body_digest)
        if (known := connection.row(_KNOWN, **this)) is not None:
            digest, answer = known
            return RequestRecord(
                state="running" if answer is None else "finished", body_digest=digest, answer=answer
            )
    return RequestRecord(state="running", body_digest=body_digest)


def _forget_old_requests(connection: Connection) -> None:
    """Delete some expired answers, and requests that never got one."""
    for project, api_key, name in connection.rows(_OLD_REQUESTS):
        connection.change(_DELETE_REQUEST, project=project, api_key=api_key, name=name)


def keep_request(connection: Connection, request: RequestId, seconds: float) -> None:
    """Renew a running request."""
    connection.change(_KEEP_REQUEST, **_of(request), span=span(seconds))


def forget_request(connection: Connection, request: RequestId) -> None:
    """Delete a request that has no answer."""
    connection.change(_FORGET_REQUEST, **_of(request))


def _finish(connection: Connection, request: RequestId, answer: str, number: int) -> None:
    """Store the answer of a request. Raise `SessionConflict` unless the request is running."""
    if not connection.change(_FINISH, **_of(request), new_answer=answer, number=number):
        raise SessionConflict("The request was answered or given up while this turn ran.")


def _of(request: RequestId) -> Mapping[str, str]:
    return {"project": request.project, "api_key": request.api_key, "name": request.name}
