"""The statements for requests that their clients name."""

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pathors_agent.errors import SessionConflict
from pathors_agent.stores.base import ANSWER_HOURS, RequestId, RequestRecord
from pathors_agent.stores.sql_schema import clock, has_been_over, insert_if_new, is_over, requests
from pathors_agent.stores.sql_schema import span as milliseconds

_ANSWER_SPAN = milliseconds(ANSWER_HOURS * 3600)

# More than the one that is begun meanwhile, so that the table does not grow for ever.
_FORGOTTEN_AT_ONCE = 10

# A request may be forgotten, and begun by another, between two statements; not for ever.
_TRIES = 10


async def begin(
    connection: AsyncConnection, request: RequestId, body_digest: str, seconds: float
) -> RequestRecord:
    """Begin a request, or tell what became of it."""
    for _ in range(_TRIES):
        if await _insert(connection, request, body_digest, milliseconds(seconds)):
            await _forget_old(connection)
            return RequestRecord(state="begun", body_digest=body_digest)
        if known := await _record(connection, request):
            return known
    return RequestRecord(state="running", body_digest=body_digest)


async def _insert(
    connection: AsyncConnection, request: RequestId, body_digest: str, span: int
) -> bool:
    # An answer is kept all its time: also where a clock was put back, nothing is done twice.
    over = has_been_over(requests, 0) | (requests.c.answer.is_(None) & is_over(requests))
    await connection.execute(requests.delete().where(_is(request), over))
    insert = insert_if_new(
        connection,
        requests,
        project=request.project,
        api_key=request.api_key,
        name=request.name,
        body_digest=body_digest,
        until=clock() + span,
        span=span,
    )
    begun = await connection.execute(insert.returning(requests.c.name))
    return begun.first() is not None


async def _record(connection: AsyncConnection, request: RequestId) -> RequestRecord | None:
    wanted = select(requests.c.body_digest, requests.c.answer).where(_is(request))
    row = (await connection.execute(wanted)).first()
    if row is None:
        return None
    return RequestRecord(
        state="running" if row.answer is None else "finished",
        body_digest=row.body_digest,
        answer=row.answer,
    )


async def _forget_old(connection: AsyncConnection) -> None:
    """Delete some answers that are over, and requests that came to none long ago."""
    # What runs may still be saved after its seconds.
    answered = and_(requests.c.answer.is_not(None), has_been_over(requests, 0))
    old = (
        select(requests.c.project, requests.c.api_key, requests.c.name)
        .where(or_(answered, has_been_over(requests, _ANSWER_SPAN)))
        .order_by(requests.c.until)
        .limit(_FORGOTTEN_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    for row in (await connection.execute(old)).all():
        await connection.execute(requests.delete().where(_is(RequestId(**row._mapping))))


async def keep(connection: AsyncConnection, request: RequestId, seconds: float) -> None:
    """Go on answering a request."""
    span = milliseconds(seconds)
    await connection.execute(
        requests.update().where(_is_running(request)).values(until=clock() + span, span=span)
    )


async def forget(connection: AsyncConnection, request: RequestId) -> None:
    """Forget a request that came to no answer."""
    await connection.execute(requests.delete().where(_is_running(request)))


async def finish(
    connection: AsyncConnection, request: RequestId, answer: str, session: int
) -> None:
    """Store a request's answer; `SessionConflict` when it has one, or is nobody's."""
    finished = await connection.execute(
        requests.update()
        .where(_is_running(request))
        .values(answer=answer, session=session, until=clock() + _ANSWER_SPAN, span=_ANSWER_SPAN)
    )
    if not finished.rowcount:
        raise SessionConflict("The request was answered or given up while this turn ran.")


def _is(request: RequestId) -> ColumnElement[bool]:
    return and_(
        requests.c.project == request.project,
        requests.c.api_key == request.api_key,
        requests.c.name == request.name,
    )


def _is_running(request: RequestId) -> ColumnElement[bool]:
    return _is(request) & requests.c.answer.is_(None)
