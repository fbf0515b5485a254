"""Databases and code that do not fit: each is said clearly, and nothing is lost."""

import asyncio
import socket
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pathors_agent import AsyncAgent, ToolMessage, tool
from pathors_agent.durable import DurableAgent, RunFailed, RunHandle, engine, runs
from pathors_agent.errors import RunExists, RunNotFound, StoreError
from pathors_agent.testing import calls
from pathors_agent.tools import Happened
from stored_runs import Script

pytestmark = pytest.mark.anyio

POLL = 0.05


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Return the URL of a file that is not there yet."""
    return f"sqlite:///{tmp_path / 'runs.db'}"


def agent(*script: Any, tools: Any = ()) -> AsyncAgent[str]:
    return AsyncAgent(Script(*script), tools=tools)


class Cut:
    """A tool that hangs the first time."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    @property
    def tool(self) -> Callable[..., Any]:
        @tool(idempotent=True)
        async def cut() -> str:
            if self.begun.is_set():
                return "second time"
            self.begun.set()
            await asyncio.Event().wait()
            return "never"

        return cut


@tool
async def another(text: str) -> str:
    return text


async def test_unreachable_server_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    durable = DurableAgent(agent(), database=f"postgresql://user:hidden@127.0.0.1:{port}/runs")
    with pytest.raises(StoreError, match="cannot be reached") as caught:
        async with durable:
            pass

    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////no/such/folder/runs.db", "cannot be opened"),
        ("sqlite://", "in memory"),
        ("mysql://localhost/runs", "cannot be used"),
        ("nonsense", "cannot be used"),
    ],
)
async def test_unusable_database_is_said(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        async with DurableAgent(agent(), database=url):
            pass


async def test_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "runs.db").write_bytes(b"no database at all, " * 100)
    with pytest.raises(StoreError, match="no database"):
        async with DurableAgent(agent(), database=f"sqlite:///{tmp_path / 'runs.db'}"):
            pass


async def test_database_of_a_newer_version_is_refused(database: str, tmp_path: Path) -> None:
    async with DurableAgent(agent("one"), database=database) as durable:
        await (await durable.start("go", id="run")).result()
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        connection.execute("UPDATE pathors_durable_format SET format = 99")
    connection.close()

    with pytest.raises(StoreError, match=r"format 99.*newer version"):
        async with DurableAgent(agent(), database=database):
            pass

    with sqlite3.connect(tmp_path / "runs.db") as connection:
        assert connection.execute("SELECT count(*) FROM workflow_status").fetchone() == (1,)
    connection.close()


async def test_open_agent_is_not_opened_again(database: str) -> None:
    async with DurableAgent(agent(), database=database, queue="q") as durable:
        with pytest.raises(RuntimeError, match="already open"):
            async with durable:
                pass
        assert len(await durable.list()) == 0


async def test_use_outside_of_its_block_is_said(database: str) -> None:
    durable = DurableAgent(agent(), database=database)
    with pytest.raises(RuntimeError, match="async with"):
        await durable.start("go")


UNUSABLE = [" ", "a\x00b", "a\nb", "\ud800", "é" * 501]


@pytest.mark.parametrize("run_id", ["", "a#2", *UNUSABLE])
async def test_unusable_id_is_refused(database: str, run_id: str) -> None:
    async with DurableAgent(agent(), database=database, queue="q") as durable:
        with pytest.raises(ValueError, match="a run's id"):
            await durable.start("go", id=run_id)
        with pytest.raises(RunNotFound):
            await durable.get(run_id)


@pytest.mark.parametrize("session_id", UNUSABLE)
async def test_unusable_session_id_is_refused(database: str, session_id: str) -> None:
    async with DurableAgent(agent(), database=database, queue="q") as durable:
        with pytest.raises(ValueError, match="session_id must have"):
            await durable.send(session_id, "go")


