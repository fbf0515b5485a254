"""A worker: takes runs from a queue, tells that it lives, and takes over from those that died."""

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from dbos import DBOS, DBOSClient
from dbos._queue import QueueRateLimit

from pathors_agent.durable import engine
from pathors_agent.durable.records import Fields, run_of
from pathors_agent.durable.tables import Tables
from pathors_agent.telemetry.events import emit

# A worker is dead when others looked so often and saw no beat: after 18 seconds at most, and a
# queue's poll later its runs go on. Sooner, and a machine that swaps is taken for dead.
BEAT_SECONDS = 3.0
MISSED_BEATS = 5

# One process waits for nobody else; many workers share one database.
LOCAL_POLL_SECONDS = 0.05
POLL_SECONDS = 0.5

RunSegment = Callable[[str, Fields], Awaitable[Fields]]
"""Carries out a workflow, named first, with what it was stored with; gives how it ended."""

Rate = tuple[int, float]
"""So many runs may start in so many seconds."""

# A model call in flight is mostly over by then, and an orchestrator's patience not yet: 30 seconds.
STOP_SECONDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """How often workers tell that they live, and after how many missed beats one is dead."""

    seconds: float = BEAT_SECONDS
    missed: int = MISSED_BEATS


HEARTBEAT = Heartbeat()


def worker_name() -> str:
    """Name this process, for as long as it works: no other has the name, not even its next start."""
    return f"{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"


def machine() -> str:
    """Name where process numbers mean the same: this machine, or this container, since its start."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


class Worker:
    """Runs segments in this process: started, and stopped, once."""

    def __init__(
        self,
        run: RunSegment,
        *,
        client: DBOSClient,
        tables: Tables,
        name: str,
        workflow: str,
        version: str,
        database: str,
        queue: str,
        heartbeat: Heartbeat,
    ) -> None:
        self.name = name
        self._run_segment = run
        self._client = client
        self._workflow = workflow
        self._version = version
        self._database = database
        self._queue = queue
        self._running = 0
        self._watch = Watch(client, tables, name, queue, heartbeat)

    async def start(
        self,
        *,
        concurrency: int,
        poll: float,
        total: int | None = None,
        rate: Rate | None = None,
        each_partition: int | None = 1,
    ) -> engine.Workflow:
        """Take runs from the queue from now on; give what starts one here, beside the queue.

        `total` is how many run at once on all workers, `each_partition` how many of one session.
        """

        async def workflow(fields: dict[str, Any]) -> dict[str, Any]:
            return await self._run(fields)  # the engine takes functions, no methods

        limiter: QueueRateLimit | None = {"limit": rate[0], "period": rate[1]} if rate else None
        # Before the launch: the engine looks for new queues only once a second.
        await self._client.register_queue_async(
            self._queue,
            worker_concurrency=min(concurrency, total or concurrency),
            global_concurrency=total,
            partition_concurrency=each_partition,
            polling_interval_sec=poll,
            limiter=limiter,
        )
        await asyncio.to_thread(self._watch.start)
        started = engine.launch(
            workflow,
            name=self._workflow,
            database=self._database,
            version=self._version,
            worker=self.name,
            queue=self._queue,
        )
        emit("worker_started", worker=self.name, queue=self._queue)
        return started

    async def stop(self, *, seconds: int = STOP_SECONDS) -> None:
        """Take no more; what runs may end in so many seconds, the rest goes back to the queue."""
        await engine.stop(seconds=seconds if self._running else 0)
        await asyncio.to_thread(self._watch.stop)
        emit("worker_stopped", worker=self.name, queue=self._queue)

    async def _run(self, fields: dict[str, Any]) -> dict[str, Any]:
        segment = DBOS.workflow_id
        assert segment is not None
        self._running += 1
        try:
            return await self._run_segment(segment, fields)
        finally:
            self._running -= 1


class Watch:
    """Tells the others that this worker lives, and notices who does so no more.

    It compares no clocks: who was looked at often enough, and had not moved, is dead. A worker
    that was only slow finds that nothing it records is taken any more.
    """

    def __init__(
        self, client: DBOSClient, tables: Tables, worker: str, queue: str, heartbeat: Heartbeat
    ) -> None:
        self._heartbeat = heartbeat
        self._client = client
        self._tables = tables
        self._worker = worker
        self._queue = queue  # of what was started beside any queue
        self._machine = machine()
        self._seen: dict[str, tuple[int, int]] = {}  # worker -> its beats, looks since they moved
        self._ended = threading.Event()
        # A thread of its own: an event loop that a tool blocks is not dead.
        self._thread = threading.Thread(target=self._loop, name="pathors-watch", daemon=True)

    def start(self) -> None:
        """Begin; who is known to be dead is taken over from at once."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """End, and leave what is still this worker's to the others."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._take_over(self._worker)

    def _loop(self) -> None:
        while not self._ended.wait(self._heartbeat.seconds):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001  (a database that is away comes back)
                emit("watch_failed", worker=self._worker, error=type(error).__name__)

    def look(self) -> None:
        """Beat once, and take over from who is dead."""
        self._tables.beat(self._worker, self._machine, os.getpid())
        workers = self._tables.workers()
        self._seen = {name: self._seen.get(name, (-1, 0)) for name, *_ in workers}
        for name, where, pid, beats in workers:
            if name != self._worker and self._is_dead(name, where, pid, beats):
                self._take_over(name)

    def _is_dead(self, name: str, where: str, pid: int, beats: int) -> bool:
        before, looks = self._seen[name]
        looks = looks + 1 if beats == before else 0
        self._seen[name] = (beats, looks)
        return looks >= self._heartbeat.missed or (where == self._machine and not _exists(pid))

    def _take_over(self, worker: str) -> None:
        """Give the runs of a worker back to their queues, and forget it."""
        pending = self._client.list_workflows(
            executor_id=worker, status="PENDING", load_input=False, load_output=False
        )
        for row in pending:
            queue = row.queue_name or self._queue
            if engine.reenqueue(self._client, row.workflow_id, worker=worker, queue=queue):
                emit("run_taken_over", run=run_of(row.workflow_id), worker=worker)
        self._tables.forget_worker(worker)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
