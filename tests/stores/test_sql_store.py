"""What databases add: URLs, versions of tables, failures, cancelled work, and what is left over."""

import re
import sqlite3
import subprocess
import sys
import traceback
import tracemalloc
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from pathors_agent.errors import SessionConflict, StoreError
from pathors_agent.messages import AssistantMessage, UserMessage
from pathors_agent.server import make_key
from pathors_agent.stores import RequestId, SQLStore, StoredKey, data_text, now, tables
from postgres import PostgresServer
from sql_stores import error_of, execute, say, value

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]

REQUEST = RequestId(project="project", api_key="key", name="request")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """SQLAlchemy runs on asyncio."""
    return "asyncio"


VERSION = "SELECT version FROM pathors_schema"


# - URLs -


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite"])
async def test_sqlite_url_may_be_spelled(scheme: str, sqlite_file: Path) -> None:
    async with SQLStore(f"{scheme}:///{sqlite_file}") as store:
        await store.check()

    assert repr(store) == f"SQLStore('sqlite:///{sqlite_file}')"


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg_async"]
)
async def test_postgresql_url_may_be_spelled(scheme: str, postgres_url: str) -> None:
    async with SQLStore(postgres_url.replace("postgresql", scheme, 1)) as store:
        await store.check()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sessions.db",
        "mysql://user:s3cret@localhost/name",
        "postgresql+asyncpg://user:s3cret@localhost/name",
        "postgresql://user:pa@s3cret@localhost/name",
        "postgresql://user@localhost:s3cret/name",
    ],
)
def test_url_of_no_known_database_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(StoreError, match=r"must be like sqlite:///sessions\.db or") as caught:
        SQLStore(url)

    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///x?mode=memory"])
def test_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match=r"use MemoryStore\(\)"):
        SQLStore(url)


async def test_password_is_nowhere(postgres_server: PostgresServer) -> None:
    port = postgres_server.port
    store = SQLStore(f"postgres://user:s3cret@127.0.0.1:{port}/none?sslpassword=s3cret")

    with pytest.raises(StoreError) as caught:
        async with store:
            pass

    shown = f"postgresql://user@127.0.0.1:{port}/none"
    assert repr(store) == f"SQLStore('{shown}')"
    assert str(caught.value).startswith(f"Could not open the sessions in {shown}: ")
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


async def test_database_made_as_the_docs_say_is_one(postgres_server: PostgresServer) -> None:
    page = (ROOT / "docs" / "howto" / "use-postgres.md").read_text()
    for statement in re.findall(r"^CREATE .*;$", page, re.MULTILINE):
        postgres_server.execute(statement)

    async with SQLStore(f"postgresql://agents@127.0.0.1:{postgres_server.port}/agents") as store:
        await store.check()


async def test_new_file_is_for_its_owner_only(sqlite_file: Path, sqlite_url: str) -> None:
    async with SQLStore(sqlite_url) as store:
        await say(store, UserMessage(content="x"))
        modes = {path.name: path.stat().st_mode & 0o777 for path in sqlite_file.parent.iterdir()}

    assert modes == {"sessions.db": 0o600, "sessions.db-wal": 0o600, "sessions.db-shm": 0o600}


# - versions -


async def test_newer_tables_are_refused(url: str) -> None:
    async with SQLStore(url):
        pass
    execute(url, "UPDATE pathors_schema SET version = 99")

    said = await error_of(SQLStore(url))

    assert "has version 99 of the tables" in said
    assert "install the newer pathors-agent" in said


async def test_tables_from_before_the_first_release_are_refused(url: str) -> None:
    async with SQLStore(url):
        pass
    execute(url, "UPDATE pathors_schema SET version = 1")

    assert "older than the first release" in await error_of(SQLStore(url))
    assert value(url, VERSION) == 1


async def test_tables_of_version_2_get_titles(url: str) -> None:
    async with SQLStore(url) as store:
        await say(store, UserMessage(content="x"))
    execute(url, "ALTER TABLE pathors_sessions DROP COLUMN title")
    execute(url, "UPDATE pathors_schema SET version = 2")

    async with SQLStore(url) as store:
        assert (await store.session("project", "session")).revision == 1
        assert await store.rename_session("project", "session", "Greetings")
        page = await store.list_sessions("project", limit=10, offset=0)

    assert [entry.title for entry in page.items] == ["Greetings"]
    assert value(url, VERSION) == 3


