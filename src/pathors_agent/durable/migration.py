"""Migrate stored runs of format 1, in which the ids of all agents shared one namespace."""

import json
from collections.abc import Iterator, Mapping, Sequence

import sqlalchemy as sa

from pathors_agent.durable.engine import INPUT, OUTPUT, STATUS, STEPS
from pathors_agent.durable.records import WORKFLOW_PREFIX, owned

# These refer to a workflow by its id, without a foreign key.
_REFERRING = (STEPS, INPUT, OUTPUT)


def migrate(connection: sa.Connection) -> None:
    """Prefix the ids of workflows, sessions and doubts with their agents' names."""
    agents = _agents(connection)
    sessions, segments = _sessions(connection, agents)
    doubts = [
        {**row._mapping, "agent": agents[row.run]}
        for row in connection.execute(sa.text("SELECT * FROM pathors_durable_doubts"))
        if row.run in agents
    ]
    _rename_segments(connection, agents)
    # Format 1 counted the starts of a run here; this format counts the deaths of its workers.
    ours = STATUS.c.name.startswith(WORKFLOW_PREFIX, autoescape=True)
    connection.execute(sa.update(STATUS).where(ours).values(recovery_attempts=0))
    for table in ("sessions", "doubts"):
        connection.execute(sa.text(f"DROP TABLE pathors_durable_{table}"))
    connection.execute(
        sa.text(
            "CREATE TABLE pathors_durable_sessions (agent TEXT NOT NULL, session TEXT NOT NULL,"
            " last_segment TEXT, holder TEXT, PRIMARY KEY (agent, session))"
        )
    )
    connection.execute(
        sa.text(
            "CREATE TABLE pathors_durable_segments (agent TEXT NOT NULL, session TEXT NOT NULL,"
            " segment TEXT NOT NULL, number INTEGER NOT NULL, token TEXT NOT NULL,"
            " PRIMARY KEY (agent, session, segment))"
        )
    )
    connection.execute(
        sa.text(
            "CREATE UNIQUE INDEX pathors_durable_segments_by_session"
            " ON pathors_durable_segments (agent, session, number)"
        )
    )
    connection.execute(
        sa.text(
            "CREATE TABLE pathors_durable_doubts (agent TEXT NOT NULL, run TEXT NOT NULL,"
            " effect TEXT NOT NULL, tool TEXT NOT NULL, call_id TEXT NOT NULL, key TEXT NOT NULL,"
            " PRIMARY KEY (agent, run, effect))"
        )
    )
    _insert(connection, "pathors_durable_sessions", sessions)
    _insert(connection, "pathors_durable_segments", segments)
    _insert(connection, "pathors_durable_doubts", doubts)


Row = dict[str, str | int]


def _insert(connection: sa.Connection, table: str, rows: Sequence[Mapping[str, object]]) -> None:
    if rows:
        columns = [
            sa.Column(name, sa.Integer if isinstance(value, int) else sa.Text)
            for name, value in rows[0].items()
        ]
        connection.execute(sa.insert(sa.Table(table, sa.MetaData(), *columns)), rows)


def _agents(connection: sa.Connection) -> dict[str, str]:
    """Return the agent of each stored segment."""
    query = sa.select(STATUS.c.workflow_uuid, STATUS.c.name).where(
        STATUS.c.name.startswith(WORKFLOW_PREFIX, autoescape=True)
    )
    return {row[0]: row[1].removeprefix(WORKFLOW_PREFIX) for row in connection.execute(query)}


def _sessions(connection: sa.Connection, agents: dict[str, str]) -> tuple[list[Row], list[Row]]:
    """Return the sessions of each agent, and their segments in order.

    A session that agents shared continues for each of them from its own last turn.
    """
    previous = dict(_previous(connection))
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
        {
            "agent": agent,
            "session": session,
            "number": number,
            "segment": segment,
            "token": "",
        }
        for (agent, session), chain in chains.items()
        for number, segment in enumerate(reversed(chain), start=1)
    ]
    return sessions, segments


def _begins(connection: sa.Connection) -> Iterator[tuple[str, int, dict[str, object]]]:
    columns = (STEPS.c.workflow_uuid, STEPS.c.function_id, STEPS.c.output)
    query = sa.select(*columns).where(STEPS.c.function_name == "begin")
    for segment, number, output in connection.execute(query).all():
        yield segment, number, json.loads(output)


def _previous(connection: sa.Connection) -> Iterator[tuple[str, str | None]]:
    for segment, _, output in _begins(connection):
        previous = output["previous"]
        yield segment, previous if isinstance(previous, str) else None


def _rename_segments(connection: sa.Connection, agents: dict[str, str]) -> None:
    for segment, number, output in _begins(connection):
        previous = output["previous"]
        if segment in agents and isinstance(previous, str) and previous in agents:
            output["previous"] = owned(agents[previous], previous)
            text = json.dumps(output, separators=(",", ":"))
            where = (STEPS.c.workflow_uuid == segment, STEPS.c.function_id == number)
            connection.execute(sa.update(STEPS).where(*where).values(output=text))
    for agent in sorted(set(agents.values())):
        ours = sa.select(STATUS.c.workflow_uuid).where(STATUS.c.name == WORKFLOW_PREFIX + agent)
        for table in (*_REFERRING, STATUS):
            column = table.c.workflow_uuid
            connection.execute(
                sa.update(table)
                .where(column.in_(ours.scalar_subquery()))
                .values(workflow_uuid=sa.literal(owned(agent, "")) + column)
            )
