"""DurableAgent: runs that outlive their process."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from hashlib import blake2b
from typing import Any, Self

from dbos import DBOSClient

from pathors_agent.agents.agent import AsyncAgent
from pathors_agent.agents.answers import OutputT
from pathors_agent.agents.sub_agent import SubAgent, value_of
from pathors_agent.core.run import Status
from pathors_agent.durable import engine
from pathors_agent.durable.calls import SegmentSetup
from pathors_agent.durable.claims import Source
from pathors_agent.durable.client import DurableClient, no_tools
from pathors_agent.durable.migration import FORMAT
from pathors_agent.durable.records import MAX_NAME_BYTES, check_id, workflow_name
from pathors_agent.durable.retention import expire_for_ever, read_age
from pathors_agent.durable.runs import LOOK_SECONDS
from pathors_agent.durable.schedules import Scheduler
from pathors_agent.durable.segment import run_segment
from pathors_agent.durable.tables import Bounds, Rate, Tables, check_count
from pathors_agent.durable.worker import (
    ATTEMPTS,
    HEARTBEAT,
    LOCAL_POLL_SECONDS,
    POLL_SECONDS,
    STOP_SECONDS,
    Heartbeat,
    Worker,
    worker_name,
)
from pathors_agent.errors import InvalidSetting, RunNotFound, refuse_other
from pathors_agent.messages import JSONValue

# How often a run checks whether its sub-agent still waits for a person.
CHILD_LOOK_SECONDS = 5.0

# Runs mostly wait for the model, so a process can carry out as many as it can open connections for.
LOCAL_CONCURRENCY = 100


class DurableAgent(DurableClient[OutputT]):
    """Runs of an agent that continue in another process if their own process dies.

    An async context manager; a process may open several. Sessions, run ids and the keys of tool
    calls belong to `name`: agents with different names in one database never see each other's.
    Without a `queue`, this process carries out the runs. With a queue, `work` carries them out,
    here or on other machines. The tools get `context`. `version` names the code that may carry out
    a run; by default, it is a digest of the tools' names and schemas. `heartbeat` defines when a
    worker is dead. If the process of a run died `attempts` times while the run was at work, the run
    fails, and only `resume` continues it. Workers delete sessions whose runs all ended longer ago
    than `retention` (a timedelta, or seconds), unless one of the runs is suspended. With `deltas`,
    they store the deltas of model calls and tools for `RunHandle.stream`, in up to four small
    writes a second for each call.
    """

    def __init__(
        self,
        agent: AsyncAgent[OutputT],
        *,
        database: str,
        name: str = "agent",
        queue: str | None = None,
        context: object = None,
        version: str | None = None,
        heartbeat: Heartbeat = HEARTBEAT,
        retention: timedelta | float | None = None,
        attempts: int = ATTEMPTS,
        deltas: bool = False,
    ) -> None:
        refuse_other("DurableAgent", agent, AsyncAgent)
        refuse_other("heartbeat=", heartbeat, Heartbeat)
        check_id(name, "the name of a durable agent", MAX_NAME_BYTES)
        if queue is not None:
            check_id(queue, "queue")
        check_count("attempts", attempts)
        super().__init__(
            agent,
            database=database,
            name=name,
            queue=queue or f"{name}-local",
            version=version or tools_version(agent),
            context=context,
            is_local=queue is None,
        )
        self._stores_deltas = deltas
        self._heartbeat = heartbeat
        self._retention = None if retention is None else read_age(retention)
        self._attempts = attempts
        self._workers: list[Worker] = []

    @classmethod
    def client(cls, name: str, *, database: str) -> "DurableAgent[Any]":
        """Return an agent for programs that know only its name, and not its tools, model or queue.

        It starts runs, reads them, decides about calls and answers client tools. The workers of the
        agent, on any machine, carry out the runs. A worker of the agent must have started once with
        this database. Answers of an output type arrive as text.
        """
        client: DurableAgent[Any] = DurableAgent(
            no_tools(), database=database, name=name, queue="-", version="-"
        )
        client._is_client = True
        return client

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        if self._is_local:
            local = self.working(concurrency=LOCAL_CONCURRENCY, poll=LOCAL_POLL_SECONDS)
            try:
                await self._opened.enter_async_context(local)
            except BaseException:
                await self._opened.aclose()
                raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for worker in [*self._workers]:
                await worker.stop()
        finally:  # also if this task is cancelled again
            await super().__aexit__()

    # - work -

    async def work(
        self,
        *,
        concurrency: int = 10,
        total: int | None = None,
        rate: Rate | None = None,
        poll: float = POLL_SECONDS,
    ) -> None:
        """Carry out runs of the queue until cancelled.

        `concurrency` bounds the runs here. `total` bounds the runs of the queue on all workers, and
        `rate` the runs that start in a number of seconds. Both belong to the queue: the first
        worker sets them, and a worker with other values raises `InvalidSetting` (see
        `limit_queue`). The worker looks for runs every `poll` seconds, and less often while it is
        idle. At the end, runs have some seconds to finish, and the others return to the queue.
        """
        async with self.working(concurrency=concurrency, total=total, rate=rate, poll=poll):
            await asyncio.Event().wait()

    @asynccontextmanager
    async def working(
        self,
        *,
        concurrency: int = 10,
        total: int | None = None,
        rate: Rate | None = None,
        poll: float = POLL_SECONDS,
        stop_seconds: int = STOP_SECONDS,
    ) -> AsyncIterator[None]:
        """Carry out runs, as `work` does, for the time of an `async with` block.

        At its end, runs have `stop_seconds` to finish.
        """
        if self._is_client:
            raise InvalidSetting(
                f"a client of the agent {self.name!r} knows no tools and carries out no runs"
            )
        bounds, runs = Bounds(total=total, rate=rate), self.runs
        register = partial(runs.tables.register_agent, queue=self.queue, version=self.version)
        await runs.in_thread("store a durable agent", register, self.name)
        async with AsyncExitStack() as opened:
            children = {
                tool.name: await opened.enter_async_context(self._child(tool.name, tool.function))
                for tool in self.agent.tools
                if isinstance(tool.function, SubAgent)
            }
            client = await engine.opened(engine.connect_worker, self._database)
            opened.callback(client.destroy)
            worker = self._worker(client, children)
            self._workers.append(worker)
            opened.callback(self._workers.remove, worker)
            await opened.enter_async_context(self.agent)
            await opened.enter_async_context(self._housekeeping())
            opened.push_async_callback(worker.stop, seconds=stop_seconds)
            await worker.start(concurrency=concurrency, poll=poll, bounds=bounds)
            yield

    @asynccontextmanager
    async def _child(self, tool: str, function: SubAgent) -> AsyncIterator["_DurableChild"]:
        """Carry out the runs of an agent that is a tool; they belong to an agent of their own."""
        if not isinstance(function.agent, AsyncAgent):
            raise InvalidSetting(
                f"the tool {tool} runs a blocking agent; a durable agent needs that of an AsyncAgent"
            )
        child: DurableAgent[Any] = DurableAgent(
            function.agent,
            database=self._database,
            name=f"{self.name}.{tool}",
            queue=f"{self.queue}.{tool}",
            context=self._context,
            heartbeat=self._heartbeat,
            attempts=self._attempts,
            deltas=self._stores_deltas,
        )
        # Its runs had the time in which those of this agent could finish.
        working = child.working(
            concurrency=LOCAL_CONCURRENCY, poll=LOCAL_POLL_SECONDS, stop_seconds=0
        )
        async with child, working:
            yield _DurableChild(child)

    def _worker(self, client: DBOSClient, children: Mapping[str, "_DurableChild"]) -> Worker:
        setup = SegmentSetup(
            agent=self.agent,
            tables=Tables(engine.sql(client)),
            histories=self.runs.histories,
            name=self.name,
            worker=worker_name(),
            context=self._context,
            stores_deltas=self._stores_deltas,
            children=children,
        )
        return Worker(
            partial(run_segment, setup),
            client=client,
            name=setup.worker,
            source=Source(
                queue=self.queue,
                workflow=workflow_name(self.name),
                version=self.version,
                agent=self.name,
            ),
            heartbeat=self._heartbeat,
            attempts=self._attempts,
        )

    @asynccontextmanager
    async def _housekeeping(self) -> AsyncIterator[None]:
        """Start scheduled runs, and delete sessions older than `retention`, inside the block."""
        tasks = [asyncio.create_task(Scheduler(self.runs).watch())]
        if self._retention is not None:
            expiring = expire_for_ever(self.runs.client, self.name, self._retention)
            tasks.append(asyncio.create_task(expiring))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


class _DurableChild:
    """Runs of an agent that is a tool of another one."""

    def __init__(self, durable: DurableAgent[Any]) -> None:
        self._durable = durable

    async def ask(self, run: str, prompt: str, context: JSONValue) -> object:
        """Start the run unless it exists, wait until it ends, and return its answer."""
        handle = await self._durable.start(prompt, id=run, context=context)
        pause = LOOK_SECONDS
        while (result := await handle.result()).status is Status.SUSPENDED:
            await asyncio.sleep(pause)
            pause = min(pause * 2, CHILD_LOOK_SECONDS)
        return value_of(result)

    async def cancel(self, run: str) -> None:
        """Cancel the run permanently; no effect if there is no such run."""
        with suppress(RunNotFound):
            await self._durable.cancel(run)


def tools_version(agent: AsyncAgent[Any]) -> str:
    """Return the version of an agent's code, which changes with its tools and their schemas."""
    definitions = sorted(json.dumps(each, sort_keys=True) for each in agent.tools.definitions())
    text = json.dumps([FORMAT, definitions])
    return f"tools-{blake2b(text.encode(), digest_size=8).hexdigest()}"
