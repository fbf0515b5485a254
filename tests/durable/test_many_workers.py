"""Three workers on one PostgreSQL: one is killed, one is stopped for long, the database restarts.

`PATHORS_FLEET_RUNS=200` makes as many runs, instead of fifteen, and stops the slow one for a minute
at least.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from durable_program import lines, make_agent
from pathors_agent import ToolMessage
from pathors_agent.core.run import Status
from pathors_agent.durable import DurableAgent
from postgres import Restartable, find_programs, restartable_server

RUNS = int(os.environ.get("PATHORS_FLEET_RUNS", "15"))
STOPPED_SECONDS = 60 if RUNS >= 200 else 0

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.timeout(300 + 10 * RUNS)]

PROGRAM = Path(__file__).parent / "worker_program.py"
TOOL_SECONDS, BEAT_SECONDS = "0.1", "0.2"

WRITES = ["tool/0/0 a", "tool/0/1 b", "tool/2/0 d"]


@contextmanager
def workers(database: str, folder: Path, count: int) -> "Iterator[list[subprocess.Popen[str]]]":
    """Start workers, and wait until they take runs."""
    command = [sys.executable, str(PROGRAM), database, str(folder), TOOL_SECONDS, BEAT_SECONDS]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(count)
    ]
    try:
        for worker in started:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        yield started
    finally:
        for worker in started:
            worker.kill()
            worker.communicate()


@pytest.fixture
def database() -> Iterator[Restartable]:
    """Start a server whose commits survive its end."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    with restartable_server(programs, {}) as running:
        yield running


async def test_dead_and_slow_workers_and_a_restart_lose_nothing_and_repeat_nothing(
    database: Restartable, tmp_path: Path
) -> None:
    postgres_url = database.server.url()
    client = DurableAgent(
        make_agent(tmp_path, lambda _: None), database=postgres_url, queue="queue"
    )
    async with client as durable:
        with workers(postgres_url, tmp_path, 3) as (dead, slow, well):
            handles = [await durable.start("go", id=f"run-{number}") for number in range(RUNS)]
            await written_by_workers(tmp_path, RUNS // 2)
            dead.send_signal(signal.SIGKILL)
            slow.send_signal(signal.SIGSTOP)
            stopped = asyncio.create_task(asyncio.sleep(STOPPED_SECONDS))
            waiting = asyncio.gather(*(handle.result() for handle in handles))
            await written_by_workers(tmp_path, RUNS)
            await asyncio.to_thread(restart, database)
            results = dict(zip([handle.id for handle in handles], await waiting, strict=True))
            ended = lines(tmp_path / "lines")

            await stopped
            # The slow one wakes in the middle of what others have ended.
            slow.send_signal(signal.SIGCONT)
            more = [await durable.start("go", id=f"late-{number}") for number in range(4)]
            results |= {handle.id: await handle.result() for handle in more}
            assert [end(worker) for worker in (slow, well)] == [0, 0]

        doubts = {call.key for call in await durable.in_doubt()}
        again = {handle.id: await handle.result() for handle in [*handles, *more]}
        hands = [await hands_of(durable, handle.id) for handle in handles]

    check_lines(lines(tmp_path / "lines"), ended, [*results], doubts)

    assert {result.status for result in results.values()} == {Status.FINISHED}
    assert {run: result.messages for run, result in again.items()} == {
        run: result.messages for run, result in results.items()
    }
    assert sum(len(doubtful(result.messages)) for result in results.values()) == len(doubts)
    # Two workers were in the middle of something: others went on with it.
    assert any(len(names) > 1 for names in hands)
    assert set(lines(tmp_path / "ledger")) == {
        f"agent/{run}/{charge}" for run in results for charge in ("tool/1/0 1", "tool/1/1 2")
    }


def restart(database: Restartable) -> None:
    database.stop()
    database.start()


def end(worker: "subprocess.Popen[str]") -> int:
    worker.send_signal(signal.SIGTERM)
    return worker.wait(30)


def check_lines(written: list[str], ended: list[str], runs: list[str], doubts: set[str]) -> None:
    """Check that each line was written once, unless its call is in doubt."""
    expected = {f"agent/{run}/{write}" for run in runs for write in WRITES}
    assert len(written) == len(set(written))
    assert {line for line in expected if line.split()[0] not in doubts} <= set(written) <= expected
    assert set(ended) <= set(written)


async def written_by_workers(folder: Path, count: int) -> None:
    """Wait until the tools wrote this many lines."""
    while len(lines(folder / "lines")) < count:  # noqa: ASYNC110  (other processes write)
        await asyncio.sleep(0.01)


async def hands_of(durable: DurableAgent[str], run: str) -> set[str]:
    """Name the workers that recorded something of a run."""
    steps = await durable.runs.steps(f"agent/{run}")
    return {step["output"]["by"] for step in steps if "by" in (step["output"] or {})}


def doubtful(messages: object) -> list[ToolMessage]:
    assert isinstance(messages, tuple)
    return [m for m in messages if isinstance(m, ToolMessage) and m.outcome == "unknown"]
