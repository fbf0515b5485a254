"""The tables that we add to the engine's: sessions, queues, workers and calls in doubt."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import Insert, insert

from pathors_agent.durable.engine import STATUS, STEPS
from pathors_agent.durable.records import SEPARATOR, WORKFLOW_PREFIX, Step, segment_id
from pathors_agent.errors import InvalidSetting
from pathors_agent.stores.tables import is_over, leases, notes
from pathors_agent.stores.values import TurnNote

# The most names in an error.
_NAMED_AGENTS = 20

TABLES = sa.MetaData()

# Rows of the engine's tables: their types are not known.
Row = Any


def _keys(*names: str) -> list[sa.Column[str]]:
    """Return text columns of a primary key."""
    return [sa.Column(name, sa.Text, primary_key=True) for name in names]


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


SESSIONS = sa.Table(
    "pathors_durable_sessions",
    TABLES,
    *_keys("agent", "session"),
    # The segment that wrote to the session last.
    sa.Column("last_segment", sa.Text),
    # The segment that may write, until its workflow has ended.
    sa.Column("holder", sa.Text),
)

# The segments that wrote to a session, from 1: its history is read in one statement.
SEGMENTS = sa.Table(
    "pathors_durable_segments",
    TABLES,
    *_keys("agent", "session", "segment"),
    sa.Column("number", sa.Integer, nullable=False),
    # Different from the token of a deleted run with the same id, which a worker may still have in
    # memory.
    *_texts("token"),
    sa.Index("pathors_durable_segments_by_session", "agent", "session", "number", unique=True),
)

# The bounds of a queue, on all workers together.
QUEUES = sa.Table(
    "pathors_durable_queues",
    TABLES,
    *_keys("queue"),
    sa.Column("total", sa.Integer),
    sa.Column("rate_runs", sa.Integer),
    sa.Column("rate_seconds", sa.Float),
)

_WORKERS = sa.Table(
    "pathors_durable_workers",
    TABLES,
    *_keys("worker"),
    *_texts("machine"),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("beats", sa.BigInteger, nullable=False),
)

# The deltas of model calls and tools of running segments, until their message is recorded.
DELTAS = sa.Table(
    "pathors_durable_deltas",
    TABLES,
    *_keys("segment"),
    sa.Column("number", sa.BigInteger, primary_key=True),
    *_texts("effect", "attempt", "text"),
)

# The queue and the version that the last worker of an agent registered, for programs that know only
# its name.
_AGENTS = sa.Table("pathors_durable_agents", TABLES, *_keys("agent"), *_texts("queue", "version"))

DOUBTS = sa.Table(
    "pathors_durable_doubts",
    TABLES,
    *_keys("agent", "run", "effect"),
    *_texts("tool", "call_id", "key"),
)


Rate = tuple[int, float]
"""At most this many runs start in this many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The bounds of a queue on all workers together: runs at once, and starts in a time."""

    total: int | None = None
    rate: Rate | None = None

    def __post_init__(self) -> None:
        check_count("total", self.total)
        if self.rate is not None:
            given: object = self.rate
            if not isinstance(given, tuple) or len(given) != 2:
                raise InvalidSetting(f"rate must be (runs, seconds), not {self.rate!r}")
            check_count("rate", self.rate[0])
            check_seconds("the seconds of rate", self.rate[1])


def check_count(name: str, value: int | None) -> None:
    """Raise `InvalidSetting` unless a setting is a whole number from 1, or None."""
    if value is not None and (type(value) is not int or not 1 <= value < 2**31):
        raise InvalidSetting(f"{name} must be a whole number from 1 to {2**31 - 1}, not {value!r}")


def check_seconds(name: str, value: float) -> None:
    """Raise `InvalidSetting` unless a setting is a positive and finite number of seconds."""
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise InvalidSetting(f"{name} must be a positive number of seconds, not {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDeltas:
    """Deltas of an effect as JSON, and the execution that they belong to."""

    number: int
    effect: str
    attempt: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtfulCall:
    """A call that may or may not have run; `key` is its `ToolContext.key`."""

    agent: str
    run_id: str
    effect: str
    tool: str
    call_id: str
    key: str


def upsert(
    table: sa.Table, values: Mapping[str, Any] | Sequence[Mapping[str, Any]], **changes: Any
) -> Insert:
    """Return the statement that inserts rows, or changes those that exist.

    PostgreSQL's form, which SQLAlchemy writes for SQLite as well.
    """
    return (
        insert(table)
        .values(values)
        .on_conflict_do_update(index_elements=list(table.primary_key), set_=changes)
    )


def bounds_of(connection: sa.Connection, queue: str) -> Bounds:
    """Return the bounds of a queue."""
    row = connection.execute(sa.select(QUEUES).where(QUEUES.c.queue == queue)).first()
    if row is None:
        return Bounds()
    rate = None if row.rate_runs is None else (row.rate_runs, row.rate_seconds)
    return Bounds(total=row.total, rate=rate)


class Tables:
    """Reads and writes of these tables. Every method blocks: call it in a thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def _rows(self, query: sa.Select[Any]) -> Sequence[Row]:
        with self._engine.begin() as connection:
            return connection.execute(query).all()

    def _change(self, statement: sa.Executable) -> int:
        """Run a statement; return the number of rows that it changed."""
        with self._engine.begin() as connection:
            return connection.execute(statement).rowcount

    # - sessions -

    def last_segment(self, agent: str, session: str) -> tuple[str, str] | None:
        """Return the segment that wrote to a session last and its token, or None."""
        is_last = sa.and_(
            SEGMENTS.c.agent == SESSIONS.c.agent,
            SEGMENTS.c.session == SESSIONS.c.session,
            SEGMENTS.c.segment == SESSIONS.c.last_segment,
        )
        query = (
            sa.select(SEGMENTS.c.segment, SEGMENTS.c.token)
            .join(SESSIONS, is_last)
            .where(SESSIONS.c.agent == agent, SESSIONS.c.session == session)
        )
        return next(((row.segment, row.token) for row in self._rows(query)), None)

    def advance(self, agent: str, session: str, *, after: str | None, to: str, token: str) -> None:
        """Append a segment to its session, unless another segment was appended meanwhile."""
        mine = {"agent": agent, "session": session}
        values = {**mine, "last_segment": to}
        advance = (
            insert(SESSIONS)
            .values(values)
            .on_conflict_do_update(
                index_elements=list(SESSIONS.primary_key),
                set_={"last_segment": to},
                where=SESSIONS.c.last_segment.is_not_distinct_from(after),
            )
            .returning(SESSIONS.c.session)
        )
        last = sa.select(sa.func.coalesce(sa.func.max(SEGMENTS.c.number), 0)).filter_by(**mine)
        segment = {**mine, "segment": to, "token": token, "number": last.scalar_subquery() + 1}
        with self._engine.begin() as connection:
            if connection.execute(advance).first() is not None:
                connection.execute(sa.insert(SEGMENTS).values(segment))

    def history(self, agent: str, session: str, *, through: str) -> list[Step]:
        """Return the records of a session's segments up to and including `through`, in order."""
        mine = (SEGMENTS.c.agent == agent, SEGMENTS.c.session == session)
        last = sa.select(SEGMENTS.c.number).where(*mine, SEGMENTS.c.segment == through)
        query = (
            _STEPS.join(SEGMENTS, SEGMENTS.c.segment == STEPS.c.workflow_uuid)
            .where(*mine, SEGMENTS.c.number <= last.scalar_subquery())
            .order_by(SEGMENTS.c.number, STEPS.c.function_id)
        )
        return [*map(_step, self._rows(query))]

    def recorded(self, segments: Sequence[str]) -> dict[str, list[Step]]:
        """Return the records of each of these segments."""
        query = _STEPS.where(STEPS.c.workflow_uuid.in_(segments)).order_by(STEPS.c.function_id)
        found: dict[str, list[Step]] = {segment: [] for segment in segments}
        for row in self._rows(query):
            found[row.workflow_uuid].append(_step(row))
        return found

    def news(
        self, segment: str, *, step: int, deltas: int
    ) -> tuple[list[StoredDeltas], list[Step]]:
        """Return a segment's deltas after a number, and its steps from a number on.

        The deltas are read first: if their step is recorded in between, it shows that they are
        obsolete.
        """
        said = (
            sa.select(*(DELTAS.c[name] for name in ("number", "effect", "attempt", "text")))
            .where(DELTAS.c.segment == segment, DELTAS.c.number > deltas)
            .order_by(DELTAS.c.number)
        )
        is_new = (STEPS.c.workflow_uuid == segment, STEPS.c.function_id >= step)
        query = _STEPS.where(*is_new).order_by(STEPS.c.function_id)
        with self._engine.begin() as connection:
            new = [StoredDeltas(**row._mapping) for row in connection.execute(said)]
            return new, [*map(_step, connection.execute(query))]

    def add_deltas(self, segment: str, deltas: StoredDeltas) -> None:
        """Store deltas of a segment."""
        self._change(sa.insert(DELTAS).values(segment=segment, **asdict(deltas)))

    def delete_deltas(self, segment: str, *, effect: str | None = None) -> None:
        """Delete the deltas of a segment, or of one of its effects."""
        delete = sa.delete(DELTAS).filter_by(segment=segment)
        self._change(delete if effect is None else delete.filter_by(effect=effect))

    def count_segments(self, agent: str, run: str) -> int:
        """Return how many segments a run has, 0 if there is no such run."""
        segment, first = STATUS.c.workflow_uuid, segment_id(agent, run, 1)
        exists = sa.select(sa.literal(1).label("number")).where(segment == first)
        numbers = exists.cte("numbers", recursive=True)
        following = numbers.c.number + 1
        name = sa.literal(f"{first}{SEPARATOR}").concat(sa.cast(following, sa.Text))
        more = sa.select(following).join(STATUS, segment == name)
        query = sa.select(sa.func.count()).select_from(numbers.union_all(more))
        [(count,)] = self._rows(query)
        return int(count)

    def register_agent(self, agent: str, *, queue: str, version: str) -> None:
        """Store the queue and the version of the worker of an agent that started last."""
        values = {"queue": queue, "version": version}
        self._change(upsert(_AGENTS, {"agent": agent, **values}, **values))

    def registered(self, agent: str) -> tuple[str, str] | None:
        """Return the queue and the version that an agent's last worker registered, or None."""
        rows = self._rows(sa.select(_AGENTS).filter_by(agent=agent))
        return next(((row.queue, row.version) for row in rows), None)

    def agents(self) -> list[str]:
        """Return the names of up to 20 agents that had a worker."""
        query = sa.select(_AGENTS.c.agent).order_by(_AGENTS.c.agent).limit(_NAMED_AGENTS)
        return [name for (name,) in self._rows(query)]

    def agents_of(self, run: str) -> list[str]:
        """Return the names of the agents that have a run with this id."""
        names = sa.select(STATUS.c.name).distinct()
        ours = names.where(STATUS.c.name.startswith(WORKFLOW_PREFIX, autoescape=True))
        agents = [name.removeprefix(WORKFLOW_PREFIX) for (name,) in self._rows(ours)]
        ids = {segment_id(agent, run, 1): agent for agent in agents}
        found = sa.select(STATUS.c.workflow_uuid).where(STATUS.c.workflow_uuid.in_(ids))
        return sorted(ids[row[0]] for row in self._rows(found))

    # - queues -

    def bounds(self, queue: str) -> Bounds:
        """Return the bounds of a queue."""
        with self._engine.begin() as connection:
            return bounds_of(connection, queue)

    def set_bounds(self, queue: str, bounds: Bounds) -> None:
        """Replace the bounds of a queue."""
        runs, seconds = bounds.rate or (None, None)
        values = {"total": bounds.total, "rate_runs": runs, "rate_seconds": seconds}
        self._change(upsert(QUEUES, {"queue": queue, **values}, **values))

    def agree_on_bounds(self, queue: str, wanted: Bounds) -> None:
        """Set bounds that the queue lacks; raise `InvalidSetting` if it has different ones."""
        known = self.bounds(queue)
        for name in ("total", "rate"):
            one, other = getattr(wanted, name), getattr(known, name)
            if one is not None and other not in (None, one):
                raise InvalidSetting(
                    f"the queue {queue!r} has {name}={other!r}, not {one!r}: change the bounds of"
                    " a queue with `pathors-agent runs limit` or DurableAgent.limit_queue"
                )
        agreed = Bounds(total=known.total or wanted.total, rate=known.rate or wanted.rate)
        if agreed != known:
            self.set_bounds(queue, agreed)

    # - workers -

    def beat(self, worker: str, machine: str, pid: int) -> None:
        """Record a heartbeat of a worker."""
        values = {"worker": worker, "machine": machine, "pid": pid, "beats": 0}
        self._change(upsert(_WORKERS, values, beats=_WORKERS.c.beats + 1))

    def workers(self) -> Sequence[Row]:
        """Return the workers: name, machine, process and number of heartbeats."""
        return self._rows(sa.select(_WORKERS))

    def forget_worker(self, worker: str) -> None:
        """Remove a worker that ended or whose runs were taken over."""
        self._change(sa.delete(_WORKERS).filter_by(worker=worker))

    # - calls in doubt -

    def add_doubt(self, call: DoubtfulCall) -> None:
        """Store a call in doubt. Idempotent."""
        values = asdict(call)
        values["run"] = values.pop("run_id")
        self._change(insert(DOUBTS).values(values).on_conflict_do_nothing())

    def doubts(self, *, agent: str | None = None, run: str | None = None) -> list[DoubtfulCall]:
        """Return the calls in doubt, of one agent or run or of all."""
        query = sa.select(DOUBTS)
        for name, value in (("agent", agent), ("run", run)):
            query = query if value is None else query.filter_by(**{name: value})
        rows = self._rows(query.order_by(DOUBTS.c.agent, DOUBTS.c.run, DOUBTS.c.effect))
        return [
            DoubtfulCall(
                agent=row.agent,
                run_id=row.run,
                effect=row.effect,
                tool=row.tool,
                call_id=row.call_id,
                key=row.key,
            )
            for row in rows
        ]

    def forget_doubt(self, call: DoubtfulCall) -> bool:
        """Remove a call that a person has checked; return False if it was not in doubt."""
        named = {"agent": call.agent, "run": call.run_id, "effect": call.effect}
        return bool(self._change(sa.delete(DOUBTS).filter_by(**named)))

    def turn_notes(self) -> list[TurnNote]:
        """Return the notes of served turns that do not run, if a server uses this database."""
        if not sa.inspect(self._engine).has_table(notes.name):
            return []
        running = sa.exists().where(
            leases.c.project == notes.c.project,
            leases.c.session_id == notes.c.session_id,
            sa.not_(is_over(leases)),
        )
        columns = (notes.c.project, notes.c.session_id, notes.c.turn, notes.c.text)
        query = sa.select(*columns).where(~running).order_by(notes.c.number)
        return [TurnNote(**row._mapping) for row in self._rows(query)]


_STEPS = sa.select(
    STEPS.c.workflow_uuid, STEPS.c.function_id, STEPS.c.function_name, STEPS.c.output
)


def _step(row: Row) -> Step:
    output = None if row.output is None else json.loads(row.output)
    return {**row._mapping, "output": output}
