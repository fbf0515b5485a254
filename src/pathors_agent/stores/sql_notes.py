"""The statements for notes of turns that are under way: what must not be done twice."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pathors_agent.stores.base import ANSWER_HOURS, TurnNote
from pathors_agent.stores.sql_schema import clock, has_been_over, notes
from pathors_agent.stores.sql_schema import span as milliseconds

_SPAN = milliseconds(ANSWER_HOURS * 3600)

# More than are written at once mostly, so that the table does not grow for ever.
_FORGOTTEN_AT_ONCE = 10


async def add(
    connection: AsyncConnection, project: str, session_id: str, turn: str, texts: Sequence[str]
) -> None:
    """Write notes, behind those that are there."""
    of = {"project": project, "session_id": session_id, "turn": turn}
    for text in texts:  # one after another: their numbers are their order
        await connection.execute(notes.insert().values(**of, text=text, until=clock() + _SPAN))
    old = (
        select(notes.c.number)
        .where(has_been_over(notes, 0))
        .limit(_FORGOTTEN_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    if numbers := (await connection.scalars(old)).all():
        await connection.execute(notes.delete().where(notes.c.number.in_(numbers)))


async def read(
    connection: AsyncConnection, project: str | None, session_id: str | None
) -> list[TurnNote]:
    """Return the notes of a session, of a project, or of all, in the order they were written."""
    columns = (notes.c.project, notes.c.session_id, notes.c.turn, notes.c.text)
    wanted = select(*columns).order_by(notes.c.number)
    if project is not None:
        wanted = wanted.where(notes.c.project == project)
    if session_id is not None:
        wanted = wanted.where(notes.c.session_id == session_id)
    return [TurnNote(**row._mapping) for row in await connection.execute(wanted)]


async def forget(
    connection: AsyncConnection, project: str, session_id: str, turn: str | None = None
) -> None:
    """Delete the notes of a turn, or of all turns of a session."""
    await connection.execute(notes.delete().where(_are_of(project, session_id, turn)))


def _are_of(project: str, session_id: str, turn: str | None) -> ColumnElement[bool]:
    of_session = and_(notes.c.project == project, notes.c.session_id == session_id)
    return of_session if turn is None else of_session & (notes.c.turn == turn)
