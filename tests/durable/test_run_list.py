"""Lists of runs: filtered, counted and cut into pages by the database."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from pathors_agent import AsyncAgent, Limits, Tool, tool
from pathors_agent.durable import DurableAgent, RunFailed
from pathors_agent.durable.run_list import STATUSES, RunFilter
from pathors_agent.testing import AsyncScriptedTransport, calls, http_error

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The engine runs on asyncio."""
    return "asyncio"


@tool(approve=True)
async def pay(cents: int) -> str:
    return f"paid {cents}"


@tool
async def look() -> str:
    return "nothing"


ASK = Tool(name="ask_user", description="Ask the user.")


def agent(*script: Any, **options: Any) -> AsyncAgent[Any]:
    return AsyncAgent(AsyncScriptedTransport(*script), tools=[pay, look, ASK], **options)


@pytest.fixture
async def stored(database: str) -> AsyncIterator[DurableAgent[Any]]:
    """Store runs of each status, in two queues and of two agents, and open them to be listed."""
    worker = DurableAgent(
        agent(
            "fine",
            calls(("pay", {"cents": 1})),
            calls(("pay", {"cents": 2})),
            http_error(400, "bad"),
            calls(("look", {})),
            calls(("ask_user", {})),
            "again",
            limits=Limits(turns=1),
        ),
        database=database,
        queue="main",
    )
    async with worker, worker.working(poll=0.05):
        for name in ("finished", "suspended", "cancelled", "failed", "limited", "asks"):
            handle = await worker.start("go", id=name, session_id=f"session-of-{name}")
            try:
                await handle.result()
            except RunFailed:
                assert name == "failed"
        await worker.cancel("cancelled")
        await (await worker.send("session-of-finished", "more", id="second")).result()
        with pytest.raises(RunFailed, match="cancelled"):
            await (await worker.get("cancelled")).result()
    async with DurableAgent(agent(), database=database, queue="later") as waiting:
        await waiting.start("go", id="queued", session_id="session-of-queued")
    other = DurableAgent(agent(), database=database, name="other", queue="main")
    async with other:
        await other.start("go", id="of-another-agent")
    async with DurableAgent(agent(), database=database, queue="main") as durable:
        yield durable


async def test_each_status_session_and_queue_is_found_by_the_database(
    stored: DurableAgent[Any],
) -> None:
    whole = await stored.list()

    assert [(run.id, run.status, run.segments, run.queue) for run in whole] == [
        ("queued", "queued", 1, "later"),
        ("second", "finished", 1, "main"),
        ("cancelled", "cancelled", 2, "main"),
        ("asks", "suspended", 1, "main"),
        ("limited", "limit_reached", 1, "main"),
        ("failed", "failed", 1, "main"),
        ("suspended", "suspended", 1, "main"),
        ("finished", "finished", 1, "main"),
    ]
    assert whole.total == 8
    sessions = (None, "session-of-finished", "session-of-queued", "nothing")
    for status, session, queue in product((None, *STATUSES), sessions, (None, "main", "later")):
        found = await stored.list(status=status, session_id=session, queue=queue)
        assert [run.id for run in found] == [
            run.id
            for run in whole
            if status in (None, run.status)
            and session in (None, run.session_id)
            and queue in (None, run.queue)
        ]
        assert found.total == len(found)


async def test_pages_and_times_cut_the_list(stored: DurableAgent[Any]) -> None:
    whole = await stored.list()

    pages = [await stored.list(limit=3, offset=offset) for offset in (0, 3, 6, 9)]
    assert [run for page in pages for run in page] == [*whole]
    assert [(len(page), page.total) for page in pages] == [(3, 8), (3, 8), (2, 8), (0, 8)]
    middle = whole[4].created_at
    since = await stored.list(since=middle)
    until = await stored.list(until=middle)
    assert [*since, *until] == [*whole]
    assert whole[4] in since
    hours = timedelta(hours=1)
    assert middle.tzinfo is UTC
    assert len(await stored.list(since=middle + hours)) == 0
    assert all(run.ended_at and run.ended_at >= run.created_at for run in whole[1:])


async def test_all_agents_are_listed_without_a_name(stored: DurableAgent[Any]) -> None:
    everything = await stored.runs.page(RunFilter(), limit=100)
    others = await stored.runs.page(RunFilter(agent="other"), limit=100)

    assert everything.total == 9
    assert [(run.id, run.agent) for run in others] == [("of-another-agent", "other")]


WRONG_NUMBERS: list[Any] = [-1, 2**63, 10**30, 1.5, "5", True, None]


async def test_values_that_match_nothing_by_mistake_are_refused(tmp_path: Path) -> None:
    async with DurableAgent(agent(), database=f"sqlite:///{tmp_path / 'runs.db'}") as durable:
        with pytest.raises(ValueError, match="status must be one of queued, running, suspended"):
            await durable.list(status="done")  # type: ignore[arg-type]  # a mistake
        with pytest.raises(ValueError, match="since must have a time zone"):
            await durable.list(since=datetime(2026, 1, 1))  # noqa: DTZ001
        with pytest.raises(ValueError, match="until must be a datetime, not '2026-01-01'"):
            await durable.list(until="2026-01-01")  # type: ignore[arg-type]  # a mistake
        for number in WRONG_NUMBERS:
            with pytest.raises(ValueError, match="limit must be a whole number from 0 to 2"):
                await durable.list(limit=number)
            with pytest.raises(ValueError, match="offset must be a whole number from 0 to 2"):
                await durable.list(offset=number)