async def test_client_that_comes_after_its_caller_was_cancelled_is_closed(database: str) -> None:
    may_connect, closed = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    class Client:
        def destroy(self) -> None:
            loop.call_soon_threadsafe(closed.set)

    def connect(url: str) -> Any:
        assert url == database
        may_connect.wait(60)
        return Client()

    opening = asyncio.create_task(engine.opened(connect, database))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    may_connect.set()

    await asyncio.wait_for(closed.wait(), 60)


@pytest.mark.parametrize("name", ["", *UNUSABLE, "x" * 256])
async def test_unusable_name_of_an_agent_is_refused(database: str, name: str) -> None:
    with pytest.raises(ValueError, match="the name of a durable agent must have"):
        DurableAgent(agent(), database=database, name=name)


@pytest.mark.parametrize("queue", ["", *UNUSABLE])
def test_unusable_name_of_a_queue_is_refused(queue: str) -> None:
    with pytest.raises(ValueError, match="queue must have"):
        DurableAgent(agent(), database="sqlite:///runs.db", queue=queue)


async def test_run_that_cannot_be_stored_or_read_is_said_without_its_contents(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "AWAY_SECONDS", 0.0)
    async with DurableAgent(agent(), database=database, queue="q") as durable:
        handle = await durable.start("my secret", id="run")
        with sqlite3.connect(tmp_path / "runs.db") as connection:
            connection.execute("ALTER TABLE workflow_input RENAME TO gone")
        connection.close()

        for failing in (durable.start("my secret"), durable.get("run"), handle.result()):
            with pytest.raises(StoreError) as caught:
                await failing
            assert "could not" in str(caught.value).lower()
            assert "secret" not in f"{caught.value!r} {caught.value.__cause__!r}"


