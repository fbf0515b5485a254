"""A worker: takes runs from a queue, shows that it is alive, and takes over from dead workers."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import sqlalchemy as sa
from dbos import DBOSClient

from pathors_agent.durable import engine
from pathors_agent.durable.claims import Bell, Claim, Claims, Source, ended_topic, give_back
from pathors_agent.durable.engine import STATUS
from pathors_agent.durable.journal import StepJournal
from pathors_agent.durable.records import WORKFLOW_PREFIX, Fields, run_of
from pathors_agent.durable.tables import Bounds, Row, Tables, check_count, check_seconds
from pathors_agent.errors import StoreError
from pathors_agent.telemetry.events import emit, warn

# A worker is dead if other workers have checked this often without a new heartbeat: after 18
# seconds at most. With a shorter time, a machine that swaps would look dead.
BEAT_SECONDS = 3.0
MISSED_BEATS = 5

# An idle worker polls less and less often, unless it is woken.
LOCAL_POLL_SECONDS = 0.05
POLL_SECONDS = 0.5
IDLE_POLL_SECONDS = 5.0

# Most model calls in flight are over by then; orchestrators wait for 30 seconds.
STOP_SECONDS = 20
# How long a cancelled run may clean up.
CANCEL_SECONDS = 10.0

# How often a worker that stops tries to return its runs.
_STOP_TRIES = 3
_STOP_PAUSE = 0.2

# A run fails if its process died this often while the run was at work.
ATTEMPTS = 3

RunSegment = Callable[[StepJournal, Fields], Awaitable[Fields]]
"""Carries out a segment with its stored fields; returns how it ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The time between heartbeats, and how many a worker may miss before it is dead."""

    seconds: float = BEAT_SECONDS
    missed: int = MISSED_BEATS

    def __post_init__(self) -> None:
        check_seconds("the seconds of a heartbeat", self.seconds)
        check_count("the missed beats of a heartbeat", self.missed)


HEARTBEAT = Heartbeat()


def worker_name() -> str:
    """Return a name for a worker of this process; no other worker ever has it."""
    return f"{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"


def machine() -> str:
    """Name the machine or container, since its start, in which process ids are unique."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


class Worker:
    """Carries out segments in this process: started once, and stopped once."""

    def __init__(
        self,
        run: RunSegment,
        *,
        client: DBOSClient,
        name: str,
        source: Source,
        heartbeat: Heartbeat = HEARTBEAT,
        attempts: int = ATTEMPTS,
    ) -> None:
        check_count("attempts", attempts)
        self.name = name
        self._run_segment = run
        self._client = client
        self._queue = source.queue
        self._tables = tables = Tables(engine.sql(client))
        self._claims = Claims(client, source, name)
        self._bell = Bell(engine.sql(client).url)
        self._carried = CarriedSegments()
        self._database = DatabaseLog(name)
        self._watch = WorkerMonitor(
            client, tables, name, self._queue, self._carried, heartbeat, attempts, self._database
        )
        self._opened = ExitStack()
        self._polling: asyncio.Task[None] | None = None

    async def start(
        self, *, concurrency: int, poll: float = POLL_SECONDS, bounds: Bounds | None = None
    ) -> None:
        """Start to take segments from the queue, at most `concurrency` at once."""
        check_count("concurrency", concurrency)
        check_seconds("poll", poll)
        if bounds is not None:
            await asyncio.to_thread(self._tables.agree_on_bounds, self._queue, bounds)
        starting = asyncio.ensure_future(asyncio.to_thread(self._watch.start))
        try:
            await asyncio.shield(starting)
        except BaseException:  # the thread of a cancelled start would keep its connection
            self._watch.give_up()
            with suppress(Exception):
                await starting
            raise
        self._opened.enter_context(self._bell.receiving())
        wake = self._opened.enter_context(self._bell.listen(self._queue))
        self._polling = asyncio.create_task(self._poll(concurrency, poll, wake))
        emit("worker_started", worker=self.name, queue=self._queue)

    async def stop(self, *, seconds: float = STOP_SECONDS) -> None:
        """Stop taking segments, wait `seconds` for running ones, and return the rest to the queue.

        If the caller is cancelled, return the rest at once.
        """
        if self._polling is None:
            return
        polling, self._polling = self._polling, None
        self._carried.close()
        polling.cancel()
        try:
            await asyncio.wait([polling])
            if tasks := self._carried.tasks():
                await asyncio.wait(tasks, timeout=seconds)
            self._carried.cancel()
            if tasks := self._carried.tasks():
                await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
        finally:
            self._carried.cancel()
            self._opened.close()
            await asyncio.shield(asyncio.to_thread(self._watch.stop))
        self._bell.ring(self._queue)
        emit("worker_stopped", worker=self.name, queue=self._queue)

    async def run_here(self, segment: str, fields: Fields) -> None:
        """Carry out a new segment in the caller's task; if this worker dies, another continues."""

        def claim() -> Sequence[Claim]:
            return [self._claims.start(segment, fields)]

        [claimed] = await asyncio.to_thread(self._carried.add, claim)
        await self._carry_out(claimed)

    async def _poll(self, concurrency: int, poll: float, wake: asyncio.Event) -> None:
        pause = poll
        while True:
            claims: Sequence[Claim] = ()
            try:
                if wake.is_set():  # a run was stored or cancelled, or has ended
                    wake.clear()
                    pause = poll
                    await asyncio.to_thread(self._watch.check_own)
                if (room := concurrency - len(self._carried)) > 0:
                    take = partial(self._claims.take, room)
                    claims = await asyncio.to_thread(self._carried.add, take)
            except (sa.exc.SQLAlchemyError, StoreError) as error:
                self._database.failed(error)
            for claim in claims:
                self._carried.begin(claim, self._carry_out(claim), wake)
            pause = poll if claims else min(pause * 2, max(poll, IDLE_POLL_SECONDS))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wake.wait()

    async def _carry_out(self, claim: Claim) -> None:
        run = run_of(claim.segment)
        journal = self._carried.journal(claim, self._client)
        try:
            await self._record(journal, claim.fields)
        except engine.LostOwnership:
            warn("run_lost", run=run, worker=self.name)
        except (sa.exc.SQLAlchemyError, StoreError) as error:
            # This worker still has it, and returns it to its queue at the next check.
            warn("run_left", run=run, worker=self.name, error=type(error).__name__)
        finally:
            self._carried.remove(claim.segment)
            self._bell.ring(ended_topic(claim.segment))

    async def _record(self, journal: StepJournal, fields: Fields) -> None:
        try:
            await journal.open()
            output = await self._run_segment(journal, fields)
        except (engine.LostOwnership, sa.exc.SQLAlchemyError, StoreError):
            raise
        except BaseException as error:  # recorded, and raised for the caller of `result`
            if journal.is_stop(error):
                raise
            failure = engine.write_failure(error)
            warn("run_failed", run=run_of(journal.segment), worker=self.name, kind=failure["kind"])
            output = {"status": "failed", "failure": failure}
        await journal.finish(output)


