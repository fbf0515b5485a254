"""A stopped tool gives its database connection back: SQLAlchemy and asyncpg on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic

import psycopg
import pytest
from sqlalchemy import QueuePool, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from pathors_agent import Agent, AsyncAgent, RunResult, ToolMessage, tool
from pathors_agent.testing import AsyncScriptedTransport, Entry, ScriptedTransport, calls
from pathors_agent.tools.tool import Tool, as_tool
from servers import PATIENCE_SECONDS

# Enough for a query to begin on a busy machine.
SHORT = 0.5
SLEEP = "SELECT pg_sleep(600)"

Query = Callable[[AsyncEngine], Awaitable[object]]


async def in_a_transaction(engine: AsyncEngine) -> object:
    async with engine.begin() as connection:
        return await connection.execute(text(SLEEP))


async def in_a_session(engine: AsyncEngine) -> object:
    async with AsyncSession(engine) as session, session.begin():
        return await session.execute(text(SLEEP))


async def in_a_session_that_is_closed_by_hand(engine: AsyncEngine) -> object:
    session = AsyncSession(engine)
    try:
        return await session.execute(text(SLEEP))
    finally:
        await session.rollback()
        await session.close()


QUERIES = pytest.mark.parametrize(
    "query", [in_a_transaction, in_a_session, in_a_session_that_is_closed_by_hand]
)


def waiting_tool(query: Query, engine: AsyncEngine, timeout: float | None = None) -> Tool:
    @tool(timeout=timeout)
    async def look_up() -> str:
        """Look something up that takes ten minutes."""
        return str(await query(engine))

    return as_tool(look_up)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
    try:
        yield engine
    finally:
        await engine.dispose()


def active(url: str) -> int:
    """Count the queries that other connections run, once those that end have ended."""
    until = monotonic() + PATIENCE_SECONDS
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            [found] = connection.execute(ACTIVE).fetchone() or (0,)
            if not found or monotonic() > until:
                return int(found)


ACTIVE = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
"""


def outcomes(result: RunResult[str]) -> list[str]:
    return [m.outcome for m in result.messages if isinstance(m, ToolMessage)]


FOUR_CALLS = calls(*[("look_up", {})] * 4)


@QUERIES
def test_calls_that_time_out_leave_no_query_active_and_no_connection_taken(
    postgres_url: str, query: Query
) -> None:
    async def run() -> tuple[list[str], int, int]:
        async with opened(postgres_url) as engine:
            transport = AsyncScriptedTransport(FOUR_CALLS, "Done.")
            agent = AsyncAgent(transport, tools=[waiting_tool(query, engine, timeout=SHORT)])
            result = await agent.run("Look it up.")
            return outcomes(result), active(postgres_url), taken(engine)

    assert asyncio.run(run()) == (["timeout"] * 4, 0, 0)


def test_run_that_is_cancelled_leaves_no_query_active_and_no_connection_taken(
    postgres_url: str,
) -> None:
    async def run() -> tuple[int, int]:
        async with opened(postgres_url) as engine:
            tools = [waiting_tool(in_a_transaction, engine)]
            agent = AsyncAgent(AsyncScriptedTransport(FOUR_CALLS), tools=tools)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(agent.run("Look it up."), SHORT)
            return active(postgres_url), taken(engine)

    assert asyncio.run(run()) == (0, 0)


def test_blocking_agent_uses_one_pool_in_four_runs_and_leaves_no_query_active(
    postgres_url: str,
) -> None:
    engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:"))

    @tool
    async def close() -> None:
        """Close the pool, on the event loop that it belongs to."""
        await engine.dispose()

    tools = [waiting_tool(in_a_transaction, engine, timeout=SHORT), as_tool(close)]
    script: list[Entry] = [calls(("look_up", {})), "Done."] * 4
    transport = ScriptedTransport(*script, calls(("close", {})), "Closed.")

    with Agent(transport, tools=tools) as agent:
        ended = [outcomes(agent.run("Look it up.")) for _ in range(4)]
        left = taken(engine)
        closed = outcomes(agent.run("Close it."))

    assert (ended, closed) == ([["timeout"]] * 4, ["value"])
    assert (active(postgres_url), left) == (0, 0)


def taken(engine: AsyncEngine) -> int:
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()
