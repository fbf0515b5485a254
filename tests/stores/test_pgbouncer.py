"""A store works through pgbouncer in transaction mode, and leaves nothing in shared sessions."""

import asyncio
from collections.abc import Iterator

import anyio
import psycopg
import pytest

from pathors_agent.errors import StoreError
from pathors_agent.messages import UserMessage
from pathors_agent.stores import SQLStore
from pathors_agent.testing import check_store
from pgbouncer import find_pgbouncer, running_pgbouncer
from postgres import PostgresServer

pytestmark = pytest.mark.slow


@pytest.fixture
def pooled_url(postgres_server: PostgresServer, postgres_url: str) -> Iterator[str]:
    """Return the URL of an empty database, through a pooler that has one connection to it."""
    program = find_pgbouncer()
    if program is None:
        pytest.skip("pgbouncer is not installed")
    with running_pgbouncer(program, postgres_server, connections=1) as pooler:
        yield pooler.url(postgres_url.rpartition("/")[2])


def setting(url: str, name: str) -> str:
    """Ask for a setting, as another program whose transaction gets the shared session."""
    # psycopg itself prepares nothing before a statement is repeated.
    with psycopg.connect(url, autocommit=True) as other:
        row = other.execute(f"SHOW {name}".encode()).fetchone()
        assert row is not None
        return str(row[0])


def test_pooled_store_follows_every_rule(pooled_url: str) -> None:
    anyio.run(check_store, lambda: SQLStore(pooled_url))


def test_stores_that_share_one_session_repeat_their_statements(pooled_url: str) -> None:
    async def save(store: SQLStore, name: str) -> None:
        for number in range(15):  # psycopg prepares a statement at its fifth time
            lease = await store.take_lease("p", f"{name}-{number}", holder=name, seconds=60)
            assert lease is not None
            await store.save_turn(lease, [UserMessage(content="x")], seen=None, drop=True)

    async def save_all() -> int:
        async with SQLStore(pooled_url) as one, SQLStore(pooled_url) as two:
            stores = [one, two] * 3
            await asyncio.gather(*(save(store, f"w{n}") for n, store in enumerate(stores)))
            return (await one.list_sessions("p", limit=1, offset=0)).total

    assert anyio.run(save_all) == 90


@pytest.mark.parametrize(
    "name",
    [
        "lock_timeout",
        "statement_timeout",
        "idle_in_transaction_session_timeout",
        "default_transaction_isolation",
        "default_transaction_read_only",
    ],
)
def test_settings_of_a_shared_session_stay_as_they_were(pooled_url: str, name: str) -> None:
    before = setting(pooled_url, name)

    async def use() -> str:
        async with SQLStore(pooled_url) as store:
            await store.create_session("p", "s", variables={})
            await store.search_sessions("p", "x", limit=1, offset=0)
            return await asyncio.to_thread(setting, pooled_url, name)

    assert anyio.run(use) == before


def test_statement_through_a_pooler_is_bounded(
    pooled_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def search() -> None:
        async with SQLStore(pooled_url) as store:
            for number in range(10):
                lease = await store.take_lease("p", f"s{number}", holder="x", seconds=60)
                assert lease is not None
                message = UserMessage(content="x" * 5_000_000)
                await store.save_turn(lease, [message], seen=None)
            monkeypatch.setattr("pathors_agent.stores.database.STATEMENT_SECONDS", 0.02)
            await store.search_sessions("p", "x" * 100 + "y", limit=1, offset=0)

    with pytest.raises(StoreError, match="the database took too long"):
        anyio.run(search)
