"""Transactions of SQLite: they share commits, fail alone, and are whole or absent if cancelled."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from sqlalchemy import select

from pathors_agent.errors import SessionConflict, StoreError
from pathors_agent.messages import UserMessage
from pathors_agent.stores import SQLStore
from pathors_agent.stores.database import Connection, read_url
from pathors_agent.stores.sqlite import SQLite, SQLiteConnection
from pathors_agent.stores.tables import keys
from pathors_agent.stores.values import RequestId

pytestmark = pytest.mark.anyio

# Only a test that hangs waits so long.
LONG = 60.0

INSERT = "INSERT INTO pathors_keys VALUES (NULL, '{0}', '', '{0}', '', '', '', 0, NULL, NULL)"
IDS = select(keys.c.id).order_by(keys.c.id)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SQLite]:
    opened = SQLite(read_url(f"sqlite:///{tmp_path}/sessions.db"), LONG)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that connections execute from now on."""
    texts: list[str] = []
    execute = SQLiteConnection.execute

    def record(self: SQLiteConnection, text: str) -> None:
        texts.append(text)
        execute(self, text)

    monkeypatch.setattr(SQLiteConnection, "execute", record)
    return texts


class Busy:
    """A transaction that keeps the writing thread busy inside of a `with` block."""

    def __init__(self, database: SQLite) -> None:
        self._database = database
        self._may_end = threading.Event()

    async def __aenter__(self) -> "Busy":
        began = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait(connection: Connection) -> None:
            insert("z")(connection)
            loop.call_soon_threadsafe(began.set)
            assert self._may_end.wait(LONG)

        self.task = asyncio.create_task(self._database.run("write", "wait", wait))
        await began.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._may_end.set()
        await asyncio.wait([self.task])


def insert(name: str) -> Callable[[Connection], str]:
    def work(connection: Connection) -> str:
        connection.execute(INSERT.format(name))
        return name

    return work


async def started(
    database: SQLite, *works: Callable[[Connection], object]
) -> list[asyncio.Task[object]]:
    """Start transactions in order; each waits for the writing thread when this returns."""
    tasks = [asyncio.create_task(database.run("write", "insert", work)) for work in works]
    await asyncio.sleep(0)
    return tasks


async def stored(database: SQLite) -> list[str]:
    rows = await database.run("read", "list", lambda connection: connection.rows(IDS))
    return [name for (name,) in rows]


async def test_writers_that_wait_together_share_one_commit(
    database: SQLite, executed: list[str]
) -> None:
    async with Busy(database):
        tasks = await started(database, *(insert(name) for name in "abcdef"))
    results = await asyncio.gather(*tasks)

    assert results == list("abcdef")
    assert executed.count("COMMIT") == 2
    assert await stored(database) == [*"abcdef", "z"]


async def test_writer_that_fails_is_rolled_back_alone(database: SQLite) -> None:
    def fail(connection: Connection) -> None:
        insert("half")(connection)
        raise SessionConflict("no")

    async with Busy(database):
        tasks = await started(database, insert("a"), fail, insert("a"), insert("b"))
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert results[0::3] == ["a", "b"]
    assert isinstance(results[1], SessionConflict)
    assert isinstance(results[2], StoreError)
    assert "has it already" in str(results[2])
    assert await stored(database) == ["a", "b", "z"]


async def test_transaction_that_sqlite_rolls_back_is_repeated_for_each_writer(
    database: SQLite,
) -> None:
    runs: list[str] = []

    def lose(connection: Connection) -> None:
        runs.append("lose")
        connection.execute("ROLLBACK")  # as SQLite does by itself on a full disk
        raise sqlite3.OperationalError

    async with Busy(database):
        tasks = await started(database, insert("a"), lose, insert("b"))
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert results[0::2] == ["a", "b"]
    assert isinstance(results[1], StoreError)
    assert runs == ["lose", "lose"]
    assert await stored(database) == ["a", "b", "z"]