STEP = "ALTER TABLE pathors_keys ADD COLUMN colour TEXT"


async def test_older_tables_are_brought_to_this_version(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    async with SQLStore(url) as store:
        await say(store, UserMessage(content="x"))
    monkeypatch.setattr(tables, "UPGRADES", (*tables.UPGRADES, (STEP,)))

    for _ in range(2):
        async with SQLStore(url) as store:
            assert (await store.session("project", "session")).revision == 1

    assert [value(url, sql) for sql in (VERSION, "SELECT count(colour) FROM pathors_keys")] == [
        4,
        0,
    ]


async def test_step_that_fails_leaves_the_older_tables(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    async with SQLStore(url):
        pass
    with monkeypatch.context() as newer:
        failing = (STEP, "CREATE TABLE pathors_keys (x TEXT)")
        newer.setattr(tables, "UPGRADES", (*tables.UPGRADES, failing))
        assert "Could not open the sessions" in await error_of(SQLStore(url))

    async with SQLStore(url) as store:
        await store.check()
    assert value(url, VERSION) == 3
    execute(url, STEP)  # it was taken back


async def test_sessions_are_there_when_the_store_is_opened_again(url: str) -> None:
    async with SQLStore(url) as store:
        await say(store, UserMessage(content="x"))
        before = await store.session("project", "session")

    async with SQLStore(url) as store:
        assert await store.session("project", "session") == before


async def test_file_of_another_program_is_left_alone(sqlite_url: str) -> None:
    execute(sqlite_url, "CREATE TABLE bookmarks (name TEXT)")

    assert "belongs to another program" in await error_of(SQLStore(sqlite_url))
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        value(sqlite_url, VERSION)


async def test_database_may_hold_tables_of_others(postgres_url: str) -> None:
    execute(postgres_url, "CREATE TABLE sessions (name TEXT)")

    async with SQLStore(postgres_url) as store:
        await say(store, UserMessage(content="x"))


async def test_database_that_lacks_characters_is_refused(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    name = f"{postgres_url.rpartition('/')[2]}_latin"
    postgres_server.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0")

    assert "make it with ENCODING 'UTF8'" in await error_of(SQLStore(postgres_server.url(name)))


# - what is left over -


async def test_ended_session_is_in_no_file(sqlite_file: Path, sqlite_url: str) -> None:
    async with SQLStore(sqlite_url) as store:
        await store.create_session("project", "other", variables={})
        await store.begin_request(REQUEST, "digest", seconds=60)
        lease = await store.take_lease("project", "session", holder="test", seconds=60)
        assert lease is not None
        made = await store.create_session("project", "session", variables={"a": "swordfish"})
        long = UserMessage(content="swordfish" * 10_000)
        await store.save_turn(lease, [long], seen=made, request=REQUEST, answer="swordfish")

        await store.end_session("project", "session")

        files = {path.name: path.read_bytes() for path in sqlite_file.parent.iterdir()}
        assert {name: b"swordfish" in content for name, content in files.items()} == {
            "sessions.db": False,
            "sessions.db-wal": False,
            "sessions.db-shm": False,
        }


async def test_answer_is_kept_for_a_day(url: str, store: SQLStore) -> None:
    await store.begin_request(REQUEST, "digest", seconds=60)
    lease = await store.take_lease("project", "session", holder="test", seconds=60)
    assert lease is not None
    await store.save_turn(
        lease, [UserMessage(content="x")], seen=None, request=REQUEST, answer="{}"
    )
    hour = 3_600_000

    execute(url, f"UPDATE pathors_requests SET until = until - {23 * hour}")
    assert (await store.begin_request(REQUEST, "digest", seconds=60)).state == "finished"
    execute(url, f"UPDATE pathors_requests SET until = until - {hour}")
    assert (await store.begin_request(REQUEST, "other", seconds=60)).state == "begun"


async def test_old_answers_are_deleted_some_at_a_time(url: str, store: SQLStore) -> None:
    for number in range(25):
        await store.begin_request(
            RequestId(project="project", api_key="key", name=f"{number}"), "digest", seconds=60
        )
    execute(url, "UPDATE pathors_requests SET until = 0, answer = '{}'")

    counts = []
    for number in range(100, 104):
        request = RequestId(project="project", api_key="key", name=f"{number}")
        await store.begin_request(request, "digest", seconds=60)
        counts.append(value(url, "SELECT count(*) FROM pathors_requests"))

    assert counts == [16, 7, 3, 4]


@pytest.mark.parametrize(("ahead", "over"), [("30000", False), ("3600000", True)])
async def test_lease_from_before_the_clock_was_put_back_ends(
    url: str, store: SQLStore, ahead: str, over: bool
) -> None:
    await store.take_lease("project", "session", holder="first", seconds=5)
    execute(url, f"UPDATE pathors_leases SET until = until + {ahead}")

    second = await store.take_lease("project", "session", holder="second", seconds=5)

    assert (second is not None) == over


async def test_update_is_never_before_the_one_before(url: str, store: SQLStore) -> None:
    made = await store.create_session("project", "session", variables={})
    execute(url, "UPDATE pathors_sessions SET updated_at = updated_at + 3600000")
    lease = await store.take_lease("project", "session", holder="test", seconds=60)
    assert lease is not None

    saved = await store.save_turn(lease, [UserMessage(content="x")], seen=made)

    assert (saved.updated_at - made.updated_at).total_seconds() == 3600


async def test_search_through_long_sessions_needs_no_memory(store: SQLStore) -> None:
    for number in range(10):
        await say(store, UserMessage(content="x" * 1_000_000), id=f"s{number}")

    tracemalloc.start()
    try:
        page = await store.search_sessions("project", "xy", limit=10, offset=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert page.total == 0
    assert peak < 1_000_000


async def test_messages_are_searched_in_their_order(store: SQLStore) -> None:
    said = tuple(UserMessage(content=f"{number}") for number in range(120))
    await say(store, *said)

    page = await store.search_sessions("project", data_text({}, said), limit=10, offset=0)

    assert [session.messages for session in page.items] == [said]


async def test_keys_are_set_up_on_a_store_that_is_not_open(url: str) -> None:
    store = SQLStore(url)
    _, key = make_key("demo")

    await store.add_key(key)
    assert [each.id for each in await store.keys("demo")] == [key.id]
    async with store:
        assert await store.find_key(key.digest) == key
    assert await store.revoke_key("demo", key.id)
    with pytest.raises(StoreError, match=r"not open: use it inside `async with store:`"):
        await store.session("demo", "s1")


async def test_key_is_added_once(store: SQLStore) -> None:
    key = StoredKey(
        id="k1", project="project", digest="d1gest", prefix="sk_a", last_four="z", created_at=now()
    )
    await store.add_key(key)

    with pytest.raises(StoreError, match=r"Could not add a key .* has it already") as caught:
        await store.add_key(replace(key, id="k2"))

    assert "d1gest" not in "".join(traceback.format_exception(caught.value))


async def test_two_stores_at_one_database_see_each_other(url: str, store: SQLStore) -> None:
    async with SQLStore(url) as other:
        lease = await store.take_lease("project", "session", holder="one", seconds=60)
        assert lease is not None
        assert await other.take_lease("project", "session", holder="two", seconds=60) is None
        seen = await other.save_turn(lease, [UserMessage(content="x")], seen=None)
        assert await store.session("project", "session") == seen
        await other.end_session("project", "session")
        with pytest.raises(SessionConflict):
            await store.save_turn(lease, [AssistantMessage(content="y")], seen=seen)


# - extras -


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "extra", "url"),
    [
        ("sqlalchemy", "sql", "sqlite:///x.db"),
        ("psycopg", "postgres", "postgresql://user@localhost/name"),
    ],
)
def test_missing_package_is_named_with_its_extra(missing: str, extra: str, url: str) -> None:
    program = f"""
import asyncio, sys
sys.modules[{missing!r}] = None
async def main():
    from pathors_agent.stores import SQLStore
    async with SQLStore({url!r}): pass
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert f"pip install 'pathors-agent[{extra}]'" in done.stderr.splitlines()[-1]


def test_requests_of_two_keys_under_one_name_are_apart(tmp_path: Path) -> None:
    one, other = (RequestId(project="p", api_key=key, name="r1") for key in ("key_1", "key_2"))

    async def forget_one() -> str:
        async with SQLStore(f"sqlite:///{tmp_path}/sessions.db") as store:
            for request in (one, other):
                assert (await store.begin_request(request, "digest", seconds=60)).state == "begun"
            await store.forget_request(other)
            return (await store.begin_request(one, "digest", seconds=60)).state

    assert anyio.run(forget_one) == "running"
