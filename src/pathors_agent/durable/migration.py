"""Create our tables in a database, or migrate those that an older version made."""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from pathors_agent.durable.engine import INPUT, OUTPUT, STATUS, STEPS
from pathors_agent.durable.records import WORKFLOW_PREFIX, owned
from pathors_agent.durable.tables import DOUBTS, SEGMENTS, SESSIONS, TABLES
from pathors_agent.errors import StoreError

# The format of our tables and of the recorded JSON. A program refuses a higher number.
FORMAT = 2

# Any number that no other program in the database locks.
_LOCK = 7233219

_FORMAT = sa.Table(
    "pathors_durable_format", sa.MetaData(), sa.Column("format", sa.Integer, primary_key=True)
)

# The runs of a session: to list them, to delete them, and to see that all have ended.
_SESSION_RUNS = sa.Index(
    "pathors_durable_session_runs", STATUS.c.queue_partition_key, STATUS.c.name
)

# Workers look for the first of the runs that they may carry out. DBOS's own index has no versions
# and names, so a poll would read the runs of all agents.
_DUE = sa.Index(
    "pathors_durable_due",
    *(STATUS.c.queue_name, STATUS.c.name, STATUS.c.application_version),
    *(STATUS.c.priority, STATUS.c.created_at),
    sqlite_where=STATUS.c.status == "ENQUEUED",
    postgresql_where=STATUS.c.status == "ENQUEUED",
)


def prepare(engine: sa.Engine) -> None:
    """Create or migrate the tables; raise `StoreError` if a newer program made them. Blocks."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # CREATE TABLE IF NOT EXISTS fails when two programs run it at once.
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        else:
            connection.execute(sa.text("BEGIN IMMEDIATE"))
        _FORMAT.create(connection, checkfirst=True)
        found = connection.execute(sa.select(sa.func.max(_FORMAT.c.format))).scalar()
        if found is None:
            connection.execute(sa.insert(_FORMAT).values(format=FORMAT))
        elif found > FORMAT:
            raise StoreError(
                f"The durable runs in the database have format {found}, and this program knows"
                f" {FORMAT}: install a newer version of pathors-agent."
            )
        elif found < FORMAT:
            _migrate(connection)
            connection.execute(sa.update(_FORMAT).values(format=FORMAT))
        TABLES.create_all(connection)
        _SESSION_RUNS.create(connection, checkfirst=True)
        _DUE.create(connection, checkfirst=True)


# - format 1, in which the ids of all agents shared one namespace -


def _migrate(connection: sa.Connection) -> None:
    """Prefix the ids of workflows, sessions and doubts with their agents' names."""
    ours = STATUS.c.name.startswith(WORKFLOW_PREFIX, autoescape=True)
    stored = connection.execute(sa.select(STATUS.c.workflow_uuid, STATUS.c.name).where(ours))
    agents = {segment: name.removeprefix(WORKFLOW_PREFIX) for segment, name in stored}
    sessions, segments = _sessions(connection, agents)
    doubts = [
        {**row._mapping, "agent": agents[row.run]}
        for row in connection.execute(sa.text("SELECT * FROM pathors_durable_doubts"))
        if row.run in agents
    ]
    _rename_segments(connection, agents)
    # Format 1 counted the starts of a run here; this format counts the deaths of its workers.
    connection.execute(sa.update(STATUS).where(ours).values(recovery_attempts=0))
    for table in (SESSIONS, DOUBTS):
        table.drop(connection)
    for table, rows in ((SESSIONS, sessions), (SEGMENTS, segments), (DOUBTS, doubts)):
        table.create(connection)
        if rows:
            connection.execute(sa.insert(table), rows)


Row = dict[str, str | int]


def _sessions(connection: sa.Connection, agents: dict[str, str]) -> tuple[list[Row], list[Row]]:
    """Return the sessions of each agent, and their segments in order.

    A session that agents shared continues for each of them from its own last turn.
    """
    previous = {segment: output["previous"] for segment, _, output in _begins(connection)}
    chains: dict[tuple[str, str], list[str]] = {}
    stored = connection.execute(
        sa.text("SELECT session, last_segment FROM pathors_durable_sessions")
    )
    for session, last in stored:
        chain: list[str] = []
        segment: str | None = last
        while segment is not None:
            chain.append(segment)
            segment = previous.get(segment)
        chain = [segment for segment in chain if segment in agents]
        for place, segment in enumerate(chain):
            whole = [owned(agents[each], each) for each in chain[place:]]
            chains.setdefault((agents[segment], session), whole)
    sessions: list[Row] = [
        {"agent": agent, "session": session, "last_segment": chain[0]}
        for (agent, session), chain in chains.items()
    ]
    segments: list[Row] = [
        {"agent": agent, "session": session, "number": number, "segment": segment, "token": ""}
        for (agent, session), chain in chains.items()
        for number, segment in enumerate(reversed(chain), start=1)
    ]
    return sessions, segments


def _begins(connection: sa.Connection) -> Iterator[tuple[str, int, dict[str, Any]]]:
    columns = (STEPS.c.workflow_uuid, STEPS.c.function_id, STEPS.c.output)
    query = sa.select(*columns).where(STEPS.c.function_name == "begin")
    for segment, number, output in connection.execute(query).all():
        yield segment, number, json.loads(output)


def _rename_segments(connection: sa.Connection, agents: dict[str, str]) -> None:
    for segment, number, output in _begins(connection):
        previous = output["previous"]
        if segment in agents and previous in agents:
            output["previous"] = owned(agents[previous], previous)
            text = json.dumps(output, separators=(",", ":"))
            where = (STEPS.c.workflow_uuid == segment, STEPS.c.function_id == number)
            connection.execute(sa.update(STEPS).where(*where).values(output=text))
    for agent in sorted(set(agents.values())):
        ours = sa.select(STATUS.c.workflow_uuid).where(STATUS.c.name == WORKFLOW_PREFIX + agent)
        # The others refer to a workflow by its id, without a foreign key.
        for table in (STEPS, INPUT, OUTPUT, STATUS):
            column = table.c.workflow_uuid
            connection.execute(
                sa.update(table)
                .where(column.in_(ours.scalar_subquery()))
                .values(workflow_uuid=sa.literal(owned(agent, "")) + column)
            )
