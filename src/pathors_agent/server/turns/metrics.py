"""Count what a server does, in the text format of Prometheus.

Several worker processes share files in the folder `PROMETHEUS_MULTIPROC_DIR`, which `serve` creates
and removes. So each worker can return the counts of all.
"""

import os
import tempfile
from collections.abc import Container, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from pathors_agent.agents.result import RunResult
from pathors_agent.telemetry.facts import UNKNOWN_TOOL

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when it is imported

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

# From the time of a stored answer to the default of `turn_seconds`.
_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

CANCELLED = "cancelled"
"""The status of a turn whose client disconnected."""


class Metrics:
    """The counters of one app; labels are names of projects and tools, never of users."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        live: dict[str, Any] = {"multiprocess_mode": "livesum", "registry": registry}
        turns = Counter(
            "pathors_turns", "Turns that ended", ["project", "status"], registry=registry
        )
        seconds = Histogram(
            "pathors_turn_seconds",
            "Seconds from the start of a turn to the end of its answer",
            ["project"],
            buckets=_SECONDS,
            registry=registry,
        )
        tokens = Counter(
            "pathors_tokens", "Tokens that models reported", ["project", "kind"], registry=registry
        )
        tools = Counter(
            "pathors_tool_calls",
            "Calls of the project's tools",
            ["project", "tool", "outcome"],
            registry=registry,
        )
        running = Gauge(
            "pathors_requests_running",
            "Turns and requests of the session API that run",
            ["project"],
            **live,
        )
        waiting = Gauge(
            "pathors_requests_waiting",
            "Turns and requests of the session API that wait for a place",
            ["project"],
            **live,
        )
        # Each looks its labels up under a lock; these functions keep what they found.
        self._turns, self._seconds = cache(turns.labels), cache(seconds.labels)
        self._tokens, self._tools = cache(tokens.labels), cache(tools.labels)
        self._running, self._waiting = cache(running.labels), cache(waiting.labels)
        self._leases = Gauge("pathors_leases", "Sessions that are held for a turn", **live)
        self._store_errors = Counter(
            "pathors_store_errors", "Failures of the store", registry=registry
        )

    def turn(self, project: str, status: object, seconds: float) -> None:
        """Count a turn that ended with an HTTP status, or `CANCELLED`."""
        self._turns(project, status).inc()
        self._seconds(project).observe(seconds)

    def run(self, project: str, result: RunResult[Any], *, tools: Container[str]) -> None:
        """Count the tokens and the calls of the project's `tools`, also of a run that failed."""
        usage = result.usage
        for kind, count in (
            ("prompt", usage.prompt_tokens),
            ("completion", usage.completion_tokens),
        ):
            if count:
                self._tokens(project, kind).inc(count)
        for call in result.times:
            if call.kind == "tool":
                # A model can invent any number of other names.
                name = call.name if call.name in tools else UNKNOWN_TOOL
                self._tools(project, name, call.outcome).inc()

    def store_error(self) -> None:
        """Count a failure of the store."""
        self._store_errors.inc()

    def running(self, project: str, change: int) -> None:
        """Change the number of turns and requests of the session API that run."""
        self._running(project).inc(change)

    def waiting(self, project: str) -> AbstractContextManager[object]:
        """Count a turn or a request of the session API as waiting inside the block."""
        return self._waiting(project).track_inprogress()

    def held(self, change: int) -> None:
        """Change the number of sessions that are held."""
        self._leases.inc(change)

    def text(self) -> bytes:
        """Write all counts, of all workers."""
        if _FOLDER not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it has no types
        return generate_latest(registry)


@contextmanager
def shared_by_workers() -> Iterator[None]:
    """Share the counters of the processes that start inside the block."""
    if _FOLDER in os.environ:  # the surrounding program does this
        yield
        return
    with tempfile.TemporaryDirectory(prefix="pathors-agent-metrics-") as folder:
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[_FOLDER]


def forget_worker(pid: int | None) -> None:
    """Remove the running turns of a dead worker from the counts."""
    if pid is not None and _FOLDER in os.environ:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]  # it has no types