class DatabaseLog:
    """Logs once that the database is unreachable, and once that it is back. Thread-safe.

    The database is back when a heartbeat is written, because a full disk still answers reads.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._lock = threading.Lock()
        self._away_since: float | None = None

    def failed(self, error: Exception) -> None:
        """Record that a statement failed."""
        with self._lock:
            is_new = self._away_since is None
            self._away_since = self._away_since or time.monotonic()
        if is_new:
            warn("database_away", worker=self._worker, error=type(error).__name__)

    def answered(self) -> None:
        """Record that a heartbeat was written."""
        with self._lock:
            since, self._away_since = self._away_since, None
        if since is not None:
            seconds = round(time.monotonic() - since, 3)
            warn("database_back", worker=self._worker, seconds=seconds)


class CarriedSegments:
    """The segments that a worker carries out, for its event loop and its monitor."""

    def __init__(self) -> None:
        # Held while segments are claimed, so that a claimed segment never looks forgotten.
        self.lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._journals: dict[str, StepJournal | None] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._journals)

    def __contains__(self, segment: str) -> bool:
        return segment in self._journals

    def segments(self) -> set[str]:
        """Return the ids of the segments."""
        return {*self._journals}

    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the tasks that this worker started."""
        return [*self._tasks.values()]

    def add(self, claim: Callable[[], Sequence[Claim]]) -> Sequence[Claim]:
        """Claim segments, unless the worker ends. Blocks."""
        with self.lock:
            claims = () if self._is_closed else claim()
            self._journals.update((each.segment, None) for each in claims)
        return claims

    def begin(self, claim: Claim, work: Coroutine[Any, Any, None], wake: asyncio.Event) -> None:
        """Carry out a segment in a task of its own."""
        self._tasks[claim.segment] = task = asyncio.create_task(work)
        task.add_done_callback(lambda _: wake.set())

    def journal(self, claim: Claim, client: DBOSClient) -> StepJournal:
        """Return the journal of a segment that begins."""
        journal = StepJournal(client, claim.segment, claim.owner)
        self._journals[claim.segment] = journal
        if self._is_closed:
            journal.close()
        return journal

    def remove(self, segment: str) -> None:
        """Remove a segment that this worker no longer carries out."""
        self._journals.pop(segment, None)
        self._tasks.pop(segment, None)

    def lose(self, segment: str) -> None:
        """Cancel a segment that another worker owns now; may be called from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel, segment)

    def close(self) -> None:
        """Claim no more segments."""
        self._is_closed = True

    def cancel(self) -> None:
        """Cancel the tasks of all segments."""
        for segment in [*self._tasks]:
            self._cancel(segment)

    def _cancel(self, segment: str) -> None:
        if task := self._tasks.get(segment):
            if journal := self._journals.get(segment):
                journal.close()
            task.cancel()


class WorkerMonitor:
    """Shows that a worker is alive, and returns abandoned runs to their queues.

    Abandoned runs are those of dead workers, and the worker's own runs that it does not carry out.
    No clocks are compared: a worker is dead after enough checks without a new heartbeat. If the
    worker was only slow, its records are refused.
    """

    def __init__(
        self,
        client: DBOSClient,
        tables: Tables,
        worker: str,
        queue: str,
        carried: CarriedSegments,
        heartbeat: Heartbeat,
        attempts: int,
        database: "DatabaseLog",
    ) -> None:
        self._database = database
        self._heartbeat = heartbeat
        self._attempts = attempts
        self._client = client
        self._tables = tables
        self._worker = worker
        self._queue = queue  # of segments that have none
        self._carried = carried
        self._machine = machine()
        self._seen: dict[str, tuple[int, int]] = {}  # worker -> its beats, looks since they moved
        self._ended = threading.Event()
        # A thread of its own, because a worker is alive even if a tool blocks its event loop.
        self._thread = threading.Thread(target=self._loop, name="pathors-watch", daemon=True)

    def start(self) -> None:
        """Begin, and take over from dead workers at once."""
        self.look()
        self._thread.start()

    def give_up(self) -> None:
        """Let the thread end, now or as soon as it has begun."""
        self._ended.set()

    def stop(self) -> None:
        """Stop, and return the segments of this worker to their queues."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        for _ in range(_STOP_TRIES):
            try:
                self._leave()
                return
            except sa.exc.SQLAlchemyError as error:
                # Other workers take over the runs that were not returned, once they miss the
                # heartbeats.
                emit("give_back_failed", worker=self._worker, error=type(error).__name__)
            time.sleep(_STOP_PAUSE)

    def _leave(self) -> None:
        with self._carried.lock:
            pending = self._pending(self._worker)
        for row in pending:
            self._give_back(row)
        self._tables.forget_worker(self._worker)

    def _loop(self) -> None:
        while not self._ended.wait(self._heartbeat.seconds):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001  (the database may be away for a while)
                self._database.failed(error)
            else:
                self._database.answered()

    def look(self) -> None:
        """Beat once, take over from dead workers, and check this worker's own segments."""
        self._tables.beat(self._worker, self._machine, os.getpid())
        workers = self._tables.workers()
        self._seen = {row.worker: self._seen.get(row.worker, (-1, 0)) for row in workers}
        for row in workers:
            if row.worker != self._worker and self._is_dead(row):
                self._take_over(row.worker)
        self.check_own()

    def check_own(self) -> None:
        """Return forgotten segments to the queue; stop segments that other workers own now."""
        with self._carried.lock:
            carried = self._carried.segments()
            pending = {row.workflow_uuid: row for row in self._pending(self._worker)}
        for segment, row in pending.items():
            # A segment that has ended meanwhile is no longer pending, and is not returned.
            if segment not in self._carried and self._give_back(row):
                emit("run_given_back", run=run_of(segment), worker=self._worker)
        for segment in carried - pending.keys():
            self._carried.lose(segment)

    def _is_dead(self, row: Row) -> bool:
        before, looks = self._seen[row.worker]
        looks = looks + 1 if row.beats == before else 0
        self._seen[row.worker] = (row.beats, looks)
        is_here = row.machine == self._machine
        return looks >= self._heartbeat.missed or (is_here and not _exists(row.pid))

    def _pending(self, worker: str) -> Sequence[Row]:
        query = sa.select(
            STATUS.c.workflow_uuid,
            STATUS.c.name,
            STATUS.c.queue_name,
            STATUS.c.owner_xid,
            STATUS.c.recovery_attempts,
        ).where(STATUS.c.executor_id == worker, STATUS.c.status == "PENDING")
        with engine.sql(self._client).begin() as connection:
            return connection.execute(query).all()

    def _take_over(self, worker: str) -> None:
        """Return the segments of a dead worker to their queues, and delete the worker."""
        for row in self._pending(worker):
            died = (row.recovery_attempts or 0) + 1
            run = run_of(row.workflow_uuid)
            if died >= self._attempts and row.name.startswith(WORKFLOW_PREFIX):
                output = {"status": "failed", "failure": _died(died)}
                segment, owner = row.workflow_uuid, row.owner_xid
                if engine.finish(self._client, segment, output=output, owner=owner):
                    warn("run_abandoned", run=run, worker=worker, attempts=died)
            elif self._give_back(row, died=True):
                warn("run_taken_over", run=run, worker=worker)
        self._tables.forget_worker(worker)

    def _give_back(self, row: Row, *, died: bool = False) -> bool:
        segment, owner = row.workflow_uuid, row.owner_xid
        queue = row.queue_name or self._queue
        return give_back(self._client, segment, owner=owner, queue=queue, died=died)


def _died(times: int) -> Fields:
    text = (
        f"the worker's process died {times} times while it carried out this run; look into its"
        " last calls, then resume the run by hand"
    )
    return {"kind": "ProcessDied", "text": text, "retryable": False, "status": None}


def _exists(pid: int) -> bool:
    if os.name != "posix":  # signal 0 is Ctrl-C on Windows; there, heartbeats alone decide
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