OPERATIONS: dict[str, Callable[[DurableAgent[Any]], Awaitable[object]]] = {
    "start": lambda durable: durable.start("my secret"),
    "send": lambda durable: durable.send("s1", "my secret"),
    "get": lambda durable: durable.get("run"),
    "status": lambda durable: RunHandle(durable, "run").status(),
    "list": lambda durable: durable.list(),
    "cancel": lambda durable: durable.cancel("run"),
    "resume": lambda durable: durable.resume("run"),
    "delete": lambda durable: durable.delete("run"),
    "delete_session": lambda durable: durable.delete_session("run"),
    "in_doubt": lambda durable: durable.in_doubt(),
    "schedule": lambda durable: durable.schedule("s", "@daily", "my secret"),
    "schedules": lambda durable: durable.schedules(),
    "unschedule": lambda durable: durable.unschedule("s"),
    "limit_queue": lambda durable: durable.limit_queue(total=1),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("failing", [1, 2, 3])
async def test_operation_of_a_database_that_fails_raises_its_error_without_contents(
    database: str, name: str, failing: int
) -> None:
    async with DurableAgent(agent(), database=database, queue="q") as durable:
        await durable.start("my secret", id="run")
        executed = 0

        def fail(*_: Any) -> None:
            nonlocal executed
            executed += 1
            if executed >= failing:
                raise sa.exc.IntegrityError("my secret", None, sqlite3.IntegrityError("my secret"))

        sa.event.listen(engine.sql(durable.runs.client), "before_cursor_execute", fail)
        caught: Exception | None = None
        try:
            await OPERATIONS[name](durable)
        except (RunExists, StoreError) as error:  # a run that has not ended is not deleted
            caught = error

        assert isinstance(caught, StoreError) or executed < failing
        assert "secret" not in f"{caught!r} {caught and caught.__cause__!r}"


@pytest.mark.parametrize("failing", range(1, 7))
async def test_caller_that_waits_endures_a_statement_that_fails_once(
    database: str, failing: int
) -> None:
    async with DurableAgent(agent("Hello."), database=database) as durable:
        handle = await durable.start("Hi.", id="run")
        await handle.result()
    async with DurableAgent(agent(), database=database, queue="q") as durable:
        executed = 0

        def fail_once(*_: Any) -> None:
            nonlocal executed
            executed += 1
            if executed == failing:
                raise sa.exc.OperationalError("SELECT", None, sqlite3.OperationalError("away"))

        sa.event.listen(engine.sql(durable.runs.client), "before_cursor_execute", fail_once)
        handle = RunHandle(durable, "run")
        result, events = await handle.result(), [message.text async for message in handle.events()]

        assert (result.output, events) == ("Hello.", ["Hi.", "Hello."])
        assert executed > failing


async def begin_and_stop(cut: Cut, database: str, *, version: str | None = None) -> None:
    """Leave a run in the middle of its tool, as a process does that is told to end."""
    first = agent(calls(("cut", {})), tools=[cut.tool])
    async with DurableAgent(first, database=database, queue="q", version=version) as durable:
        async with durable.working(poll=POLL, stop_seconds=0):
            await durable.start("go", id="run")
            await cut.begun.wait()


def raises(error: BaseException) -> object:
    raise error


@pytest.mark.parametrize(
    "reconcile",
    [
        lambda: raises(ValueError()),
        lambda: raises(SystemExit(2)),
        lambda: raises(KeyboardInterrupt()),
        lambda: None,
        lambda: True,
        lambda: Happened,
        lambda: (each for each in "x"),
    ],
    ids=["error", "exit", "interrupt", "none", "true", "class", "generator"],
)
async def test_call_whose_reconcile_function_does_not_decide_stays_in_doubt(
    tmp_path: Path, reconcile: Callable[[], Any]
) -> None:
    begun, times = asyncio.Event(), []

    @tool(reconcile=lambda _context, _arguments: reconcile())
    async def charge() -> str:
        times.append(1)
        begun.set()
        await asyncio.Event().wait()
        return "never"

    database = f"sqlite:///{tmp_path / 'runs.db'}"
    code = agent(calls(("charge", {})), "done", tools=[charge])
    async with DurableAgent(code, database=database, queue="q") as durable:
        async with durable.working(poll=POLL, stop_seconds=0):
            handle = await durable.start("go")
            await begun.wait()
        async with durable.working(poll=POLL):
            result = await handle.result()
        outcomes = [m.outcome for m in result.messages if isinstance(m, ToolMessage)]
        assert (outcomes, len(times)) == (["unknown"], 1)
        assert [doubt.tool for doubt in await durable.in_doubt()] == ["charge"]


async def test_new_code_with_the_same_tools_ends_the_run(database: str) -> None:
    cut = Cut()
    await begin_and_stop(cut, database)
    new = DurableAgent(agent("done", tools=[cut.tool]), database=database, queue="q")
    async with new as durable, durable.working(poll=POLL):
        assert (await (await durable.get("run")).result()).output == "done"


async def test_run_waits_for_code_of_its_version(database: str) -> None:
    cut = Cut()
    await begin_and_stop(cut, database)
    other = DurableAgent(agent("new run", tools=[another]), database=database, queue="q")
    async with other as durable, durable.working(poll=POLL):
        # It carries out its own runs, and leaves the older one where it is.
        assert (await (await durable.start("hello")).result()).output == "new run"
        [held] = await durable.list(status="queued")

        assert held.id == "run"
        assert held.version != durable.version

    old = DurableAgent(agent("done", tools=[cut.tool]), database=database, queue="q")
    async with old as durable, durable.working(poll=POLL):
        assert (await (await durable.get("run")).result()).output == "done"


async def test_missing_tool_stops_a_run_until_it_is_back(database: str) -> None:
    cut = Cut()
    await begin_and_stop(cut, database, version="mine")
    without = DurableAgent(agent(), database=database, queue="q", version="mine")
    async with without as durable, durable.working(poll=POLL):
        with pytest.raises(RunFailed, match="the model called the tool 'cut'") as caught:
            await (await durable.get("run")).result()
        assert caught.value.kind == "ToolMissing"

    back = agent("done", tools=[cut.tool])
    again = DurableAgent(back, database=database, queue="q", version="mine")
    async with again as durable, durable.working(poll=POLL):
        result = await (await durable.resume("run")).result()

        assert result.output == "done"
        assert [m.text for m in result.messages if isinstance(m, ToolMessage)] == ["second time"]
