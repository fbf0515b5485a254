"""Failures of the database, cancelled work, and many at once."""

import asyncio
import sqlite3
import traceback
from contextlib import closing
from pathlib import Path

import anyio
import psycopg
import pytest

from pathors_agent.errors import StoreError
from pathors_agent.messages import UserMessage
from pathors_agent.stores import Session, SQLStore
from pathors_agent.stores.database import CONNECTIONS
from postgres import PostgresServer
from sql_stores import LONG, error_of, execute, say, value

pytestmark = pytest.mark.anyio
SECRET = "swordfish"


def overwrite(file: Path, *, from_page: int) -> None:
    """Damage a file of SQLite, or make one that never was."""
    kept = file.read_bytes() if file.exists() else b""
    start = from_page * 4096
    file.write_bytes(kept[:start] + b"Dear diary, " * max(1000, (len(kept) - start) // 12))


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """SQLAlchemy runs on asyncio."""
    return "asyncio"


# - failures -


async def test_closed_store_raises_that_it_is_not_open(sqlite_url: str) -> None:
    store = SQLStore(sqlite_url)

    with pytest.raises(StoreError, match="use it inside `async with store:`"):
        await store.check()


async def test_missing_folder_is_named(tmp_path: Path) -> None:
    said = await error_of(SQLStore(f"sqlite:///{tmp_path}/none/sessions.db"))

    assert said.startswith(f"Could not open the sessions in sqlite:///{tmp_path}/none/sessions.db:")
    assert "check that its folder is there" in said


async def test_file_that_is_no_database_is_refused(sqlite_file: Path, sqlite_url: str) -> None:
    overwrite(sqlite_file, from_page=0)

    assert "the file is no database, or is damaged" in await error_of(SQLStore(sqlite_url))


async def test_damaged_file_is_reported(sqlite_file: Path, sqlite_url: str) -> None:
    async with SQLStore(sqlite_url) as store:
        for number in range(50):
            await say(store, UserMessage(content="x" * 2000), id=f"s{number}")
    # Past the first pages, which tell what tables there are.
    overwrite(sqlite_file, from_page=24)

    async with SQLStore(sqlite_url) as store:
        with pytest.raises(StoreError, match="the database is damaged: bring back a copy"):
            await store.search_sessions("project", "y", limit=1, offset=0)


async def test_damaged_stored_message_is_reported(url: str, store: SQLStore) -> None:
    await say(store, UserMessage(content="swordfish"))
    execute(url, 'UPDATE pathors_messages SET text = \'{"role": "swordfish\'')

    damaged = await store.session("project", "session")
    with pytest.raises(StoreError, match="A stored message cannot be read") as caught:
        _ = damaged.messages

    assert "swordfish" not in "".join(traceback.format_exception(caught.value))


async def test_read_only_file_is_reported(sqlite_file: Path, sqlite_url: str) -> None:
    async with SQLStore(sqlite_url) as store:
        await say(store, UserMessage(content="x"))

    async with SQLStore(f"sqlite:///file:{sqlite_file}?mode=ro&uri=true") as store:
        assert (await store.session("project", "session")).revision == 1
        with pytest.raises(StoreError, match=r"Could not check the sessions .* is read-only"):
            await store.check()


async def test_read_only_database_is_reported(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async with SQLStore(postgres_url):
        pass
    name = postgres_url.rpartition("/")[2]
    postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")

    async with SQLStore(postgres_url) as store:
        with pytest.raises(StoreError, match=r"Could not check the sessions .* is read-only"):
            await store.check()


async def test_locked_file_is_reported_until_it_is_free(sqlite_file: Path, sqlite_url: str) -> None:
    async with SQLStore(sqlite_url, timeout=0.1) as store:
        with closing(sqlite3.connect(sqlite_file)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="another program holds the database locked"):
                await store.check()
            assert await store.keys() == []  # who reads need not wait
        await store.check()


async def test_locked_table_is_reported_until_it_is_free(postgres_url: str) -> None:
    async with SQLStore(postgres_url, timeout=0.1) as store:
        with psycopg.connect(postgres_url) as other:
            other.execute(b"LOCK TABLE pathors_schema")
            with pytest.raises(StoreError, match="another program holds the database locked"):
                await store.check()
        await store.check()


async def test_unreachable_server_is_reported() -> None:
    nobody_there = "postgresql://user@127.0.0.1:1/name"

    assert "the database cannot be reached" in await error_of(SQLStore(nobody_there))


async def test_cut_connections_are_opened_again(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async with SQLStore(postgres_url) as store:
        await asyncio.gather(*(store.check() for _ in range(CONNECTIONS)))
        postgres_server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'pathors-agent'"
        )

        await asyncio.gather(*(store.check() for _ in range(CONNECTIONS)))


async def test_statement_that_takes_too_long_is_ended(
    monkeypatch: pytest.MonkeyPatch, url: str, store: SQLStore
) -> None:
    for number in range(10):
        await say(store, UserMessage(content="x" * 5_000_000), id=f"s{number}")

    async with SQLStore(url) as hasty:
        with monkeypatch.context() as impatient:
            impatient.setattr("pathors_agent.stores.database.STATEMENT_SECONDS", 0.02)
            with pytest.raises(StoreError, match="the database took too long"):
                await hasty.search_sessions("project", "x" * 100 + "y", limit=1, offset=0)
        await hasty.check()


async def test_error_contains_nothing_of_the_stored_messages(url: str, store: SQLStore) -> None:
    execute(url, "DROP TABLE pathors_messages")

    with pytest.raises(StoreError) as caught:
        await say(store, UserMessage(content=SECRET))

    assert str(caught.value).startswith("Could not save a turn in ")
    assert "the tables are not as this program made them" in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


# - cancelled work -


async def test_turn_that_fails_in_its_middle_leaves_nothing_of_itself(
    url: str, store: SQLStore
) -> None:
    await say(store, UserMessage(content="before"))
    seen = await store.session("project", "session")
    lease = await store.take_lease("project", "session", holder="test", seconds=60)
    assert lease is not None
    # The third row of what comes finds its place taken.
    execute(url, "INSERT INTO pathors_messages SELECT session, 4, text FROM pathors_messages")

    with pytest.raises(StoreError, match="Could not save a turn"):
        await store.save_turn(lease, [UserMessage(content="x")] * 5, seen=seen)

    assert value(url, "SELECT COUNT(*) FROM pathors_messages") == 2
    assert value(url, "SELECT revision FROM pathors_sessions") == 1


async def test_cancelled_turns_are_whole_or_absent_and_leave_the_store_usable(
    store: SQLStore,
) -> None:
    async def save(number: int) -> None:
        await say(store, *[UserMessage(content="x")] * 10, id=f"s{number}")

    tasks = [asyncio.create_task(save(number)) for number in range(100)]
    for step, task in enumerate(tasks):
        for _ in range(step % 7):
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    await asyncio.gather(*(store.check() for _ in range(2 * CONNECTIONS)))
    page = await store.search_sessions("project", "", limit=200, offset=0)
    assert {len(session.messages) for session in page.items} <= {10}


async def test_scope_that_is_cancelled_leaves_the_store_usable(store: SQLStore) -> None:
    for step in range(40):
        with anyio.move_on_after(step / 2000):
            await say(store, *[UserMessage(content="x")] * 10, id=f"s{step}")

    await asyncio.gather(*(store.check() for _ in range(2 * CONNECTIONS)))
    page = await store.search_sessions("project", "", limit=200, offset=0)
    assert {len(session.messages) for session in page.items} <= {10}


async def test_more_work_than_connections_is_done_in_turn(store: SQLStore) -> None:
    made = await asyncio.gather(
        *(store.create_session("project", f"s{number}", variables={}) for number in range(100))
    )

    assert len({session.incarnation for session in made}) == 100


# - many at once -


async def test_session_is_read_as_it_was_at_one_moment(url: str, store: SQLStore) -> None:
    lease = await store.take_lease("project", "session", holder="test", seconds=60)
    assert lease is not None
    seen = await store.save_turn(lease, [UserMessage(content="x")], seen=None)
    reads: list[Session] = []

    async def read_on() -> None:
        async with SQLStore(url) as other:
            while not reads or reads[-1].revision <= 100:
                reads.append(await other.session("project", "session"))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(read_on())
        for _ in range(100):
            seen = await store.save_turn(lease, [UserMessage(content="x")], seen=seen)

    assert [len(each.messages) for each in reads] == [each.revision for each in reads]


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


async def test_lease_is_not_taken_while_its_holder_stores_a_turn(postgres_url: str) -> None:
    async with SQLStore(postgres_url, timeout=LONG) as store:
        made = await store.create_session("project", "session", variables={})
        lease = await store.take_lease("project", "session", holder="late", seconds=0)
        assert lease is not None
        with psycopg.connect(postgres_url) as other:
            other.execute(b"SELECT * FROM pathors_sessions FOR UPDATE")
            save = store.save_turn(lease, [UserMessage(content="x")], seen=made)
            saving = asyncio.create_task(save)
            await wait_for_waiting(postgres_url, 1)
            take = store.take_lease("project", "session", holder="next", seconds=60)
            taking = asyncio.create_task(take)
            await wait_for_waiting(postgres_url, 2)

        assert (await saving).revision == 1
        assert await taking is not None


async def wait_for_waiting(url: str, many: int) -> None:
    """Wait until so many connections wait for a lock."""
    with anyio.fail_after(LONG):
        while value(url, WAITING) < many:  # noqa: ASYNC110  (a database sends no event)
            await asyncio.sleep(0.01)
