"""A write that fails once loses no run, repeats no call, and leaves nothing in doubt."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pathors_agent import AsyncAgent, tool
from pathors_agent.durable import DurableAgent, Heartbeat, engine
from pathors_agent.testing import AsyncScriptedTransport, calls

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.timeout(300)]

BEAT = Heartbeat(seconds=0.05, missed=1000)


class Faults:
    """Counts the transactions of workers that write, and lets one of them fail."""

    def __init__(self, *, failing: int = 0, after: bool = False) -> None:
        self.count = 0
        self._failing = failing
        self._after = after

    def commit(self, commit: Callable[[Any], None]) -> Callable[[Any], None]:
        def commits(connection: Any) -> None:
            if not connection.in_transaction:  # it only read
                commit(connection)
                return
            self.count += 1
            fails = self.count == self._failing
            if fails and not self._after:
                raise sqlite3.OperationalError("database or disk is full")
            commit(connection)
            if fails:
                raise sqlite3.OperationalError("disk I/O error")

        return commits


@contextmanager
def faults(given: Faults) -> Iterator[None]:
    """Let the connections of workers fail as given."""
    connect = engine.connect_worker

    def connect_failing(database: str) -> Any:
        client = connect(database)
        dialect: Any = engine.sql(client).dialect
        dialect.do_commit = given.commit(dialect.do_commit)
        return client

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "connect_worker", connect_failing)
        yield


async def story(database: str, given: Faults) -> tuple[list[int], list[str], list[str]]:
    """Run two runs of a session; return the calls made, the roles, and the calls in doubt."""
    made: list[int] = []

    @tool
    async def write(number: int) -> str:
        made.append(number)
        return "written"

    script: list[Any] = [
        calls(("write", {"number": 1}), ("write", {"number": 2})),
        "done",
        "and again",
    ]
    agent: AsyncAgent[Any] = AsyncAgent(AsyncScriptedTransport(*script), tools=[write])
    with faults(given):
        async with DurableAgent(agent, database=database, heartbeat=BEAT) as durable:
            first = await durable.start("go", session_id="s", id="one")
            second = await durable.start("more", session_id="s", id="two")
            async with asyncio.timeout(60):
                await first.result()
                result = await second.result()
            doubts = [call.key for call in await durable.in_doubt()]
    return sorted(made), [message.role for message in result.conversation.messages], doubts


@pytest.mark.parametrize("after", [False, True], ids=["refused", "stored-but-not-confirmed"])
async def test_any_failed_commit_of_a_worker_changes_nothing(tmp_path: Path, after: bool) -> None:
    whole = Faults()
    expected = await story(f"sqlite:///{tmp_path / 'whole.db'}", whole)
    roles = ["user", "assistant", "tool", "tool", "assistant", "user", "assistant"]
    assert expected == ([1, 2], roles, [])
    assert whole.count > 10

    # The first is the worker's first heartbeat: without it, it does not start.
    for number in range(2, whole.count + 1):
        database = f"sqlite:///{tmp_path / f'{number}.db'}"
        told = await story(database, Faults(failing=number, after=after))
        assert told == expected, f"commit {number} of {whole.count}"


async def test_run_ends_once_the_disk_has_room_again(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    begun, made = asyncio.Event(), []

    def sql(*statements: str) -> None:
        with sqlite3.connect(path, timeout=30) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    @tool
    async def work() -> str:
        made.append("work")
        refused = ("INSERT ON operation_outputs", "UPDATE ON workflow_status")
        text = "CREATE TRIGGER full_{} BEFORE {} BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
        await asyncio.to_thread(sql, *(text.format(i, at) for i, at in enumerate(refused)))
        begun.set()
        return "worked"

    agent: AsyncAgent[Any] = AsyncAgent(
        AsyncScriptedTransport(calls(("work", {})), "done", "next"), tools=[work]
    )
    database = f"sqlite:///{path}"
    async with DurableAgent(agent, database=database, heartbeat=BEAT) as durable:
        handle = await durable.start("go", session_id="s")
        await begun.wait()
        failed = await still_running(durable)
        assert failed
        await asyncio.to_thread(sql, "DROP TRIGGER full_0", "DROP TRIGGER full_1")
        async with asyncio.timeout(60):
            assert (await handle.result()).output == "done"
            assert (await (await durable.send("s", "more")).result()).output == "next"
        assert len(await durable.in_doubt()) == 0
    assert made == ["work"]


async def still_running(durable: DurableAgent[Any]) -> bool:
    """Wait for some heartbeats; return True if the run is still running."""
    tables = durable.runs.tables

    async def beats() -> int:
        return sum(worker[3] for worker in await asyncio.to_thread(tables.workers))

    first = await beats()
    while await beats() < first + 5:  # noqa: ASYNC110
        await asyncio.sleep(0.01)  # the worker's own thread beats
    return [run.status for run in await durable.list()] == ["running"]