async def test_writer_gets_the_error_of_its_own_commit(
    database: SQLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[str] = []
    execute = SQLiteConnection.execute

    def fail_second(self: SQLiteConnection, text: str) -> None:
        if text == "COMMIT":
            commits.append(text)
            if len(commits) in (2, 3):  # of the group, and of the first writer alone
                raise sqlite3.OperationalError
        execute(self, text)

    monkeypatch.setattr(SQLiteConnection, "execute", fail_second)
    async with Busy(database):
        tasks = await started(database, insert("a"), insert("b"))
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(results[0], StoreError)
    assert results[1] == "b"
    assert await stored(database) == ["b", "z"]


async def test_writer_that_is_cancelled_while_it_waits_never_runs(database: SQLite) -> None:
    async with Busy(database):
        tasks = await started(database, insert("a"), insert("b"))
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
    assert tasks[0].cancelled()
    assert await tasks[1] == "b"
    assert await stored(database) == ["b", "z"]


async def test_writer_that_is_cancelled_while_it_runs_is_stored_before_it_ends(
    database: SQLite,
) -> None:
    async with Busy(database) as busy:
        for _ in range(3):
            busy.task.cancel()
            await asyncio.sleep(0)
        assert not busy.task.done()

    assert busy.task.cancelled()
    assert await stored(database) == ["z"]


async def test_scope_that_is_cancelled_while_a_writer_runs_gets_its_result(
    database: SQLite,
) -> None:
    began, may_end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    results: list[str] = []

    def wait(connection: Connection) -> str:
        loop.call_soon_threadsafe(began.set)
        assert may_end.wait(LONG)
        return insert("a")(connection)

    async def write(scope: anyio.CancelScope) -> None:
        with scope:
            results.append(await database.run("write", "wait", wait))
            await anyio.lowlevel.checkpoint()
            results.append("went on")

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, scope)
        await began.wait()
        scope.cancel()
        await asyncio.sleep(0)
        may_end.set()

    assert results == ["a"]
    assert scope.cancelled_caught
    assert await stored(database) == ["a"]


async def test_readers_do_not_wait_for_a_writer(database: SQLite) -> None:
    async with Busy(database):
        assert await stored(database) == []
    assert await stored(database) == ["z"]


@pytest.fixture
def threads_before() -> set[threading.Thread]:
    return set(threading.enumerate())


async def test_threads_are_no_more_than_the_jobs_that_are_open_at_once(
    threads_before: set[threading.Thread], database: SQLite
) -> None:
    for _ in range(20):
        await stored(database)

    names = [thread.name for thread in set(threading.enumerate()) - threads_before]
    assert names.count("pathors-reader") == 1
    assert names.count("pathors-writer") == 1


# - what is on the disk -


def flushed(texts: list[str]) -> list[bool]:
    """Return for each transaction that begins whether its commit is flushed to the disk."""
    found, is_full = [], True
    for text in texts:
        if text.startswith("PRAGMA synchronous"):
            is_full = text.endswith("FULL")
        elif text == "BEGIN IMMEDIATE":
            found.append(is_full)
    return found


async def test_commit_of_a_turn_is_flushed_and_its_lease_is_not(
    tmp_path: Path, executed: list[str]
) -> None:
    request = RequestId(project="p", api_key="k", name="r")
    async with SQLStore(f"sqlite:///{tmp_path}/sessions.db") as store:

        async def is_flushed(operation: Awaitable[object]) -> list[bool]:
            executed.clear()
            await operation
            # Each is right from the state that the one before leaves.
            return flushed([f"PRAGMA synchronous = {mode}", *executed])

        mode = "FULL"
        assert await is_flushed(store.begin_request(request, "digest", seconds=LONG)) == [False]
        mode = "NORMAL"
        opened = await store.open_session("p", "s", holder="h", seconds=LONG)
        assert opened is not None
        assert await is_flushed(store.keep_lease(opened.lease, seconds=LONG)) == [False]
        assert await is_flushed(store.keep_request(request, seconds=LONG)) == [False]
        assert await is_flushed(store.note_turn(opened.lease, "t", ["x"])) == [True]
        mode = "FULL"
        saving = store.save_turn(opened.lease, [UserMessage(content="Hi")], seen=None)
        assert await is_flushed(saving) == [True]
        assert await is_flushed(store.drop_lease(opened.lease)) == [False]
        mode = "NORMAL"
        assert await is_flushed(store.forget_request(request)) == [False]
        creating = store.create_session("p", "new", variables={})
        assert await is_flushed(creating) == [True]


async def test_lease_that_shares_a_commit_with_a_stored_turn_is_flushed(
    database: SQLite, executed: list[str]
) -> None:
    async with Busy(database):
        waiting = [
            asyncio.create_task(database.run("lock", "lock", insert("a"))),
            asyncio.create_task(database.run("write", "write", insert("b"))),
            asyncio.create_task(database.run("lock", "lock", insert("c"))),
        ]
        await asyncio.sleep(0)  # they wait for the writing thread now
        executed.clear()
    await asyncio.gather(*waiting)
    assert flushed(executed) == [True]

    executed.clear()
    await database.run("lock", "lock", insert("d"))
    assert flushed(executed) == [False]
