"""What workers promise: order and bounds of queues, sessions one by one, dead letters."""

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import stored_runs
from pathors_agent import AsyncAgent, tool
from pathors_agent.durable import DurableAgent, Heartbeat, RunFailed, engine
from pathors_agent.durable.claims import Claims, Source
from pathors_agent.durable.tables import Bounds, Tables
from pathors_agent.durable.worker import IDLE_POLL_SECONDS
from pathors_agent.errors import InvalidSetting, StoreError
from pathors_agent.stores.database import read_url
from pathors_agent.testing import calls
from stored_runs import Script

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

POLL = 0.05


opened = partial(stored_runs.opened, queue="q", version="1")


# - order -


async def test_urgent_runs_start_first_and_then_the_oldest(database: str) -> None:
    async with opened(database, *["ok"] * 5) as durable:
        for run, priority in [("none", None), ("9", 9), ("1", 1), ("late", None), ("9b", 9)]:
            await durable.start("go", id=run, priority=priority)
            await asyncio.sleep(0.002)  # PostgreSQL's order is by milliseconds
        claims = claims_of(durable, "order")
        order = [claim.segment for _ in range(5) for claim in claims.take(1)]

    assert order == ["agent/1", "agent/9", "agent/9b", "agent/none", "agent/late"]


@pytest.mark.parametrize("priority", [0, -1, 2**31, 1.5, True, "1"])
async def test_bad_priority_is_refused(tmp_path: Path, priority: Any) -> None:
    async with opened(f"sqlite:///{tmp_path / 'runs.db'}") as durable:
        with pytest.raises(InvalidSetting, match="priority must be a whole number from 1"):
            await durable.start("go", priority=priority)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("concurrency", value) for value in (0, -1, 1.5, True)),
        *(("total", value) for value in (0, -1, "2")),
        *(("rate", value) for value in ((0, 1.0), (1, 0), (1, float("inf")), (1, -1.0))),
        *(("poll", value) for value in (0, -1.0, float("nan"))),
    ],
)
async def test_bad_bound_is_refused_before_a_worker_starts(
    tmp_path: Path, setting: str, value: Any
) -> None:
    async with opened(f"sqlite:///{tmp_path / 'runs.db'}") as durable:
        with pytest.raises(InvalidSetting, match=f"{setting} must be"):
            async with durable.working(**{setting: value}):
                pass


def claims_of(durable: DurableAgent[Any], worker: str) -> Claims:
    source = Source(
        queue=durable.queue,
        workflow=f"pathors_agent.{durable.name}",
        version=durable.version,
        agent=durable.name,
    )
    return Claims(durable.runs.client, source, worker)


