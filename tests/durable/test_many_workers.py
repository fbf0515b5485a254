"""Three workers on one PostgreSQL: one is killed for good, one is stopped for long and let go.

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

RUNS = int(os.environ.get("PATHORS_FLEET_RUNS", "15"))
STOPPED_SECONDS = 60 if RUNS >= 200 else 0

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.timeout(300 + 10 * RUNS)]

PROGRAM = Path(__file__).parent / "worker_program.py"
TOOL_SECONDS, BEAT_SECONDS = "0.1", "0.2"

WRITES = ["tool/0/0 a", "tool/0/1 b", "tool/2/0 d"]


@pytest.fixture
def anyio_backend() -> str:
    """The engine runs on asyncio."""
    return "asyncio"


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


async def test_dead_and_slow_workers_lose_nothing_and_repeat_nothing(
    postgres_url: str, tmp_path: Path
) -> None:
    client = DurableAgent(
        make_agent(tmp_path, lambda _: None), database=postgres_url, queue="queue"
    )
    async with client as durable:
        with workers(postgres_url, tmp_path, 3) as (dead, slow, well):
            handles = [await durable.start("go", id=f"run-{number}") for number in range(RUNS)]
            while len(lines(tmp_path / "lines")) < RUNS // 2:  # noqa: ASYNC110  (other processes write)
                await asyncio.sleep(0.01)
            dead.send_signal(signal.SIGKILL)
            slow.send_signal(signal.SIGSTOP)
            stopped = asyncio.create_task(asyncio.sleep(STOPPED_SECONDS))
            results = {handle.id: await handle.result() for handle in handles}
            ended = lines(tmp_path / "lines")

            await stopped
            # The slow one wakes in the middle of what others have ended.
            slow.send_signal(signal.SIGCONT)
            more = [await durable.start("go", id=f"late-{number}") for number in range(4)]
            results |= {handle.id: await handle.result() for handle in more}
            for worker in (slow, well):
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(30) == 0

        doubts = {call.key for call in await durable.in_doubt()}
        again = {handle.id: await handle.result() for handle in [*handles, *more]}
        hands = [await hands_of(durable, handle.id) for handle in handles]

    written = lines(tmp_path / "lines")
    expected = {f"agent/{run}/{write}" for run in results for write in WRITES}
    assert len(written) == len(set(written))
    assert {line for line in expected if line.split()[0] not in doubts} <= set(written) <= expected
    assert set(ended) <= set(written)

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


async def hands_of(durable: DurableAgent[str], run: str) -> set[str]:
    """Name the workers that recorded something of a run."""
    steps = await durable.runs.steps(f"agent/{run}")
    return {step["output"]["by"] for step in steps if "by" in (step["output"] or {})}


def doubtful(messages: object) -> list[ToolMessage]:
    assert isinstance(messages, tuple)
    return [m for m in messages if isinstance(m, ToolMessage) and m.outcome == "unknown"]
