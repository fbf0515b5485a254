"""When runs start, with which context, and by programs that know only the agent's name."""

import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import stored_runs
from pathors_agent import Tool, ToolContext, tool
from pathors_agent.core.run import Status
from pathors_agent.durable import DurableAgent, RunExists, RunFailed
from pathors_agent.durable.engine import STATUS, sql
from pathors_agent.errors import InvalidSetting
from pathors_agent.testing import calls

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

Open = Callable[..., AbstractAsyncContextManager[DurableAgent[Any]]]


@pytest.fixture
def opened(database: str) -> Open:
    return partial(stored_runs.opened, database)


def pass_time(durable: DurableAgent[Any]) -> None:
    """Move the starts of delayed runs an hour closer."""
    closer = STATUS.c.delay_until_epoch_ms - 3_600_000
    with sql(durable.runs.client).begin() as connection:
        connection.execute(sa.update(STATUS).values(delay_until_epoch_ms=closer))


@pytest.mark.parametrize("when", ["delay", "at"])
async def test_delayed_run_waits_until_its_time(opened: Open, when: str) -> None:
    half_an_hour = timedelta(minutes=30)
    options: dict[str, Any] = (
        {"delay": half_an_hour.total_seconds()}
        if when == "delay"
        else {"at": datetime.now(UTC) + half_an_hour}
    )
    async with opened("now", "later") as durable:
        later = await durable.start("later", **options)
        now = await durable.start("now")

        assert (await now.result()).output == "now"
        assert await later.status() == "queued"
        pass_time(durable)
        assert (await later.result()).output == "later"


async def test_time_in_the_past_starts_at_once(opened: Open) -> None:
    async with opened("done") as durable:
        handle = await durable.start("go", at=datetime.now(UTC) - timedelta(days=1))

        assert (await handle.result()).output == "done"


async def test_delayed_run_can_be_cancelled(opened: Open) -> None:
    async with opened("never") as durable:
        handle = await durable.start("later", delay=3600, id="run")
        await durable.cancel("run")
        with pytest.raises(Exception, match="cancelled"):
            await handle.result()


@pytest.mark.parametrize(
    "options",
    [
        {"delay": -1},
        {"delay": math.nan},
        {"delay": math.inf},
        {"at": datetime(2030, 1, 1)},  # noqa: DTZ001  (the test's subject)
        {"at": datetime(9999, 1, 1, tzinfo=UTC)},
        {"delay": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)},
        {"delay": "5"},
        {"at": "2030-01-01"},
        {"id": 5},
        {"context": {"key": object()}},
        {"context": math.nan},
    ],
    ids=[
        *("negative", "nan", "infinite", "without a zone", "too far", "delay and time"),
        *("text as delay", "text as time", "number as id"),
        *("context with an object", "context with nan"),
    ],
)
async def test_impossible_start_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    async with stored_runs.opened(database, queue="q") as durable:
        with pytest.raises(InvalidSetting):
            await durable.start("go", **options)
        assert len(await durable.list()) == 0


async def test_context_of_a_run_reaches_its_tools_in_every_segment(opened: Open) -> None:
    seen: list[object] = []

    @tool
    async def look(context: ToolContext) -> str:
        seen.append(context.context)
        return "nothing"

    @tool(approve=True)
    async def pay(context: ToolContext) -> str:
        seen.append(context.context)
        return "paid"

    script = [calls(("look", {}), ("pay", {})), "done", calls(("look", {})), "done"]
    async with opened(*script, tools=[look, pay], context="the agent's") as durable:
        handle = await durable.start("pay", id="run", context={"user": "ada"})
        await handle.result()
        [approval] = await durable.approvals("run")
        await durable.approve("run", approval)
        await handle.result()
        await (await durable.start("look")).result()
        with pytest.raises(RunExists, match="context"):
            await durable.start("pay", id="run", context={"user": "bob"})

    assert seen == [{"user": "ada"}, {"user": "ada"}, "the agent's"]


async def test_client_that_knows_the_name_starts_and_decides(database: str, opened: Open) -> None:
    paid: list[int] = []

    @tool(approve=True)
    async def pay(cents: int) -> str:
        paid.append(cents)
        return f"paid {cents}"

    ask = Tool(name="ask", description="Ask the user.")
    script = [calls(("pay", {"cents": 5})), calls(("ask", {})), "done"]
    client: DurableAgent[Any]
    async with (
        opened(*script, tools=[pay, ask], queue="q", version="7") as durable,
        durable.working(poll=0.05),
        DurableAgent.client("agent", database=database) as client,
    ):
        handle = await client.start("pay", id="run", context=1)
        waiting_for_approval = await handle.result()
        [approval] = await client.approvals("run")
        await client.approve("run", approval)
        waiting = await handle.result()
        [call] = waiting.open_calls
        await client.answer("run", {call.id: "yes"})
        result = await handle.result()
        [run] = await client.list()

        assert approval == waiting_for_approval.approvals[0]
        assert (waiting.status, result.output, paid) == (Status.SUSPENDED, "done", [5])
        assert (run.queue, run.version, run.segments) == ("q", "7", 3)
        with pytest.raises(InvalidSetting, match="carries out no runs"):
            async with client.working():
                pass


async def test_client_of_an_unknown_agent_gets_an_error(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    async with DurableAgent.client("nobody", database=database) as client:
        with pytest.raises(InvalidSetting, match="no worker of an agent 'nobody'"):
            await client.start("go")


async def test_client_of_a_misspelt_agent_reads_the_names_of_agents(
    database: str, opened: Open
) -> None:
    client: DurableAgent[Any]
    async with opened("done") as durable, durable.working():
        async with DurableAgent.client("agnet", database=database) as client:
            with pytest.raises(InvalidSetting, match=r"agents with workers: agent\)$"):
                await client.start("go")


async def test_client_cancels_a_run_that_waits(database: str, opened: Open) -> None:
    ask = Tool(name="ask", description="Ask the user.")
    client: DurableAgent[Any]
    async with (
        opened(calls(("ask", {})), tools=[ask], queue="q") as durable,
        durable.working(poll=0.05),
        DurableAgent.client("agent", database=database) as client,
    ):
        handle = await client.start("go", id="run")
        await handle.result()
        await client.cancel("run")
        with pytest.raises(RunFailed, match="cancelled"):
            await handle.result()
