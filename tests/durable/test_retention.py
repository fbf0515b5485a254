"""Deleting runs: by hand and by age, whole sessions at a time, beside runs that go on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from pathors_agent import AsyncAgent, tool
from pathors_agent.durable import DurableAgent, RunExists, RunFailed, RunNotFound, engine
from pathors_agent.durable.retention import PIECE, Retention
from pathors_agent.errors import InvalidSetting
from pathors_agent.testing import AsyncScriptedTransport, calls

pytestmark = pytest.mark.anyio

OF_RUNS = {
    *("workflow_status", "workflow_input", "workflow_output", "operation_outputs"),
    *("pathors_durable_sessions", "pathors_durable_segments", "pathors_durable_doubts"),
}

SECRET = "the PIN is 4711"


@tool(approve=True)
async def pay(text: str) -> str:
    return f"paid {text}"


@asynccontextmanager
async def opened(
    database: str, *script: Any, name: str = "agent", **options: Any
) -> AsyncIterator[DurableAgent[Any]]:
    agent = AsyncAgent(AsyncScriptedTransport(*script), tools=[pay])
    async with DurableAgent(agent, database=database, name=name, **options) as durable:
        yield durable


async def say(durable: DurableAgent[Any], session: str, run: str) -> None:
    await (await durable.start(SECRET, session_id=session, id=run)).result()


def transport_of(durable: DurableAgent[Any]) -> AsyncScriptedTransport:
    transport = durable.agent.transport
    assert isinstance(transport, AsyncScriptedTransport)
    return transport


def tables(durable: DurableAgent[Any]) -> dict[str, list[Any]]:
    """Read everything that is stored."""
    database = engine.sql(durable.runs.client)
    meta = sa.MetaData()
    schema = None if database.dialect.name == "sqlite" else "dbos"
    found = {}
    with database.begin() as connection:
        for each in {None, schema}:
            meta.reflect(connection, schema=each)
        for table in meta.tables.values():
            found[table.name] = [tuple(row) for row in connection.execute(sa.select(table))]
    return found


def make_older(durable: DurableAgent[Any], session: str, days: int) -> None:
    """Let the runs of a session have ended earlier."""
    moment = round((datetime.now(UTC) - timedelta(days=days)).timestamp() * 1000)
    status = engine.STATUS
    with engine.sql(durable.runs.client).begin() as connection:
        where = (status.c.queue_partition_key == session, status.c.completed_at.is_not(None))
        connection.execute(sa.update(status).where(*where).values(completed_at=moment))


async def test_deleted_session_leaves_no_trace_of_its_contents(database: str) -> None:
    async with opened(database, *["said 4711"] * 4) as durable:
        await say(durable, "gone", "one")
        await say(durable, "gone", "two")
        await say(durable, "kept", "three")

        with pytest.raises(RunExists, match=r"has other runs \(1\).*delete the whole session"):
            await durable.delete("one")
        assert await durable.delete_session("gone") == 2

        assert [run.id for run in await durable.list()] == ["three"]
        with pytest.raises(RunNotFound):
            await durable.get("two")
        stored = tables(durable)
        assert {name: len(rows) for name, rows in stored.items() if name in OF_RUNS} == {
            "workflow_status": 1,
            "workflow_input": 1,
            "workflow_output": 1,
            "operation_outputs": 2,
            "pathors_durable_sessions": 1,
            "pathors_durable_segments": 1,
            "pathors_durable_doubts": 0,
        }
        await say(durable, "gone", "one")
        assert len(transport_of(durable).requests[-1]["messages"]) == 1  # a new history
        await durable.delete("one")
        await durable.delete("three")
        assert "4711" not in json.dumps(tables(durable), default=str)
        assert not any(tables(durable)[name] for name in OF_RUNS)


async def test_run_is_kept_while_it_is_at_work_and_another_agents_always(database: str) -> None:
    async with opened(database, "hello", name="other") as other:
        await say(other, "session", "run")
    async with opened(database, queue="later") as durable:
        await durable.start("go", id="run", session_id="session")

        with pytest.raises(RunExists, match="run 'run' has not ended: cancel it"):
            await durable.delete_session("session")
        await durable.cancel("run")
    async with opened(database, queue="later") as durable, durable.working(poll=0.05):
        with pytest.raises(RunFailed, match="cancelled"):
            await (await durable.get("run")).result()
        assert await durable.delete_session("session") == 1
        assert await durable.delete_session("session") == 0
    async with opened(database, name="other", queue="later") as other:
        assert [run.id for run in await other.list()] == ["run"]
        assert (await (await other.get("run")).result()).output == "hello"


async def test_session_is_kept_whole_while_one_of_its_runs_is_younger(database: str) -> None:
    script = ("1", "2", "3", calls(("pay", {"text": "x"})), "6", "paid", "7")
    transport = AsyncScriptedTransport(*script)
    agent = AsyncAgent(transport, tools=[pay])
    async with DurableAgent(agent, database=database) as durable:
        retention = Retention(durable.runs.client, "agent")
        await say(durable, "old", "old-1")
        await say(durable, "used", "used-1")
        for session in ("old", "used"):
            make_older(durable, session, days=40)
        await say(durable, "used", "used-2")
        await say(durable, "waits", "waits-1")
        await say(durable, "young", "young-1")
        make_older(durable, "waits", days=40)
        before = datetime.now(UTC) - timedelta(days=30)

        assert await asyncio.to_thread(retention.expire, before) == 1
        assert await asyncio.to_thread(retention.expire, before) == 0

        assert {run.id for run in await durable.list()} == {
            "used-2",
            "used-1",
            "waits-1",
            "young-1",
        }
        [approval] = await durable.approvals("waits-1")
        await durable.deny("waits-1", approval)
        assert (await (await durable.get("waits-1")).result()).output == "paid"
        await say(durable, "used", "used-3")
        assert [m["role"] for m in transport.requests[-1]["messages"]] == [
            *("user", "assistant") * 2,
            "user",
        ]


async def test_worker_deletes_old_sessions_in_small_transactions(database: str) -> None:
    count = PIECE + 3
    async with opened(database, *["fine"] * count) as durable:
        runs = [await durable.start("go", id=f"run-{n}") for n in range(count)]
        for run in runs:
            await run.result()
            make_older(durable, run.id, days=2)
    async with opened(database, "again", retention=timedelta(days=1)) as durable:
        while (await durable.list(limit=1)).total:  # noqa: ASYNC110  (the database tells nothing)
            await asyncio.sleep(0.05)
        await say(durable, "run-1", "new")

        assert [run.id for run in await durable.list()] == ["new"]


async def test_runs_during_deletions_read_a_whole_history_or_begin_a_new_one(database: str) -> None:
    turns = [(f"session-{n % 2}", f"prompt {n}") for n in range(24)]
    async with opened(database, *["fine"] * len(turns)) as durable:
        retention = Retention(durable.runs.client, "agent")
        deleted = 0

        async def delete_for_ever() -> None:
            nonlocal deleted
            while True:
                later = datetime.now(UTC) + timedelta(hours=1)
                deleted += await asyncio.to_thread(retention.expire, later)

        deleting = asyncio.create_task(delete_for_ever())
        handles = [await durable.start(text, session_id=session) for session, text in turns]
        for handle in handles:
            with suppress(RunNotFound):  # deleted since it ended
                await handle.result()
        while (await durable.list(limit=1)).total:  # noqa: ASYNC110  (the database tells nothing)
            await asyncio.sleep(0.05)
        deleting.cancel()
        await asyncio.wait([deleting])

    assert deleted > 0
    requests = transport_of(durable).requests
    assert len(requests) == len(turns)
    prompts = {session: [text for each, text in turns if each == session] for session, _ in turns}
    for request in requests:
        said = [message["content"] for message in request["messages"][::2]]
        own = next(texts for texts in prompts.values() if said[-1] in texts)
        place = own.index(said[-1])
        assert said == own[place + 1 - len(said) : place + 1]


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), timedelta(), "30d", True])
def test_retention_that_is_no_age_is_refused(value: Any) -> None:
    with pytest.raises(InvalidSetting, match="retention must be positive"):
        DurableAgent(AsyncAgent(AsyncScriptedTransport()), database="sqlite:///x", retention=value)
