"""Delete runs with their contents: whole sessions, so that no run loses the history it continues."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from dbos import DBOSClient

from pathors_agent.durable import engine
from pathors_agent.durable.engine import INPUT, OUTPUT, STATUS, STEPS
from pathors_agent.durable.records import WORKFLOW_PREFIX, run_of
from pathors_agent.durable.run_list import AT_WORK, engine_statuses, is_last, run_status
from pathors_agent.durable.tables import DELTAS, DOUBTS, SEGMENTS, SESSIONS
from pathors_agent.errors import InvalidSetting, RunExists
from pathors_agent.stores.tables import write_time
from pathors_agent.telemetry.events import emit, warn

# How often to look for expired sessions, how many to delete in one transaction, and how long to
# leave the database to other programs in between.
EXPIRE_SECONDS = 60.0
PIECE = 50
PAUSE_SECONDS = 0.1

# Ids in one statement.
_BLOCK = 500

_LONGEST = timedelta(days=36_500)

_AT_WORK = engine_statuses(AT_WORK)


def read_age(retention: timedelta | float) -> timedelta:
    """Read an age, a timedelta or a number of seconds; raise `InvalidSetting` for other values."""
    try:
        age = retention if isinstance(retention, timedelta) else timedelta(seconds=retention)
        if timedelta() < age <= _LONGEST and not isinstance(retention, bool):
            return age
    except (OverflowError, TypeError, ValueError):
        pass
    raise InvalidSetting(
        f"retention must be positive and at most {_LONGEST.days} days, not {retention!r}"
    )


class Retention:
    """Deletes runs of one agent; each method blocks, and belongs in a thread."""

    def __init__(self, client: DBOSClient, agent: str) -> None:
        self._engine = engine.sql(client)
        self._agent = agent
        self._is_ours = STATUS.c.name == f"{WORKFLOW_PREFIX}{agent}"

    def delete(self, session: str, *, runs: Iterable[str] | None = None) -> int:
        """Delete a session with its runs and its calls in doubt; return the number of runs.

        Raises `RunExists` if one of them is queued or running, or if the session has runs besides
        `runs`: later runs read the messages of earlier ones.
        """
        with self._engine.begin() as connection:
            self._hold(connection, session)
            rows = self._segments(connection, session)
            found = {run_of(row.workflow_uuid) for row in rows}
            if runs is not None and (others := found - {*runs}):
                raise RunExists(
                    f"the session {session!r} has other runs ({len(others)}), and later runs read"
                    " the messages of earlier ones: delete the whole session"
                )
            for row in rows:
                if row.status in _AT_WORK:
                    run = run_of(row.workflow_uuid)
                    raise RunExists(f"run {run!r} has not ended: cancel it, then delete it")
            self._delete(connection, session, rows)
            where = (DOUBTS.c.agent == self._agent, DOUBTS.c.run.in_(found))
            connection.execute(sa.delete(DOUBTS).where(*where))
            return len(found)

    def expire(self, before: datetime) -> int:
        """Delete some sessions whose runs all ended before a time; return their number.

        Their calls in doubt stay listed until a person has checked them.
        """
        with self._engine.begin() as connection:
            names = connection.execute(self._expired(before).limit(PIECE)).scalars().all()
        return sum(self._expire(session, before) for session in names)

    def _expire(self, session: str, before: datetime) -> bool:
        is_its = STATUS.c.queue_partition_key == session
        with self._engine.begin() as connection:
            self._hold(connection, session)
            rows = self._segments(connection, session)
            # Checked again, because now no run of the session can begin.
            if connection.execute(self._expired(before).where(is_its)).first() is None:
                return False
            self._delete(connection, session, rows)
            return True

    def _expired(self, before: datetime) -> sa.Select[Any]:
        """Sessions whose runs have all ended before a time, and wait for nothing."""
        other, output = STATUS.alias(), OUTPUT.alias()
        moment = write_time(before)
        waits = sa.and_(run_status(other, output) == "suspended", is_last(other))
        joined = other.outerjoin(output, other.c.workflow_uuid == output.c.workflow_uuid)
        is_younger = other.c.completed_at.is_(None) | (other.c.completed_at >= moment)
        kept = (
            sa.exists()
            .select_from(joined)
            .where(
                other.c.queue_partition_key == STATUS.c.queue_partition_key,
                other.c.name == STATUS.c.name,
                sa.or_(is_younger, waits),
            )
        )
        query = sa.select(STATUS.c.queue_partition_key).distinct()
        return query.where(
            self._is_ours,
            STATUS.c.completed_at < moment,
            STATUS.c.queue_partition_key.is_not(None),
            ~kept,
        )

    def _hold(self, connection: sa.Connection, session: str) -> None:
        """Lock the row of a session until the transaction ends, so that no run of it begins."""
        where = (SESSIONS.c.agent == self._agent, SESSIONS.c.session == session)
        connection.execute(sa.update(SESSIONS).where(*where).values(session=session))

    def _segments(self, connection: sa.Connection, session: str) -> Sequence[Any]:
        query = sa.select(STATUS.c.workflow_uuid, STATUS.c.status)
        where = (self._is_ours, STATUS.c.queue_partition_key == session)
        return connection.execute(query.where(*where)).all()

    def _delete(self, connection: sa.Connection, session: str, rows: Sequence[sa.Row[Any]]) -> None:
        """Delete these segments; a run that is stored meanwhile begins a new history."""
        for start in range(0, len(rows), _BLOCK):
            segments = [row.workflow_uuid for row in rows[start : start + _BLOCK]]
            for table in (INPUT, OUTPUT, STEPS, STATUS):
                connection.execute(sa.delete(table).where(table.c.workflow_uuid.in_(segments)))
            connection.execute(sa.delete(DELTAS).where(DELTAS.c.segment.in_(segments)))
        for table in (SEGMENTS, SESSIONS):
            where = (table.c.agent == self._agent, table.c.session == session)
            connection.execute(sa.delete(table).where(*where))


async def expire_for_ever(client: DBOSClient, agent: str, age: timedelta) -> None:
    """Delete the sessions of an agent that are older than an age, until cancelled."""
    retention = Retention(client, agent)
    while True:
        try:
            while expired := await asyncio.to_thread(retention.expire, datetime.now(UTC) - age):
                emit("sessions_expired", agent=agent, count=expired)
                await asyncio.sleep(PAUSE_SECONDS)
        except sa.exc.SQLAlchemyError as error:
            warn("retention_failed", agent=agent, error=type(error).__name__)
        await asyncio.sleep(EXPIRE_SECONDS)
