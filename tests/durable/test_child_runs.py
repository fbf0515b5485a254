"""An agent as a tool of a durable agent is a durable run of its own."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pathors_agent import AsyncAgent, ToolContext, ToolMessage, tool
from pathors_agent.durable import DurableAgent, RunFailed
from pathors_agent.durable.worker import Worker
from pathors_agent.testing import calls
from stored_runs import Script

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

ASK = calls(("writer", {"prompt": "pay for it"}))


class Story:
    """An outer agent with an inner one that pays with a person's approval."""

    def __init__(self) -> None:
        self.paid: list[object] = []
        self.inner = Script(calls(("pay", {})), "paid for")
        self.outer = Script(ASK, "done")

        @tool(approve=True)
        async def pay(context: ToolContext) -> str:
            self.paid.append(context.context)
            return "paid"

        self._pay = pay

    @asynccontextmanager
    async def working(self, database: str) -> AsyncIterator[DurableAgent[Any]]:
        writer = AsyncAgent(self.inner, tools=[self._pay])
        agent = AsyncAgent(self.outer, tools=[writer.as_tool("writer", "Writes.")])
        async with DurableAgent(agent, database=database, queue="q") as durable:
            async with durable.working(poll=0.05, stop_seconds=0):
                yield durable


async def suspended_child(client: DurableAgent[Any]) -> str:
    """Wait for the run of the inner agent, and return its id."""
    while not (runs := await client.list(status="suspended")):  # noqa: ASYNC110  (no event rings)
        await asyncio.sleep(0.05)
    return runs[0].id


async def test_run_waits_for_the_approval_of_its_sub_agent_over_a_restart(database: str) -> None:
    story = Story()
    children: DurableAgent[Any]
    async with DurableAgent.client("agent.writer", database=database) as children:
        async with story.working(database) as durable:
            handle = await durable.start("go", id="run", context={"user": "ada"})
            child = await suspended_child(children)
            assert await handle.status() == "running"
        async with story.working(database) as durable:
            [approval] = await children.approvals(child)
            await children.approve(child, approval)
            result = await (await durable.get("run")).result()

        assert [run.id for run in await children.list()] == [child]
    assert (result.output, story.paid) == ("done", [{"user": "ada"}])
    assert [m.text for m in result.messages if isinstance(m, ToolMessage)] == ["paid for"]
    assert len(story.inner.requests) == 2


async def test_cancelling_the_run_cancels_its_sub_agent(database: str) -> None:
    story = Story()
    children: DurableAgent[Any]
    async with (
        story.working(database) as durable,
        DurableAgent.client("agent.writer", database=database) as children,
    ):
        handle = await durable.start("go", id="run")
        child = await suspended_child(children)
        await durable.cancel("run")
        for waiting in (handle, await children.get(child)):
            with pytest.raises(RunFailed, match="cancelled"):
                await waiting.result()

    assert story.paid == []


async def test_block_that_is_cancelled_twice_leaves_nothing_open(tmp_path: Path) -> None:
    """A generator that is still open when its event loop ends would be closed there, with errors."""
    begun, ended = asyncio.Event(), asyncio.Event()
    before = {*threading.enumerate()}

    @tool
    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
            await asyncio.sleep(0)

    writer = AsyncAgent(Script(calls(("wait", {}))), tools=[wait])
    agent = AsyncAgent(Script(ASK), tools=[writer.as_tool("writer", "Writes.")])
    durable = DurableAgent(agent, database=f"sqlite:///{tmp_path / 'runs.db'}")

    async def block() -> None:
        async with durable:
            await (await durable.start("go")).result()

    task = asyncio.create_task(block())
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert ended.is_set()
    assert durable._workers == []
    left = {*threading.enumerate()} - before
    assert [each for each in left if each.name == "pathors-watch"] == []


async def test_runs_of_sub_agents_have_no_second_time_to_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, waited = asyncio.Event(), []
    stop = Worker.stop

    async def noted(self: Worker, *, seconds: float = 20.0) -> None:
        waited.append(seconds)
        await stop(self, seconds=0)

    monkeypatch.setattr(Worker, "stop", noted)

    @tool
    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    writer = AsyncAgent(Script(calls(("wait", {}))), tools=[wait])
    agent = AsyncAgent(Script(ASK), tools=[writer.as_tool("writer", "Writes.")])
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    async with DurableAgent(agent, database=database, queue="q") as durable:
        async with durable.working(poll=0.05, stop_seconds=7):
            await durable.start("go")
            await begun.wait()

    assert waited == [7, 0]
