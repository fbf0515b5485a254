"""What workers log: names, ids, kinds of errors and seconds, and never contents."""

import json
import logging
import queue
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pathors_agent import AsyncAgent, tool
from pathors_agent.durable import DurableAgent, Heartbeat, RunFailed
from pathors_agent.durable.worker import DatabaseLog
from pathors_agent.testing import AsyncScriptedTransport, calls, http_error

pytestmark = pytest.mark.anyio

AGENT = """
from pathors_agent import AsyncAgent
from pathors_agent.testing import AsyncScriptedTransport
agent = AsyncAgent(AsyncScriptedTransport())
"""

PATIENCE_SECONDS = 60.0


class Events(logging.Handler):
    """Keeps the events of the library, and lets a test wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str, dict[str, Any]]] = []
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        event, fields = record.event, record.fields  # type: ignore[attr-defined]  # set by `telemetry.events`
        self.seen.append((event, record.levelname, fields))
        self._news.put(event)

    def wait_for(self, event: str) -> None:
        while self._news.get(timeout=PATIENCE_SECONDS) != event:
            pass

    def of(self, *names: str) -> list[tuple[str, str]]:
        return [(event, level) for event, level, _ in self.seen if event in names]


@pytest.fixture
def events() -> Iterator[Events]:
    handler, logger = Events(), logging.getLogger("pathors_agent")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@tool(approve=True)
async def pay(to: str) -> str:
    return f"paid {to}"


async def test_runs_are_logged_as_they_are_taken_and_as_they_end(
    tmp_path: Path, events: Events
) -> None:
    script = ("my secret", calls(("pay", {"to": "a secret"})), http_error(400, "secret model"))
    agent = AsyncAgent(AsyncScriptedTransport(*script), tools=[pay])
    durable = DurableAgent(agent, database=f"sqlite:///{tmp_path / 'runs.db'}", name="shop")
    async with durable:
        for run in ("ends", "waits", "fails"):
            with suppress(RunFailed):
                await (await durable.start("a secret", id=run)).result()

    runs = [(event, level, fields) for event, level, fields in events.seen if "run" in fields]
    shown = [
        (event, level, fields["run"], fields.get("kind"))
        for event, level, fields in runs
        if event.startswith("run_") and "agent" in fields
    ]
    assert shown == [
        ("run_taken", "INFO", "ends", None),
        ("run_finished", "INFO", "ends", None),
        ("run_taken", "INFO", "waits", None),
        ("run_suspended", "INFO", "waits", None),
        ("run_taken", "INFO", "fails", None),
        ("run_failed", "WARNING", "fails", "ProviderError"),
    ]
    assert all(
        fields["agent"] == "shop" and fields["worker"]
        for event, _, fields in runs
        if event == "run_taken"
    )
    assert "secret" not in json.dumps(events.seen, default=str)


async def test_loss_and_return_of_a_database_are_logged_once_each(
    tmp_path: Path, events: Events
) -> None:
    file = tmp_path / "runs.db"
    agent = AsyncAgent(AsyncScriptedTransport())
    heartbeat = Heartbeat(seconds=0.05)
    durable = DurableAgent(agent, database=f"sqlite:///{file}", queue="main", heartbeat=heartbeat)

    def execute(statement: str) -> None:
        connection = sqlite3.connect(file, timeout=PATIENCE_SECONDS)
        with connection:
            connection.execute(statement)
        connection.close()

    async with durable, durable.working(poll=30):
        fails = "BEFORE UPDATE ON pathors_durable_workers BEGIN SELECT RAISE(FAIL, 'full'); END"
        execute(f"CREATE TRIGGER full {fails}")
        events.wait_for("database_away")
        execute("DROP TRIGGER full")
        events.wait_for("database_back")

    away = ("database_away", "WARNING"), ("database_back", "WARNING")
    assert events.of("database_away", "database_back") == [*away]
    [fields] = [fields for event, _, fields in events.seen if event == "database_away"]
    assert fields["error"] == "IntegrityError"


def test_unreachable_database_is_logged_once_for_many_failed_statements(events: Events) -> None:
    database = DatabaseLog("worker-1")

    database.answered()
    for _ in range(3):
        database.failed(OSError("the password is secret"))
    database.answered()
    database.answered()
    database.failed(OSError())

    assert [(event, fields["worker"]) for event, _, fields in events.seen] == [
        ("database_away", "worker-1"),
        ("database_back", "worker-1"),
        ("database_away", "worker-1"),
    ]
    assert "secret" not in json.dumps(events.seen)


@pytest.mark.slow
def test_worker_program_writes_its_log_as_json(tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(AGENT)
    line = [sys.executable, "-m", "pathors_agent", "worker", "--log", "--log-json"]
    line += ["--app", "my_agent:agent", "--queue", "q", "--retention", "30d"]
    line += ["--database", f"sqlite:///{tmp_path / 'runs.db'}"]
    with subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        started = json.loads(worker.stderr.readline())
        worker.send_signal(signal.SIGTERM)
        rest = [json.loads(text) for text in worker.stderr]

    assert (started["event"], started["queue"], started["level"]) == ("worker_started", "q", "info")
    assert rest[-1]["event"] == "worker_stopped"
    assert worker.returncode == 0