@contextmanager
def statements(durable: DurableAgent[Any]) -> Iterator[list[str]]:
    """Collect the statements of a client."""
    sql, seen = engine.sql(durable.runs.client), []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    sa.event.listen(sql, "after_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(sql, "after_cursor_execute", note)


def fill(durable: DurableAgent[Any], count: int) -> None:
    """Copy the one queued run, with a session of its own for each copy."""
    client = durable.runs.client
    columns = [c.name for c in engine.STATUS.c if c.name not in ("workflow_uuid", "created_at")]
    first = sa.select(engine.STATUS).where(engine.STATUS.c.workflow_uuid == "agent/run")
    with engine.sql(client).begin() as connection:
        row = connection.execute(first).one()._mapping
        text = connection.execute(sa.select(engine.INPUT.c.inputs).limit(1)).scalar_one()
        names = [f"agent/copy-{number}-of-{count}" for number in range(count)]
        connection.execute(
            sa.insert(engine.STATUS),
            [
                {name: row[name] for name in columns}
                | {
                    "status": "ENQUEUED",
                    "owner_xid": None,
                    "workflow_uuid": name,
                    "created_at": row["created_at"] + 1,
                }
                | {"queue_partition_key": name}
                for name in names
            ],
        )
        connection.execute(
            sa.insert(engine.INPUT),
            [{"workflow_uuid": name, "inputs": text, "retention_timestamp": 0} for name in names],
        )


@pytest.mark.slow
async def test_poll_costs_the_same_for_long_and_short_queues(database: str) -> None:
    async with opened(database) as durable:
        await durable.start("go", id="run")
        costs = []
        for more in (10, 9_990):
            await asyncio.to_thread(fill, durable, more)
            with statements(durable) as seen:
                claimed = await asyncio.to_thread(claims_of(durable, f"w{more}").take, 5)
            assert len(claimed) == 5
            costs.append([statement.split(maxsplit=1)[0] for statement in seen])
            if database.startswith("sqlite"):
                assert uses_the_index(database)

    assert costs[0] == costs[1]


def uses_the_index(database: str) -> bool:
    """Return True if SQLite finds the next run by our index, and sorts nothing."""
    query = (
        "EXPLAIN QUERY PLAN SELECT workflow_uuid FROM workflow_status WHERE queue_name = 'q' AND"
        " name = 'n' AND application_version = '1' AND status = 'ENQUEUED'"
        " ORDER BY priority, created_at, rowid LIMIT 5"
    )
    with sqlite3.connect(database.removeprefix("sqlite:///")) as connection:
        plan = " ".join(row[3] for row in connection.execute(query))
    connection.close()
    return "pathors_durable_due" in plan and "TEMP B-TREE" not in plan


async def test_idle_worker_and_waiting_caller_poll_less_and_less(tmp_path: Path) -> None:
    release = asyncio.Event()

    @tool
    async def wait() -> str:
        await release.wait()
        return "ok"

    database = f"sqlite:///{tmp_path / 'runs.db'}"
    async with opened(database, calls(("wait", {})), "done", tools=[wait]) as durable:
        async with durable.working(poll=POLL):
            handle = await durable.start("go")
            with statements(durable) as seen:
                waiting = asyncio.create_task(handle.result())
                async with asyncio.timeout(3):
                    await asyncio.wait([waiting], timeout=2)
            # 0.05, 0.1, 0.2 ... 1 second: seven looks at most, of two statements with their inputs.
            assert 0 < len(seen) <= 7 * 4
            release.set()
            assert (await waiting).output == "done"
    assert IDLE_POLL_SECONDS >= 1


# - sessions -


async def test_runs_of_a_session_run_one_after_another_in_all_queues(database: str) -> None:
    at_once, most = 0, 0

    @tool
    async def work() -> str:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1
        return "ok"

    script = [calls(("work", {})), "done"] * 3
    async with (
        opened(database, *script, tools=[work], queue="one") as one,
        opened(database, *script, tools=[work], queue="two") as two,
        one.working(poll=POLL),
        two.working(poll=POLL),
    ):
        handles = [await each.start("go", session_id="s") for each in (one, two, one, two)]
        results = [await handle.result() for handle in handles]
        others = [await each.start("go", session_id=f"{each.queue}") for each in (one, two)]
        assert {(await handle.result()).output for handle in others} == {"done"}

    assert {result.output for result in results} == {"done"}
    assert sorted(len(result.conversation.messages) for result in results) == [4, 8, 12, 16]


# - bounds -


async def test_total_is_of_the_queue_and_stays(database: str) -> None:
    at_once, most, two = 0, 0, asyncio.Event()

    @tool
    async def work() -> str:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        if at_once == 2:
            two.set()
        await two.wait()  # two runs go at once, then all others may try to join them
        await asyncio.sleep(0.05)
        at_once -= 1
        return "ok"

    script = [calls(("work", {})), "done"] * 8
    async with (
        opened(database, *script, tools=[work], name="a") as a,
        opened(database, *script, tools=[work], name="b") as b,
    ):
        async with a.working(poll=POLL, total=2), b.working(poll=POLL, concurrency=8):
            handles = [await each.start("go") for _ in range(4) for each in (a, b)]
            for handle in handles:
                await handle.result()
        assert most == 2
        assert a.runs.tables.bounds("q") == Bounds(total=2)
        with pytest.raises(InvalidSetting, match=r"has total=2, not 3.*runs limit"):
            async with b.working(total=3):
                pass
        await b.limit_queue(total=3)
        async with b.working(poll=POLL, total=3):
            pass


async def test_rate_counts_the_starts_of_all_workers(database: str) -> None:
    async with opened(database) as durable:
        tables = durable.runs.tables
        tables.set_bounds("q", Bounds(rate=(3, 3600.0)))
        for _ in range(5):
            await durable.start("go")
        first, second = claims_of(durable, "first"), claims_of(durable, "second")
        taken = [len(first.take(2)), len(second.take(2)), len(first.take(2))]
        assert taken == [2, 1, 0]
        tables.set_bounds("q", Bounds())
        assert len(second.take(5)) == 2


# - errors of tools and of processes -


class Halt(BaseException):
    """An exception of a program's own that no `except Exception` catches."""


@pytest.mark.parametrize(
    "error", [SystemExit("bye"), SystemExit(3), KeyboardInterrupt(), Halt("stop")]
)
@pytest.mark.parametrize("sync", [False, True])
async def test_tool_that_exits_ends_only_its_call(
    tmp_path: Path, error: BaseException, sync: bool
) -> None:
    @tool
    async def leave() -> str:
        raise error

    @tool(name="leave")
    def leave_sync() -> str:
        raise error

    tools = [leave_sync if sync else leave]
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    async with opened(database, calls(("leave", {})), "done", tools=tools) as durable:
        async with durable.working(poll=POLL):
            result = await (await durable.start("go")).result()

    assert result.output == "done"
    [message] = [m for m in result.messages if m.role == "tool"]
    assert message.outcome == "error"
    assert message.text.startswith(type(error).__name__)


async def test_failure_between_calls_is_told_once(tmp_path: Path) -> None:
    def instructions(context: object) -> str:
        raise Halt("no such user")

    agent = AsyncAgent(Script("never"), instructions=instructions)
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    async with DurableAgent(agent, database=database) as durable:
        with pytest.raises(RunFailed) as caught:
            await (await durable.start("go")).result()

    assert (str(caught.value), caught.value.kind) == ("the run stopped: Halt: no such user", "Halt")


def die_with_a_run(durable: DurableAgent[Any], number: int) -> None:
    """Claim the queued run as a worker whose process is gone."""
    client, worker = durable.runs.client, f"dead-{number}"
    Tables(engine.sql(client)).beat(worker, "elsewhere", os.getpid())
    assert len(claims_of(durable, worker).take(1)) == 1


async def test_run_whose_workers_died_fails_until_it_is_resumed(database: str) -> None:
    script = ["never", "done"]
    quick = Heartbeat(seconds=0.02, missed=2)
    async with opened(database, *script, heartbeat=quick, attempts=3) as durable:
        await durable.start("go", id="run")
        for number in range(3):
            await asyncio.to_thread(die_with_a_run, durable, number)
            # This worker takes runs of another version only: the queue's run waits.
            async with opened(database, heartbeat=quick, version="other") as watcher:
                async with watcher.working(poll=POLL):
                    handle = await durable.get("run")
                    while await handle.status() == "running":  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            assert await handle.status() == ("failed" if number == 2 else "queued")

        async with durable.working(poll=POLL):
            with pytest.raises(RunFailed, match="process died 3 times") as caught:
                await handle.result()
            assert caught.value.kind == "ProcessDied"
            assert [run.id for run in await durable.list(status="failed")] == ["run"]
            again = await durable.resume("run")
            assert (await again.result()).output == "never"


async def test_worker_that_stops_returns_its_runs_without_counting_a_death(database: str) -> None:
    begun, ended = asyncio.Event(), []

    @tool(idempotent=True)
    async def wait() -> str:
        if begun.is_set():
            return "second time"
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended.append("cleaned up")
        return "never"

    script = [calls(("wait", {})), "done"]
    async with opened(database, *script, tools=[wait], attempts=1) as durable:
        async with durable.working(poll=POLL, stop_seconds=0):
            handle = await durable.start("go")
            await begun.wait()
        assert ended == ["cleaned up"]
        assert await handle.status() == "queued"
        async with durable.working(poll=POLL):
            assert (await handle.result()).output == "done"


# - the engine -


@pytest.mark.parametrize("name", engine.PRIVATE_NAMES)
def test_private_name_of_the_engine_is_there(name: str) -> None:
    assert engine.private(name) is not None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("_sys_db:SystemDatabase.no_such_method", "dbos._sys_db.SystemDatabase.no_such_method"),
        ("_no_such_module:Name", "dbos._no_such_module.Name"),
    ],
)
def test_missing_private_name_is_an_error_that_names_it(name: str, said: str) -> None:
    with pytest.raises(StoreError, match=f"has no {said}, which durable runs need"):
        engine.private(name)


async def test_tables_of_a_newer_engine_are_refused(database: str) -> None:
    async with opened(database) as durable:
        schema = "" if database.startswith("sqlite") else "dbos."
        with engine.sql(durable.runs.client).begin() as connection:
            connection.execute(sa.text(f"UPDATE {schema}dbos_migrations SET version = 9999"))

    with pytest.raises(StoreError, match=r"have version 9999, .* newer version of dbos"):
        async with opened(database):
            pass


@pytest.mark.slow
async def test_program_may_use_dbos_itself_in_the_same_process(database: str) -> None:
    from dbos import DBOS

    url = read_url(database).render_as_string(hide_password=False)
    DBOS(config={"name": "other-program", "system_database_url": url})

    @DBOS.workflow(name="theirs")
    async def theirs() -> str:
        return "theirs"

    DBOS.launch()
    try:
        async with opened(database, "ours") as durable, durable.working(poll=POLL):
            assert (await (await durable.start("go", id="run")).result()).output == "ours"
            handle = await DBOS.start_workflow_async(theirs)
            assert await handle.get_result() == "theirs"
        assert await (await DBOS.start_workflow_async(theirs)).get_result() == "theirs"
    finally:
        await asyncio.to_thread(DBOS.destroy, destroy_registry=True)
