"""The tables that we add to the engine's: sessions, queues, workers and calls in doubt."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pathors_agent.durable.engine import STATUS, STEPS
from pathors_agent.durable.migration import migrate
from pathors_agent.durable.records import SEPARATOR, WORKFLOW_PREFIX, Step, segment_id
from pathors_agent.errors import InvalidSetting, StoreError
from pathors_agent.stores.tables import is_over, leases, notes
from pathors_agent.stores.values import TurnNote

# The format of these tables and of the recorded JSON. A program refuses a higher number.
FORMAT = 2

# The most names in an error.
_NAMED_AGENTS = 20

_META = sa.MetaData()

_FORMAT = sa.Table(
    "pathors_durable_format", _META, sa.Column("format", sa.Integer, primary_key=True)
)

SESSIONS = sa.Table(
    "pathors_durable_sessions",
    _META,
    sa.Column("agent", sa.Text, primary_key=True),
    sa.Column("session", sa.Text, primary_key=True),
    # The segment that wrote to the session last.
    sa.Column("last_segment", sa.Text),
    # The segment that may write, until its workflow has ended.
    sa.Column("holder", sa.Text),
)

# The segments that wrote to a session, from 1: its history is read in one statement.
SEGMENTS = sa.Table(
    "pathors_durable_segments",
    _META,
    sa.Column("agent", sa.Text, primary_key=True),
    sa.Column("session", sa.Text, primary_key=True),
    sa.Column("segment", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    # Different from the token of a deleted run with the same id, which a worker may still have in
    # memory.
    sa.Column("token", sa.Text, nullable=False),
    sa.Index("pathors_durable_segments_by_session", "agent", "session", "number", unique=True),
)

# The bounds of a queue, on all workers together.
QUEUES = sa.Table(
    "pathors_durable_queues",
    _META,
    sa.Column("queue", sa.Text, primary_key=True),
    sa.Column("total", sa.Integer),
    sa.Column("rate_runs", sa.Integer),
    sa.Column("rate_seconds", sa.Float),
)

_WORKERS = sa.Table(
    "pathors_durable_workers",
    _META,
    sa.Column("worker", sa.Text, primary_key=True),
    sa.Column("machine", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("beats", sa.BigInteger, nullable=False),
)

# The deltas of model calls and tools of running segments, until their message is recorded.
DELTAS = sa.Table(
    "pathors_durable_deltas",
    _META,
    sa.Column("segment", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("effect", sa.Text, nullable=False),
    sa.Column("attempt", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)

# The queue and the version that the last worker of an agent registered, for programs that know only
# its name.
_AGENTS = sa.Table(
    "pathors_durable_agents",
    _META,
    sa.Column("agent", sa.Text, primary_key=True),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
)

DOUBTS = sa.Table(
    "pathors_durable_doubts",
    _META,
    sa.Column("agent", sa.Text, primary_key=True),
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("effect", sa.Text, primary_key=True),
    sa.Column("tool", sa.Text, nullable=False),
    sa.Column("call_id", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
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
            check_count("rate", self.rate[0])
            check_seconds("the seconds of rate", self.rate[1])

    @classmethod
    def read(cls, row: sa.Row[Any]) -> "Bounds":
        """Read a row of the table of queues."""
        rate = None if row.rate_runs is None else (row.rate_runs, row.rate_seconds)
        return cls(total=row.total, rate=rate)


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


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A recorded step with its number."""

    number: int
    step: Step = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtfulCall:
    """A call that may or may not have run; `key` is its `ToolContext.key`."""

    agent: str
    run_id: str
    effect: str
    tool: str
    call_id: str
    key: str


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


