"""Lists and counts of runs, filtered by the database: one row per run, that of its last segment."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args, overload

import sqlalchemy as sa
from dbos import DBOSClient

from pathors_agent.durable import engine
from pathors_agent.durable.engine import OUTPUT, STATUS
from pathors_agent.durable.records import (
    SEPARATOR,
    WORKFLOW_PREFIX,
    run_of,
    segment_id,
    segment_number,
)
from pathors_agent.durable.tables import DOUBTS
from pathors_agent.stores.tables import read_optional_time, read_time, write_time
from pathors_agent.stores.values import check_page

RunStatus = Literal[
    "queued",
    "running",
    "suspended",
    "finished",
    "limit_reached",
    "no_answer",
    "failed",
    "cancelled",
]
"""The status of a stored run."""
STATUSES: tuple[RunStatus, ...] = get_args(RunStatus)
AT_WORK: frozenset[RunStatus] = frozenset({"queued", "running"})
CANCELLABLE: tuple[RunStatus, ...] = ("queued", "running", "suspended")
RESUMABLE: tuple[RunStatus, ...] = ("failed", "limit_reached")
ENDED: tuple[RunStatus, ...] = ("finished", "limit_reached", "no_answer", "failed", "cancelled")

# The engine's statuses; a workflow that returned has SUCCESS, and its output holds our status.
ENGINE_STATUSES: dict[str, RunStatus] = {
    "ENQUEUED": "queued",
    "DELAYED": "queued",
    "PENDING": "running",
    "CANCELLED": "cancelled",
    "ERROR": "failed",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run in a list.

    `segments` counts how often the run was started or continued, `created_at` is the time of the
    last of them, and `ended_at` is the time when the run came to rest. `worker` runs it, or ran it
    last; `version` is the version of the code that it needs.
    """

    id: str
    agent: str
    session_id: str
    queue: str
    status: RunStatus
    segments: int
    created_at: datetime
    ended_at: datetime | None
    worker: str | None
    version: str | None


