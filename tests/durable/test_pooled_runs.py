"""Durable runs and turns work through pgbouncer in transaction mode."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest

from live_server import live
from pathors_agent import AsyncAgent, tool
from pathors_agent.durable import DurableAgent
from pathors_agent.server import Project
from pathors_agent.stores import SQLStore
from pathors_agent.testing import AsyncScriptedTransport, calls
from pathors_agent.testing.script import Entry
from pathors_agent.testing.scripted_transport import AsyncPlayerTransport
from pathors_agent.wire.profiles import DEFAULT_PROFILE
from pgbouncer import find_pgbouncer, running_pgbouncer
from postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RUNS = 12


@pytest.fixture
def pooled_url(postgres_server: PostgresServer, postgres_url: str) -> Iterator[str]:
    """Return the URL of an empty database, through a pooler with two connections to it."""
    program = find_pgbouncer()
    if program is None:
        pytest.skip("pgbouncer is not installed")
    with running_pgbouncer(program, postgres_server, connections=2) as pooler:
        yield pooler.url(postgres_url.rpartition("/")[2])


class Looks(AsyncPlayerTransport):
    """A model that calls `look`, and answers when it has its result."""

    def __init__(self) -> None:
        super().__init__(cut=None, profile=DEFAULT_PROFILE)

    def _entry(self, number: int, body: Mapping[str, Any]) -> Entry:
        has_result = body["messages"][-1]["role"] == "tool"
        return "ok" if has_result else calls(("look", {}))


@tool
async def look() -> str:
    """Look."""
    return "seen"


@tool(approve=True)
async def pay() -> str:
    """Pay."""
    return "paid"


def test_runs_of_workers_that_share_two_connections_end(pooled_url: str) -> None:
    async def run() -> list[Any]:
        first: AsyncAgent[str] = AsyncAgent(Looks(), tools=[look])
        async with DurableAgent(first, database=pooled_url) as durable:
            started = [await durable.start("x", session_id=f"s{n % 3}") for n in range(RUNS)]
            results = await asyncio.gather(*(handle.result() for handle in started))
        second: AsyncAgent[str] = AsyncAgent(
            AsyncScriptedTransport(calls(("pay", {})), "paid"), tools=[pay]
        )
        queued = DurableAgent(second, database=pooled_url, name="second", queue="q")
        async with queued as durable, durable.working(poll=0.1):
            handle = await durable.start("pay", id="p")
            await handle.result()
            [approval] = await durable.approvals("p")
            await durable.approve("p", approval)
            return [*results, await handle.result()]

    outputs = [str(result.status) for result in asyncio.run(run())]

    assert outputs == ["finished"] * (RUNS + 1)


def setting(url: str, name: str) -> str:
    with psycopg.connect(url, autocommit=True) as other:
        row = other.execute(f"SHOW {name}".encode()).fetchone()
        assert row is not None
        return str(row[0])


@pytest.mark.parametrize(
    "name", ["idle_in_transaction_session_timeout", "statement_timeout", "search_path"]
)
def test_settings_of_shared_sessions_stay_as_they_were(pooled_url: str, name: str) -> None:
    async def use() -> set[str]:
        agent: AsyncAgent[str] = AsyncAgent(AsyncScriptedTransport("Hello."))
        async with DurableAgent(agent, database=pooled_url) as durable:
            await (await durable.start("Hi.")).result()
            asked = [asyncio.to_thread(setting, pooled_url, name) for _ in range(8)]
            return set(await asyncio.gather(*asked))

    before = setting(pooled_url, name)

    assert asyncio.run(use()) == {before}


def test_durable_turns_are_served_through_a_pooler(pooled_url: str) -> None:
    project = Project(id="demo", transport=Looks(), tools=[look])
    with live(project, store=SQLStore(pooled_url), runs=pooled_url) as server:
        answers = [server.complete("Hi", session="s1").status_code for _ in range(RUNS)]

        assert answers == [200] * RUNS
        assert len(server.stored("s1")) == 4 * RUNS
