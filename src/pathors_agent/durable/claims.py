"""Queues: claim runs, the most urgent and oldest first, return them, and ring when there is work.

Only one run of a session is at work at a time, even if the session's runs are in several queues:
the session's row names the segment that holds it, until the workflow of that segment has ended.

A bell wakes workers and waiting callers when there is work or a result, instead of frequent polls.
Inside a process it rings at once. Between processes PostgreSQL's NOTIFY carries it. It may stay
silent (SQLite, a pooler without LISTEN, a lost connection), so waiting code also polls slowly.
"""

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import sqlalchemy as sa
from dbos import DBOSClient, EnqueueOptions

from pathors_agent.durable import engine
from pathors_agent.durable.engine import INPUT, STATUS
from pathors_agent.durable.records import SEPARATOR, Fields
from pathors_agent.durable.run_list import AT_WORK, engine_statuses
from pathors_agent.durable.tables import QUEUES, SESSIONS, Bounds, Row, bounds_of, upsert
from pathors_agent.telemetry.events import emit

# Urgent runs come first: runs without a priority come after every priority.
NO_PRIORITY = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Claim:
    """A segment that a worker carries out, and the token that lets it write."""

    segment: str
    owner: str
    fields: Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The runs that a worker may claim: those of one agent and version in one queue."""

    queue: str
    workflow: str
    version: str
    agent: str | None
    """The agent whose sessions the workflows belong to; None for workflows without sessions."""


def store(client: DBOSClient, options: EnqueueOptions, fields: Fields) -> None:
    """Store a segment in its queue and wake a worker; raise `IDInUse` if the id is taken."""
    with engine.sql(client).begin() as connection:
        client.enqueue_in_transaction(connection, options, fields)
        notify(connection, options["queue_name"])


class Claims:
    """Takes segments from a queue for one worker. Every method blocks."""

    def __init__(self, client: DBOSClient, source: Source, worker: str) -> None:
        self._client = client
        self._engine = engine.sql(client)
        self._source = source
        self._worker = worker
        is_sqlite = self._engine.dialect.name == "sqlite"
        # The order of rows with equal times: SQLite's times are whole seconds, and its rows are
        # numbered.
        self._place: Any = sa.literal_column("rowid") if is_sqlite else STATUS.c.workflow_uuid

    def take(self, room: int) -> list[Claim]:
        """Claim at most `room` segments that may run now.

        The number of statements does not depend on the length of the queue.
        """
        claims: list[Claim] = []
        after: tuple[Any, ...] | None = None
        with self._engine.begin() as connection:
            self._end_delays(connection)
            bounds = bounds_of(connection, self._source.queue)
            while wanted := room - len(claims):
                rows = self._candidates(connection, wanted, after)
                if rows and after is None and bounds != Bounds():
                    room = min(room, self._left(connection, bounds))
                claims += self._claim(connection, rows[:room], bounds)
                if len(rows) < wanted or room <= len(claims):
                    break
                after = tuple(rows[-1])[2:]  # these were taken, or wait for their sessions
        return claims

    def _end_delays(self, connection: sa.Connection) -> None:
        """Queue the segments whose delay is over."""
        due = (
            STATUS.c.status == "DELAYED",
            STATUS.c.delay_until_epoch_ms <= engine.now(self._client),
            STATUS.c.queue_name == self._source.queue,
        )
        # A read first: an idle worker writes nothing.
        if connection.execute(sa.select(STATUS.c.workflow_uuid).where(*due).limit(1)).first():
            connection.execute(sa.update(STATUS).where(*due).values(status="ENQUEUED"))

    def start(self, segment: str, fields: Fields) -> Claim:
        """Store a segment that this worker carries out at once, outside of the queue's order."""
        owner = token_hex(16)
        options: EnqueueOptions = {
            "workflow_name": self._source.workflow,
            "queue_name": self._source.queue,
            "workflow_id": segment,
            "workflow_id_reuse_policy": "reject",
            "app_version": self._source.version,
        }
        with self._engine.begin() as connection:
            self._client.enqueue_in_transaction(connection, options, fields)
            connection.execute(
                sa.update(STATUS)
                .where(STATUS.c.workflow_uuid == segment)
                .values(**self._started(owner))
            )
        return Claim(segment, owner, fields)

    def _candidates(
        self, connection: sa.Connection, limit: int, after: tuple[Any, ...] | None
    ) -> Sequence[Row]:
        order = (STATUS.c.priority, STATUS.c.created_at, self._place)
        query = (
            sa.select(STATUS.c.workflow_uuid, STATUS.c.queue_partition_key, *order)
            .where(
                STATUS.c.queue_name == self._source.queue,
                STATUS.c.name == self._source.workflow,
                STATUS.c.application_version == self._source.version,
                STATUS.c.status == "ENQUEUED",
            )
            .order_by(*order)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        if after is not None:
            query = query.where(sa.tuple_(*order) > sa.tuple_(*map(sa.literal, after)))
        return connection.execute(query).all()

    def _left(self, connection: sa.Connection, bounds: Bounds) -> int:
        """Return how many runs the queue's bounds still allow; other workers wait meanwhile."""
        lock = sa.update(QUEUES).where(QUEUES.c.queue == self._source.queue)
        connection.execute(lock.values(queue=QUEUES.c.queue))
        count = sa.select(sa.func.count()).select_from(STATUS)
        ours = STATUS.c.queue_name == self._source.queue
        left = NO_PRIORITY
        if bounds.total is not None:
            running = count.where(ours, STATUS.c.status == "PENDING")
            left = bounds.total - connection.execute(running).scalar_one()
        if bounds.rate is not None:
            runs, seconds = bounds.rate
            since = engine.now(self._client) - round(seconds * 1000)
            started = count.where(
                ours,
                STATUS.c.rate_limited == sa.literal_column("TRUE"),
                STATUS.c.started_at_epoch_ms > since,
            )
            left = min(left, runs - connection.execute(started).scalar_one())
        return max(left, 0)

    def _claim(self, connection: sa.Connection, rows: Sequence[Row], bounds: Bounds) -> list[Claim]:
        wanted = [row.workflow_uuid for row in rows]
        if self._source.agent is not None:
            wanted = self._hold(connection, self._source.agent, rows)
        if not wanted:
            return []
        owner = token_hex(16)
        claimed = (
            sa.update(STATUS)
            .where(STATUS.c.workflow_uuid.in_(wanted), STATUS.c.status == "ENQUEUED")
            .values(**self._started(owner), rate_limited=bounds.rate is not None)
            .returning(STATUS.c.workflow_uuid)
        )
        taken = {row[0] for row in connection.execute(claimed)}
        inputs = sa.select(INPUT.c.workflow_uuid, INPUT.c.inputs)
        found = connection.execute(inputs.where(INPUT.c.workflow_uuid.in_(taken)))
        fields = {segment: json.loads(text)["args"][0] for segment, text in found}
        return [Claim(each, owner, fields[each]) for each in wanted if each in taken]

    def _started(self, owner: str) -> dict[str, Any]:
        now = engine.now(self._client)
        return {
            "status": "PENDING",
            "executor_id": self._worker,
            "owner_xid": owner,
            "started_at_epoch_ms": now,
            "updated_at": now,
        }

    def _hold(self, connection: sa.Connection, agent: str, rows: Sequence[Row]) -> list[str]:
        """Hold the sessions of segments; return the segments whose session was free."""
        first: dict[str, str] = {}
        for row in rows:
            first.setdefault(row.queue_partition_key, row.workflow_uuid)
        if not first:
            return []
        # In a fixed order, so that two workers never wait for each other.
        values = [
            {"agent": agent, "session": session, "holder": first[session]}
            for session in sorted(first)
        ]
        # Locks the existing rows, and changes nothing in them.
        lock = upsert(SESSIONS, values, agent=agent).returning(
            SESSIONS.c.session, SESSIONS.c.holder
        )
        holders = {row.session: row.holder for row in connection.execute(lock)}
        others = {session for session, holder in holders.items() if holder != first[session]}
        if others:
            # A statement of its own: it sees what the lock waited for.
            query = sa.select(STATUS.c.workflow_uuid).where(
                STATUS.c.workflow_uuid.in_({holders[session] for session in others}),
                STATUS.c.status.in_(engine_statuses(AT_WORK)),
            )
            at_work = {row[0] for row in connection.execute(query)}
            free = {session for session in others if holders[session] not in at_work}
            first = {s: segment for s, segment in first.items() if s in free or s not in others}
            if free:
                new = sa.case({s: first[s] for s in free}, value=SESSIONS.c.session)
                of_free = (SESSIONS.c.agent == agent, SESSIONS.c.session.in_(free))
                connection.execute(sa.update(SESSIONS).where(*of_free).values(holder=new))
        return [*first.values()]


def give_back(
    client: DBOSClient, segment: str, *, owner: str, queue: str, died: bool = False
) -> bool:
    """Return a segment to its queue if this owner still has it; its later records are refused.

    `queue` is the queue for a segment that has none; `died` counts the death of the worker.
    """
    back = (
        sa.update(STATUS)
        .where(
            STATUS.c.workflow_uuid == segment,
            STATUS.c.owner_xid == owner,
            STATUS.c.status == "PENDING",
        )
        .values(
            status="ENQUEUED",
            owner_xid=None,
            started_at_epoch_ms=None,
            updated_at=engine.now(client),
            queue_name=sa.func.coalesce(STATUS.c.queue_name, queue),
            recovery_attempts=sa.func.coalesce(STATUS.c.recovery_attempts, 0) + int(died),
        )
    )
    with engine.sql(client).begin() as connection:
        if not connection.execute(back).rowcount:
            return False
        notify(connection, queue)
    return True


# - the bell -

CHANNEL = "pathors_durable"

# How often a listener checks whether it should end, and its pause before it reconnects.
_LISTEN_SECONDS = 1.0

_Listener = tuple[asyncio.AbstractEventLoop, asyncio.Event]

_LISTENERS: defaultdict[tuple[str, str], set[_Listener]] = defaultdict(set)
_LOCK = threading.Lock()


class Bell:
    """Rings topics of one database: names of queues, and ids of runs."""

    def __init__(self, url: sa.URL) -> None:
        self._place = url.render_as_string(hide_password=True)
        self._url = url

    @contextmanager
    def listen(self, topic: str) -> Iterator[asyncio.Event]:
        """Return an event of the running loop that is set each time the topic rings."""
        listener = asyncio.get_running_loop(), asyncio.Event()
        with _LOCK:
            _LISTENERS[self._place, topic].add(listener)
        try:
            yield listener[1]
        finally:
            with _LOCK:
                _LISTENERS[self._place, topic].discard(listener)
                if not _LISTENERS[self._place, topic]:
                    del _LISTENERS[self._place, topic]

    def ring(self, topic: str) -> None:
        """Ring in this process; may be called from any thread."""
        with _LOCK:
            listeners = [*_LISTENERS.get((self._place, topic), ())]
        for loop, event in listeners:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Ring in this process when another process rings, on PostgreSQL."""
        if self._url.get_backend_name() != "postgresql":
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(
            target=self._receive, args=(ended,), name="pathors-bell", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()

    def _receive(self, ended: threading.Event) -> None:
        import psycopg

        address = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        while not ended.is_set():
            try:
                with psycopg.connect(address, autocommit=True, connect_timeout=10) as connection:
                    # A LISTEN would stay in a session of a pooler, and its notifications would
                    # reach another client.
                    if engine.is_pooled(connection):
                        emit("listen_impossible")
                        return
                    connection.execute(f"LISTEN {CHANNEL}")
                    while not ended.is_set():
                        for notice in connection.notifies(timeout=_LISTEN_SECONDS):
                            self.ring(notice.payload)
            except psycopg.Error as error:
                emit("listen_failed", error=type(error).__name__)
                ended.wait(_LISTEN_SECONDS)


def ended_topic(segment: str) -> str:
    """Return the topic that rings when a segment of the same run ends."""
    return f"ended {segment.partition(SEPARATOR)[0]}"


def notify(connection: sa.Connection, topic: str) -> None:
    """Ring in other processes once the transaction commits, on PostgreSQL."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_notify(CHANNEL, topic)))