@dataclass(frozen=True, slots=True)
class RunPage(Sequence[RunSummary]):
    """A part of a list of runs; `total` counts all runs that match."""

    items: tuple[RunSummary, ...]
    total: int

    @overload
    def __getitem__(self, index: int) -> RunSummary: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RunSummary, ...]: ...
    def __getitem__(self, index: int | slice) -> RunSummary | tuple[RunSummary, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Conditions on runs; None or an empty value is no condition.

    `since` and `until` bound the time when a run was started or last continued; `until` itself is
    excluded.
    """

    agent: str | None = None
    statuses: Sequence[RunStatus] = ()
    session_id: str | None = None
    queue: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        for status in self.statuses:
            if status not in STATUSES:
                raise ValueError(f"status must be one of {', '.join(STATUSES)}, not {status!r}")
        for name in ("since", "until"):
            time = getattr(self, name)
            if not isinstance(time, datetime | None):
                raise ValueError(f"{name} must be a datetime, not {time!r}")
            if time is not None and time.tzinfo is None:
                raise ValueError(f"{name} must have a time zone, as datetime.now(UTC) has")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Counts over all runs, for monitoring; each key holds the values of its labels."""

    runs: Mapping[tuple[str, ...], float]
    """By agent, queue and status."""
    depth: Mapping[tuple[str, ...], float]
    """Queued runs, by queue."""
    oldest: Mapping[tuple[str, ...], float]
    """Seconds since the oldest queued run was stored, by queue."""
    takeovers: Mapping[tuple[str, ...], float]
    """Deaths of workers that carried out the stored runs, by agent."""
    doubts: Mapping[tuple[str, ...], float]
    """Calls in doubt, by agent."""


def read_page(client: DBOSClient, wanted: RunFilter, *, limit: int, offset: int = 0) -> RunPage:
    """Return runs, the last started or continued first. Blocks."""
    check_page(limit, offset)
    conditions = [*_conditions(wanted)]
    is_sqlite = engine.sql(client).dialect.name == "sqlite"
    # SQLite's times may be whole seconds, but its rows are numbered.
    place: Any = sa.literal_column("workflow_status.rowid")
    order = (STATUS.c.created_at, place if is_sqlite else STATUS.c.workflow_uuid)
    query = _summaries().where(*conditions).order_by(*(each.desc() for each in order))
    total = sa.select(sa.func.count()).select_from(_WITH_OUTPUT).where(*conditions)
    with engine.sql(client).begin() as connection:
        rows = connection.execute(query.limit(limit).offset(offset)).all()
        count = connection.execute(total).scalar_one()
    return RunPage(tuple(map(_summary, rows)), count)


def runs_named(client: DBOSClient, run: str, agents: Sequence[str]) -> Sequence[RunSummary]:
    """Return the runs with this id of these agents. Blocks."""
    segment = STATUS.c.workflow_uuid
    firsts = [segment_id(agent, run, 1) for agent in agents]
    later = [segment.startswith(f"{first}{SEPARATOR}", autoescape=True) for first in firsts]
    is_its = sa.or_(segment.in_(firsts), *later)
    query = _summaries().where(is_its, *_conditions(RunFilter()))
    with engine.sql(client).begin() as connection:
        return [*map(_summary, connection.execute(query).all())]


def read_figures(client: DBOSClient) -> Figures:
    """Count all runs, their takeovers and their calls in doubt. Blocks."""
    is_ours = STATUS.c.name.startswith(WORKFLOW_PREFIX, autoescape=True)
    rows = _summaries().where(*_conditions(RunFilter())).subquery().c
    group = (rows.name, rows.queue_name, rows.run_status)
    runs = sa.select(*group, sa.func.count(), sa.func.min(rows.created_at)).group_by(*group)
    deaths = sa.func.sum(sa.func.coalesce(STATUS.c.recovery_attempts, 0))
    takeovers = sa.select(STATUS.c.name, deaths).where(is_ours).group_by(STATUS.c.name)
    doubts = sa.select(DOUBTS.c.agent, sa.func.count()).group_by(DOUBTS.c.agent)
    with engine.sql(client).begin() as connection:
        counted = connection.execute(runs).all()
        died = connection.execute(takeovers).all()
        doubtful = connection.execute(doubts).all()
    moment = datetime.now(UTC).timestamp()
    depth: dict[tuple[str, ...], float] = {}
    oldest: dict[tuple[str, ...], float] = {}
    for _, queue, status, count, created_at in counted:
        if status == "queued":
            depth[(queue,)] = depth.get((queue,), 0) + count
            age = max(0.0, moment - created_at / 1000)
            oldest[(queue,)] = max(oldest.get((queue,), 0.0), age)
    return Figures(
        runs={
            (name.removeprefix(WORKFLOW_PREFIX), queue or "", status): count
            for name, queue, status, count, _ in counted
        },
        depth=depth,
        oldest=oldest,
        takeovers={(name.removeprefix(WORKFLOW_PREFIX),): int(count) for name, count in died},
        doubts={(agent,): count for agent, count in doubtful},
    )


def _summaries() -> sa.Select[Any]:
    status = run_status(STATUS, OUTPUT).label("run_status")
    return sa.select(STATUS, status).select_from(_WITH_OUTPUT)


def _conditions(wanted: RunFilter) -> Iterator[sa.ColumnElement[bool]]:
    row = STATUS.c
    yield is_last(STATUS)
    if wanted.agent is None:
        yield row.name.startswith(WORKFLOW_PREFIX, autoescape=True)
    else:
        yield row.name == f"{WORKFLOW_PREFIX}{wanted.agent}"
    if wanted.statuses:
        # The engine's status first: it has an index.
        yield row.status.in_(engine_statuses(wanted.statuses))
        yield run_status(STATUS, OUTPUT).in_(wanted.statuses)
    if wanted.session_id is not None:
        yield row.queue_partition_key == wanted.session_id
    if wanted.queue is not None:
        yield row.queue_name == wanted.queue
    if wanted.since is not None:
        yield row.created_at >= write_time(wanted.since)
    if wanted.until is not None:
        yield row.created_at < write_time(wanted.until)


def is_last(row: sa.FromClause) -> sa.ColumnElement[bool]:
    """Return whether no later segment continues a workflow's run: a lookup by primary key."""
    segment, later = row.c.workflow_uuid, STATUS.alias()
    start = sa.func.rtrim(segment, "0123456789")
    digits = sa.func.nullif(sa.func.substr(segment, sa.func.length(start) + 1), "")
    after = sa.case(
        (start.endswith(SEPARATOR), start + sa.cast(sa.cast(digits, sa.Integer) + 1, sa.Text)),
        else_=segment + f"{SEPARATOR}2",
    )
    return ~sa.exists().where(later.c.workflow_uuid == after)


# SQLite reads JSON from texts.
_JSON = sa.JSON().with_variant(sa.Text(), "sqlite")


def run_status(row: sa.FromClause, output: sa.FromClause) -> sa.ColumnElement[str]:
    """Return the status of a workflow's segment in SQL; `status_of` does the same in Python."""
    fields: Any = sa.cast(sa.func.coalesce(output.c.output, row.c.output), _JSON)
    is_ours = row.c.name.startswith(WORKFLOW_PREFIX, autoescape=True)
    return sa.case(
        *((row.c.status == state, status) for state, status in ENGINE_STATUSES.items()),
        (is_ours, fields["status"].as_string()),  # outputs of other programs are not JSON
        else_="failed",
    )


_WITH_OUTPUT = STATUS.outerjoin(OUTPUT, STATUS.c.workflow_uuid == OUTPUT.c.workflow_uuid)


def engine_statuses(statuses: Collection[RunStatus]) -> list[str]:
    """Return the statuses of the engine that may stand for these."""
    states = [state for state, status in ENGINE_STATUSES.items() if status in statuses]
    return states if AT_WORK.issuperset(statuses) else [*states, "SUCCESS"]


def _summary(row: Any) -> RunSummary:
    return RunSummary(
        id=run_of(row.workflow_uuid),
        agent=row.name.removeprefix(WORKFLOW_PREFIX),
        session_id=row.queue_partition_key or "",
        queue=row.queue_name or "",
        status=row.run_status or "failed",
        segments=segment_number(row.workflow_uuid),
        created_at=read_time(row.created_at),
        ended_at=read_optional_time(row.completed_at),
        worker=row.executor_id,
        version=row.application_version,
    )
