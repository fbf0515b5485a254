"""Durable runs and turns work through pgbouncer in transaction mode."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from live_server import live
from pathors_agent import AsyncAgent, tool
from pathors_agent.durable import DurableAgent
from pathors_agent.server import Project
from pathors_agent.stores import SQLStore
from pathors_agent.testing import AsyncScriptedTransport, calls
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


class Script(AsyncScriptedTransport):
    """A script that goes on in the next worker."""

    def assert_used_up(self) -> None:
        pass


@tool
async def look() -> str:
    """Look."""
    return "seen"


@tool(approve=True)
async def pay() -> str:
    """Pay."""
    return "paid"


def test_runs_of_workers_that_share_two_connections_end(pooled_url: str) -> None:
    script: list[Any] = [calls(("look", {})), "ok"] * RUNS

    async def run() -> list[Any]:
        first: AsyncAgent[str] = AsyncAgent(Script(*script), tools=[look])
        async with DurableAgent(first, database=pooled_url) as durable:
            started = [await durable.start("x", session_id=f"s{n % 3}") for n in range(RUNS)]
            results = await asyncio.gather(*(handle.result() for handle in started))
        second: AsyncAgent[str] = AsyncAgent(Script(calls(("pay", {})), "paid"), tools=[pay])
        queued = DurableAgent(second, database=pooled_url, name="second", queue="q")
        async with queued as durable, durable.working(poll=0.1):
            handle = await durable.start("pay", id="p")
            await handle.result()
            [approval] = await durable.approvals("p")
            await durable.approve("p", approval)
            return [*results, await handle.result()]

    outputs = [str(result.status) for result in asyncio.run(run())]

    assert outputs == ["finished"] * (RUNS + 1)


def test_durable_turns_are_served_through_a_pooler(pooled_url: str) -> None:
    script: list[Any] = [calls(("look", {})), "ok"] * RUNS
    project = Project(id="demo", transport=Script(*script), tools=[look])
    with live(project, store=SQLStore(pooled_url), runs=pooled_url) as server:
        answers = [server.complete("Hi", session="s1").status_code for _ in range(RUNS)]

        assert answers == [200] * RUNS
        assert len(server.stored("s1")) == 4 * RUNS
