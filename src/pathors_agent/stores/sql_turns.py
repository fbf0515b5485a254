"""The statements of a turn: who may write a session, and what a turn adds to it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, Executable, Row, and_, case, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pathors_agent.errors import SessionConflict
from pathors_agent.stores import sql_notes, sql_requests, sql_sessions
from pathors_agent.stores.base import Lease, RequestId, Session
from pathors_agent.stores.sql_schema import (
    clock,
    insert_if_new,
    is_over,
    leases,
    messages,
    read_time,
    sessions,
)
from pathors_agent.stores.sql_schema import span as milliseconds


async def take_lease(
    connection: AsyncConnection, project: str, session_id: str, holder: str, seconds: float
) -> Lease | None:
    """Take the right to write a session; None while it is held.

    Of two that find a lease over, one deletes it, and the other then meets the new one. Fences
    are numbers of rows, which only grow, whatever was deleted.
    """
    span = milliseconds(seconds)
    insert = insert_if_new(
        connection,
        leases,
        project=project,
        session_id=session_id,
        holder=holder,
        until=clock() + span,
        span=span,
    ).returning(leases.c.fence)
    fence = await connection.scalar(insert)
    if fence is None and await _delete_over(connection, project, session_id):
        fence = await connection.scalar(insert)
    if fence is None:
        return None
    return Lease(project=project, session_id=session_id, holder=holder, fence=fence)


async def _delete_over(connection: AsyncConnection, project: str, session_id: str) -> bool:
    deleted = await connection.execute(
        leases.delete().where(
            leases.c.project == project, leases.c.session_id == session_id, is_over(leases)
        )
    )
    return deleted.rowcount > 0


async def keep_lease(connection: AsyncConnection, lease: Lease, seconds: float) -> bool:
    """Hold a lease for longer; False when it is another's."""
    span = milliseconds(seconds)
    kept = await connection.execute(
        leases.update().where(_is(lease)).values(until=clock() + span, span=span)
    )
    return kept.rowcount > 0


async def drop_lease(connection: AsyncConnection, lease: Lease) -> None:
    """Give a lease back."""
    await connection.execute(leases.delete().where(_is(lease)))


def _is(lease: Lease) -> ColumnElement[bool]:
    return and_(
        leases.c.fence == lease.fence,
        leases.c.holder == lease.holder,
        leases.c.project == lease.project,
        leases.c.session_id == lease.session_id,
    )


async def save(
    connection: AsyncConnection,
    lease: Lease,
    texts: Sequence[str],
    seen: Session | None,
    request: RequestId | None,
    answer: str | None,
    *,
    keep: int | None,
    drop: bool,
    turn: str | None,
) -> Session:
    """Add a turn to the session that was seen; `SessionConflict` when it is not that any more."""
    if not await _is_held(connection, lease, drop=drop):
        raise _conflict(lease)
    seen = seen or await sql_sessions.begin(connection, lease.project, lease.session_id, "{}", "")
    if seen is None:
        raise _conflict(lease)
    kept = seen.revision if keep is None else keep
    grown = await _grow(connection, lease, seen, kept, len(texts))
    if grown is None:
        raise _conflict(lease)
    if keep is not None:
        await connection.execute(
            messages.delete().where(messages.c.session == grown.number, messages.c.revision > kept)
        )
    await _append(connection, grown.number, kept, texts)
    if request is not None:
        await sql_requests.finish(connection, request, answer or "", grown.number)
    if turn is not None:
        await sql_notes.forget(connection, lease.project, lease.session_id, turn)
    return replace(
        seen,
        incarnation=grown.incarnation,
        message_texts=(*seen.message_texts[:kept], *texts),
        revision=grown.revision,
        updated_at=read_time(grown.updated_at),
    )


async def note(connection: AsyncConnection, lease: Lease, turn: str, texts: Sequence[str]) -> None:
    """Write notes of a turn; `SessionConflict` when the lease is another's."""
    if not await _is_held(connection, lease, drop=False):
        raise _conflict(lease)
    await sql_notes.add(connection, lease.project, lease.session_id, turn, texts)


async def forget_notes(connection: AsyncConnection, lease: Lease, turn: str) -> None:
    """Delete the notes of a turn. Raise `SessionConflict` if the lease has expired."""
    if not await _is_held(connection, lease, drop=False):
        raise _conflict(lease)
    await sql_notes.forget(connection, lease.project, lease.session_id, turn)


async def _is_held(connection: AsyncConnection, lease: Lease, *, drop: bool) -> bool:
    # Locked, or deleted: nobody takes the lease over while the turn is being stored.
    if drop:
        held: Executable = leases.delete().where(_is(lease)).returning(leases.c.fence)
    else:
        held = select(leases.c.fence).where(_is(lease)).with_for_update()
    return await connection.scalar(held) is not None


async def _grow(
    connection: AsyncConnection, lease: Lease, seen: Session, kept: int, count: int
) -> Row[Any] | None:
    """Set the number of messages; return None if the session is not as it was seen."""
    incarnation = seen.incarnation if kept == seen.revision else uuid4().hex
    # Also where a clock was put back, an update comes after the one before.
    time = case((clock() > sessions.c.updated_at, clock()), else_=sessions.c.updated_at)
    grown = await connection.execute(
        sessions.update()
        .where(
            sessions.c.project == lease.project,
            sessions.c.id == lease.session_id,
            sessions.c.incarnation == seen.incarnation,
            sessions.c.revision == seen.revision,
            sessions.c.ended_at.is_(None),
        )
        .values(revision=kept + count, updated_at=time, incarnation=incarnation)
        .returning(
            sessions.c.number,
            sessions.c.revision,
            sessions.c.updated_at,
            sessions.c.incarnation,
        )
    )
    return grown.first()


async def _append(
    connection: AsyncConnection, number: int, revision: int, texts: Sequence[str]
) -> None:
    rows = [
        {"session": number, "revision": place, "text": text}
        for place, text in enumerate(texts, start=revision + 1)
    ]
    if rows:
        await connection.execute(messages.insert(), rows)


def _conflict(lease: Lease) -> SessionConflict:
    return SessionConflict(f"Another writer changed the session {lease.session_id} first.")
