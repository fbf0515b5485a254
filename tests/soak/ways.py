"""Runs of every kind, many times, in each way there is; and what this process holds meanwhile."""

import asyncio
import gc
import os
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.lowlevel import checkpoint

from pathors_agent import (
    Agent,
    AgentError,
    AsyncAgent,
    AsyncHTTPTransport,
    HTTPTransport,
    ToolContext,
    tool,
)
from pathors_agent.core.run import Status

Sample = dict[str, int]

SAMPLES = 10
TOGETHER = 8
# What goes on for a moment after a run has ended: the turn of a client that left.
SETTLE_SECONDS = 10.0

KINDS = [
    *("text", "tools", "failing tool", "approval"),
    *("error", "malformed", "cut off"),
    *("leave", "waiting tool"),
]
# What comes of each, in a program; and behind a server, where that differs.
OUTCOMES = {
    **{kind: {"All done."} for kind in ("text", "tools", "failing tool", "approval")},
    "error": {"ProviderError", "problem 502"},
    "malformed": {"MalformedResponse", "problem 502"},
    "cut off": {"IncompleteResponse", "problem 502"},
    **{kind: {"left"} for kind in ("leave", "waiting tool")},
}

SEEN: Counter[str] = Counter()


# - the agent


@tool
def look(page: int = 0) -> str:
    """Look at a page."""
    return f"page {page}"


@tool
async def look_async(page: int) -> str:
    """Look at a page."""
    await checkpoint()
    return f"page {page}"


@tool
async def fail() -> str:
    """Fail."""
    raise RuntimeError("the pig is full")


@tool(approve=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


@tool
async def wait(ctx: ToolContext[object]) -> None:
    """Wait until the run is cancelled; the context may be what cancels it."""
    if callable(ctx.context):
        ctx.context()
    await anyio.sleep_forever()


TOOLS: list[Callable[..., object]] = [look, look_async, fail, pay, wait]


# - one run


def run_blocking(agent: Agent[str], kind: str) -> str:
    """Run once; tell what came of it."""
    try:
        # Beside blocking code nothing runs that could cancel a tool.
        if kind in ("leave", "waiting tool"):
            with agent.stream("leave") as stream:
                for _ in stream:
                    break
            return "left"
        result = agent.run(kind)
        if result.status is Status.SUSPENDED:
            decisions = [approval.approve() for approval in result.approvals]
            result = agent.run(conversation=result.conversation, decisions=decisions)
        return result.output
    except AgentError as error:
        return type(error).__name__


async def run_async(agent: AsyncAgent[str], kind: str) -> str:
    """As `run_blocking`."""
    try:
        if kind in ("leave", "waiting tool"):
            return await run_cancelled(agent, kind)
        result = await agent.run(kind)
        if result.status is Status.SUSPENDED:
            decisions = [approval.approve() for approval in result.approvals]
            result = await agent.run(conversation=result.conversation, decisions=decisions)
        return result.output
    except AgentError as error:
        return type(error).__name__


async def run_cancelled(agent: AsyncAgent[str], kind: str) -> str:
    with anyio.CancelScope() as scope:
        async with agent.stream(kind, context=scope.cancel) as stream:
            async for _ in stream:
                if kind == "leave":
                    scope.cancel()
    return "left" if scope.cancelled_caught else "not cancelled"


# - many runs


def soak_blocking(url: str, runs: int) -> list[Sample]:
    """Run one after another."""
    samples = []
    with HTTPTransport(url, api_key="") as transport:
        agent = Agent(transport, tools=TOOLS)
        for numbers in parts(runs):
            for number in numbers:
                kind = KINDS[number % len(KINDS)]
                check(kind, run_blocking(agent, kind))
            samples.append(held(0))
    return samples


async def soak_async(url: str, runs: int) -> list[Sample]:
    """Run some at once."""
    take_time()
    async with AsyncHTTPTransport(url, api_key="") as transport:
        agent = AsyncAgent(transport, tools=TOOLS)
        return await soak_with(lambda kind: run_async(agent, kind), runs)


async def soak_with(run: Callable[[str], Awaitable[str]], runs: int) -> list[Sample]:
    """Run some at once, one part of them after another."""
    samples = []

    async def work(numbers: Iterator[int]) -> None:
        for number in numbers:
            kind = KINDS[number % len(KINDS)]
            check(kind, await run(kind))

    before = living_tasks()
    for numbers in parts(runs):
        async with anyio.create_task_group() as tasks:
            for _ in range(TOGETHER):
                tasks.start_soon(work, numbers)
        await settled(before)
        samples.append(held(living_tasks()))
    return samples


def take_time() -> None:
    """Let debug mode say nothing of a callback that a busy machine made slow."""
    with suppress(RuntimeError):  # on trio
        asyncio.get_running_loop().slow_callback_duration = 60.0


def parts(runs: int) -> Iterator[Iterator[int]]:
    """Share the runs out among the samples."""
    for _ in range(SAMPLES):
        yield iter(range(runs // SAMPLES))


def check(kind: str, outcome: str) -> None:
    """Count a run, whose outcome must be that of its kind."""
    assert outcome in OUTCOMES[kind], (kind, outcome)
    SEEN[kind] += 1


# - what this process holds


async def settled(tasks: int) -> None:
    """Wait until no more tasks live than that, as long as anybody can."""
    with anyio.move_on_after(SETTLE_SECONDS):
        while living_tasks() > tasks:
            await checkpoint()


def living_tasks() -> int:
    """Count the tasks of the event loop that runs this."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return int(trio.lowlevel.current_statistics().tasks_living)
    return len(asyncio.all_tasks())


def held(tasks: int) -> Sample:
    """Count what could leak."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "objects": sys.getallocatedblocks(),
        "tasks": tasks,
        "threads": threading.active_count(),
        "files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
    }
