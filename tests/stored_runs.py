"""Durable runs in a database, for tests of what reads and changes them without their agent."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

from pathors_agent import AsyncAgent, Tool, tool
from pathors_agent.durable import DurableAgent, RunFailed
from pathors_agent.testing import AsyncScriptedTransport
from pathors_agent.wire.profiles import DEFAULT_PROFILE, EndpointProfile


@tool(approve=True)
async def pay(to: str) -> str:
    return f"paid {to}"


ASK = Tool(name="ask_user", description="Ask the user.")


class Script(AsyncScriptedTransport):
    """A script that another worker continues."""

    def assert_used_up(self) -> None:
        pass


# The options of a `DurableAgent`; all others are those of its agent.
_DURABLE = {"name", "queue", "context", "version", "heartbeat", "attempts", "deltas"}


@asynccontextmanager
async def opened(
    database: str, *script: Any, profile: EndpointProfile = DEFAULT_PROFILE, **options: Any
) -> AsyncIterator[DurableAgent[Any]]:
    """Open a durable agent whose model answers by a script."""
    durable = {name: options.pop(name) for name in _DURABLE & options.keys()}
    agent: AsyncAgent[Any] = AsyncAgent(Script(*script, profile=profile), **options)
    async with DurableAgent(agent, database=database, **durable) as opened:
        yield opened


def work(
    database: str, *script: Any, start: tuple[str, ...] = (), name: str = "shop"
) -> dict[str, str]:
    """Carry out what is queued, and runs with these ids; return the answers of all runs.

    In a thread of its own: a browser's driver has an event loop in the test's thread.
    """

    async def working() -> dict[str, str]:
        agent = AsyncAgent(Script(*script), tools=[pay, ASK])
        durable = DurableAgent(agent, database=database, name=name, queue="main")
        answers = {}
        async with durable, durable.working(poll=0.05):
            for each in start:
                await durable.start("go", id=each)
                with suppress(RunFailed):
                    await (await durable.get(each)).result()
            for run in await durable.list():
                with suppress(RunFailed):
                    answers[run.id] = (await (await durable.get(run.id)).result()).answer or ""
        return answers

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, working()).result()