class Tables:
    """Reads and writes of these tables. Every method blocks: call it in a thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        sqlite_ = engine.dialect.name == "sqlite"
        self._insert = sqlite.insert if sqlite_ else postgresql.insert

    def prepare(self) -> None:
        """Create or migrate the tables; raise `StoreError` if a newer program made them."""
        with self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                # CREATE TABLE IF NOT EXISTS fails when two programs run it at once.
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7233219)"))
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
                migrate(connection)
                connection.execute(sa.update(_FORMAT).values(format=FORMAT))
            _META.create_all(connection)
            _SESSION_RUNS.create(connection, checkfirst=True)
            _DUE.create(connection, checkfirst=True)

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
        with self._engine.begin() as connection:
            row = connection.execute(query).first()
        return None if row is None else (row.segment, row.token)

    def advance(self, agent: str, session: str, *, after: str | None, to: str, token: str) -> None:
        """Append a segment to its session, unless another segment was appended meanwhile."""
        values = {"agent": agent, "session": session, "last_segment": to}
        insert = self._insert(SESSIONS).values(**values)
        advance = insert.on_conflict_do_update(
            index_elements=[SESSIONS.c.agent, SESSIONS.c.session],
            set_={"last_segment": to},
            where=SESSIONS.c.last_segment.is_not_distinct_from(after),
        ).returning(SESSIONS.c.session)
        mine = (SEGMENTS.c.agent == agent, SEGMENTS.c.session == session)
        last = sa.select(sa.func.coalesce(sa.func.max(SEGMENTS.c.number), 0)).where(*mine)
        number = last.scalar_subquery() + 1
        segment = {"agent": agent, "session": session, "segment": to, "token": token}
        with self._engine.begin() as connection:
            if connection.execute(advance).first() is not None:
                connection.execute(sa.insert(SEGMENTS).values(**segment, number=number))

    def history(self, agent: str, session: str, *, through: str) -> list[Step]:
        """Return the records of a session's segments up to and including `through`, in order."""
        steps, segments = STEPS, SEGMENTS
        mine = (segments.c.agent == agent, segments.c.session == session)
        last = sa.select(segments.c.number).where(*mine, segments.c.segment == through)
        query = (
            sa.select(steps.c.function_name, steps.c.output)
            .join(segments, segments.c.segment == steps.c.workflow_uuid)
            .where(*mine)
            .where(segments.c.number <= last.scalar_subquery())
            .order_by(segments.c.number, steps.c.function_id)
        )
        with self._engine.begin() as connection:
            return [_step(row.function_name, row.output) for row in connection.execute(query)]

    def recorded(self, segments: Sequence[str]) -> dict[str, list[Step]]:
        """Return the records of each of these segments."""
        steps = STEPS
        query = (
            sa.select(steps.c.workflow_uuid, steps.c.function_name, steps.c.output)
            .where(steps.c.workflow_uuid.in_(segments))
            .order_by(steps.c.workflow_uuid, steps.c.function_id)
        )
        found: dict[str, list[Step]] = {segment: [] for segment in segments}
        with self._engine.begin() as connection:
            for row in connection.execute(query):
                found[row.workflow_uuid].append(_step(row.function_name, row.output))
        return found

    def news(
        self, segment: str, *, step: int, deltas: int
    ) -> tuple[list[StoredDeltas], list[StoredStep]]:
        """Return a segment's deltas after a number, and its steps from a number on.

        The deltas are read first: if their step is recorded in between, it shows that they are
        obsolete.
        """
        said = (
            sa.select(*(DELTAS.c[name] for name in ("number", "effect", "attempt", "text")))
            .where(DELTAS.c.segment == segment, DELTAS.c.number > deltas)
            .order_by(DELTAS.c.number)
        )
        query = (
            sa.select(STEPS.c.function_id, STEPS.c.function_name, STEPS.c.output)
            .where(STEPS.c.workflow_uuid == segment, STEPS.c.function_id >= step)
            .order_by(STEPS.c.function_id)
        )
        with self._engine.begin() as connection:
            new = [StoredDeltas(**row._mapping) for row in connection.execute(said)]
            rows = connection.execute(query).all()
        return new, [StoredStep(row[0], _step(row[1], row[2])) for row in rows]

    def add_deltas(self, segment: str, deltas: StoredDeltas) -> None:
        """Store deltas of a segment."""
        with self._engine.begin() as connection:
            connection.execute(sa.insert(DELTAS).values(segment=segment, **asdict(deltas)))

    def delete_deltas(self, segment: str, *, effect: str | None = None) -> None:
        """Delete the deltas of a segment, or of one of its effects."""
        where = [DELTAS.c.segment == segment]
        if effect is not None:
            where.append(DELTAS.c.effect == effect)
        with self._engine.begin() as connection:
            connection.execute(sa.delete(DELTAS).where(*where))

    def count_segments(self, agent: str, run: str) -> int:
        """Return how many segments a run has, 0 if there is no such run."""
        status, first = STATUS, segment_id(agent, run, 1)
        exists = sa.select(sa.literal(1).label("number")).where(status.c.workflow_uuid == first)
        numbers = exists.cte("numbers", recursive=True)
        following = numbers.c.number + 1
        name = sa.literal(f"{first}{SEPARATOR}").concat(sa.cast(following, sa.Text))
        more = sa.select(following).join(status, status.c.workflow_uuid == name)
        query = sa.select(sa.func.count()).select_from(numbers.union_all(more))
        with self._engine.begin() as connection:
            return connection.execute(query).scalar_one()

    def register_agent(self, agent: str, *, queue: str, version: str) -> None:
        """Store the queue and the version of the worker of an agent that started last."""
        values = {"agent": agent, "queue": queue, "version": version}
        insert = self._insert(_AGENTS).values(**values)
        with self._engine.begin() as connection:
            connection.execute(
                insert.on_conflict_do_update(index_elements=[_AGENTS.c.agent], set_=values)
            )

    def registered(self, agent: str) -> tuple[str, str] | None:
        """Return the queue and the version that an agent's last worker registered, or None."""
        query = sa.select(_AGENTS.c.queue, _AGENTS.c.version).where(_AGENTS.c.agent == agent)
        with self._engine.begin() as connection:
            row = connection.execute(query).first()
        return None if row is None else (row.queue, row.version)

    def agents(self) -> list[str]:
        """Return the names of up to 20 agents that had a worker."""
        query = sa.select(_AGENTS.c.agent).order_by(_AGENTS.c.agent).limit(_NAMED_AGENTS)
        with self._engine.begin() as connection:
            return [name for (name,) in connection.execute(query)]

    def agents_of(self, run: str) -> list[str]:
        """Return the names of the agents that have a run with this id."""
        names = sa.select(STATUS.c.name).distinct()
        ours = names.where(STATUS.c.name.startswith(WORKFLOW_PREFIX, autoescape=True))
        with self._engine.begin() as connection:
            agents = [name.removeprefix(WORKFLOW_PREFIX) for (name,) in connection.execute(ours)]
            ids = {segment_id(agent, run, 1): agent for agent in agents}
            found = sa.select(STATUS.c.workflow_uuid).where(STATUS.c.workflow_uuid.in_(ids))
            return sorted(ids[row[0]] for row in connection.execute(found))

    # - queues -

    def bounds(self, queue: str) -> Bounds:
        """Return the bounds of a queue."""
        with self._engine.begin() as connection:
            row = connection.execute(sa.select(QUEUES).where(QUEUES.c.queue == queue)).first()
        return Bounds.read(row) if row else Bounds()

    def set_bounds(self, queue: str, bounds: Bounds) -> None:
        """Replace the bounds of a queue."""
        runs, seconds = bounds.rate or (None, None)
        values = {"total": bounds.total, "rate_runs": runs, "rate_seconds": seconds}
        insert = self._insert(QUEUES).values(queue=queue, **values)
        with self._engine.begin() as connection:
            connection.execute(
                insert.on_conflict_do_update(index_elements=[QUEUES.c.queue], set_=values)
            )

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
        insert = self._insert(_WORKERS).values(**values)
        beat = insert.on_conflict_do_update(
            index_elements=[_WORKERS.c.worker], set_={"beats": _WORKERS.c.beats + 1}
        )
        with self._engine.begin() as connection:
            connection.execute(beat)

    def workers(self) -> list[tuple[str, str, int, int]]:
        """Return the workers: name, machine, process and number of heartbeats."""
        with self._engine.begin() as connection:
            rows = connection.execute(sa.select(_WORKERS)).all()
        return [(row.worker, row.machine, row.pid, row.beats) for row in rows]

    def forget_worker(self, worker: str) -> None:
        """Remove a worker that ended or whose runs were taken over."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_WORKERS).where(_WORKERS.c.worker == worker))

    # - calls in doubt -

    def add_doubt(self, call: DoubtfulCall) -> None:
        """Store a call in doubt. Idempotent."""
        values = {
            "agent": call.agent,
            "run": call.run_id,
            "effect": call.effect,
            "tool": call.tool,
            "call_id": call.call_id,
            "key": call.key,
        }
        with self._engine.begin() as connection:
            connection.execute(self._insert(DOUBTS).values(**values).on_conflict_do_nothing())

    def doubts(self, *, agent: str | None = None, run: str | None = None) -> list[DoubtfulCall]:
        """Return the calls in doubt, of one agent or run or of all."""
        query = sa.select(DOUBTS).order_by(DOUBTS.c.agent, DOUBTS.c.run, DOUBTS.c.effect)
        if agent is not None:
            query = query.where(DOUBTS.c.agent == agent)
        if run is not None:
            query = query.where(DOUBTS.c.run == run)
        with self._engine.begin() as connection:
            rows = connection.execute(query).all()
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
        where = (
            DOUBTS.c.agent == call.agent,
            DOUBTS.c.run == call.run_id,
            DOUBTS.c.effect == call.effect,
        )
        with self._engine.begin() as connection:
            return bool(connection.execute(sa.delete(DOUBTS).where(*where)).rowcount)

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
        with self._engine.begin() as connection:
            return [TurnNote(**row._mapping) for row in connection.execute(query)]


def _step(name: str, output: str | None) -> Step:
    return {
        "function_name": name,
        "output": None if output is None else json.loads(output),
    }
