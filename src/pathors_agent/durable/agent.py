"""DurableAgent: runs that outlive their process, and handles to them from any process."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from hashlib import blake2b
from secrets import token_hex
from types import TracebackType
from typing import Any, Generic, Self

from pathors_agent.agents.agent import AsyncAgent
from pathors_agent.agents.answers import OutputT
from pathors_agent.agents.approvals import Approval, Decision
from pathors_agent.agents.result import RunResult
from pathors_agent.durable import engine
from pathors_agent.durable.history import Histories, new_messages
from pathors_agent.durable.records import SEPARATOR, Order, owned
from pathors_agent.durable.retention import Retention, expire_for_ever, read_age
from pathors_agent.durable.run_list import (
    AT_WORK,
    RESUMABLE,
    RunFilter,
    RunPage,
    RunStatus,
)
from pathors_agent.durable.runs import (
    LOOK_SECONDS,
    Runs,
    next_order,
    order_of,
    status_of,
    workflow_name,
)
from pathors_agent.durable.segment import Place, run_segment
from pathors_agent.durable.tables import FORMAT, DoubtfulCall, Tables
from pathors_agent.durable.worker import (
    HEARTBEAT,
    LOCAL_POLL_SECONDS,
    POLL_SECONDS,
    STOP_SECONDS,
    Heartbeat,
    Rate,
    Worker,
    worker_name,
)
from pathors_agent.errors import RunExists
from pathors_agent.history.loading import Prompt, user_message
from pathors_agent.messages import JSONValue, Message, ToolMessage

# Runs mostly wait for the model: what one process has open connections for.
LOCAL_CONCURRENCY = 100


class DurableAgent(Generic[OutputT]):
    """Runs of an agent that lose nothing and repeat nothing when their process dies.

    An async context manager. Without a `queue`, this process carries the runs out; with one,
    whoever calls `work` does, here or on other machines. `context` reaches the tools. `version`
    names the code that may carry a run out; else it is made of the tools' names and schemas.
    `heartbeat` says when a worker is taken for dead. Workers delete sessions whose runs all ended
    longer ago than `retention` (a timedelta, or seconds), unless one of the runs is suspended.
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
    ) -> None:
        self.agent = agent
        self.name = name
        self.version = version or tools_version(agent)
        self.queue = queue or f"{name}-local"
        self._is_local = queue is None
        self._database = database
        self._context = context
        self._heartbeat = heartbeat
        self._retention = None if retention is None else read_age(retention)
        self._opened = AsyncExitStack()
        self._open_runs: Runs[OutputT] | None = None

    async def __aenter__(self) -> Self:
        client = await asyncio.to_thread(engine.connect, self._database)
        self._opened.callback(client.destroy)
        try:
            tables = Tables(engine.sql(client))
            await asyncio.to_thread(tables.prepare)
            self._open_runs = Runs(
                agent=self.agent,
                client=client,
                tables=tables,
                histories=Histories(tables, self.name),
                name=self.name,
                queue=self.queue,
                is_local=self._is_local,
                version=self.version,
                context=self._context,
            )
            if self._is_local:
                local = self.working(concurrency=LOCAL_CONCURRENCY, poll=LOCAL_POLL_SECONDS)
                await self._opened.enter_async_context(local)
        except BaseException:
            await self._opened.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open_runs = None
        await self._opened.aclose()

    @property
    def runs(self) -> Runs[OutputT]:
        """The runs in the database."""
        if self._open_runs is None:
            raise RuntimeError("the DurableAgent is not open: use it inside `async with`")
        return self._open_runs

    # - runs -

    async def start(
        self,
        prompt: Prompt,
        *,
        session_id: str | None = None,
        id: str | None = None,  # noqa: A002  (the plain word)
        priority: int | None = None,
    ) -> "RunHandle[OutputT]":
        """Start a run, and give a handle to it as soon as it is stored.

        With the `id` of a run that exists, its prompt must be the same, and it is the same run.
        The runs of one session come one after another; without a `session_id` a run has a session
        of its own, named as the run. Of the runs of a session that wait, the lowest `priority` goes
        first; what must come before other sessions belongs in a queue with workers of its own.
        """
        run = token_hex(16) if id is None else id
        if SEPARATOR in run or not run.strip():
            raise ValueError(f"a run's id holds no {SEPARATOR!r}, and is not empty")
        order = Order(
            run=run,
            session=session_id or run,
            keys=owned(self.name, session_id or run),
            endpoint_session=session_id,
            messages=(user_message(prompt),),
        )
        await self.runs.start(order, priority=priority)
        return RunHandle(self, run)

    async def send(
        self,
        session_id: str,
        message: Prompt,
        *,
        id: str | None = None,  # noqa: A002
    ) -> "RunHandle[OutputT]":
        """Start the next run of a session."""
        return await self.start(message, session_id=session_id, id=id)

    async def get(self, run_id: str) -> "RunHandle[OutputT]":
        """Give a handle to a run; `RunNotFound` where there is none."""
        await self.runs.segments(run_id)
        return RunHandle(self, run_id)

    async def list(
        self,
        *,
        status: RunStatus | None = None,
        session_id: str | None = None,
        queue: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> RunPage:
        """Return runs of this agent, the last started or continued first.

        The database filters them. `since` and `until` bound the time when a run was started or
        last continued. The page is a sequence, and its `total` counts all runs that match.
        """
        wanted = RunFilter(
            agent=self.name,
            statuses=() if status is None else (status,),
            session_id=session_id,
            queue=queue,
            since=since,
            until=until,
        )
        return await self.runs.page(wanted, limit=limit, offset=offset)

    async def cancel(self, run_id: str) -> None:
        """End a run for good; its open calls are answered as cancelled."""
        segments = await self.runs.segments(run_id)
        status = status_of(segments[-1])
        if status in AT_WORK:
            await self.runs.client.cancel_workflow_async(segments[-1].workflow_id)
        elif status != "suspended":
            return
        await self.runs.enqueue(len(segments) + 1, next_order(segments, closes=True))

    async def delete(self, run_id: str) -> None:
        """Delete a run that has ended, with its contents, if its session has no other runs.

        Raises `RunExists` otherwise: later runs of a session read the messages of earlier ones.
        """
        [first, *_] = await self.runs.segments(run_id)
        retention = Retention(self.runs.client, self.name)
        await asyncio.to_thread(retention.delete, order_of(first).session, runs=[run_id])

    async def delete_session(self, session_id: str) -> int:
        """Delete a session with all its runs and their contents; return the number of runs.

        Raises `RunExists` while one of its runs is queued or running. The next run of the session
        begins a new history.
        """
        retention = Retention(self.runs.client, self.name)
        return await asyncio.to_thread(retention.delete, session_id)

    async def resume(self, run_id: str) -> "RunHandle[OutputT]":
        """Go on with a run that failed: what it owed, it still owes."""
        segments = await self.runs.segments(run_id)
        status = status_of(segments[-1])
        if status not in RESUMABLE:
            raise RunExists(f"run {run_id!r} is {status}: only a run that failed is resumed")
        await self.runs.go_on(run_id)
        return RunHandle(self, run_id)

    # - what waits for somebody -

    async def approvals(self, run_id: str) -> Sequence[Approval]:
        """Return the calls of a run that wait for approval.

        With a `queue`, this agent may lack their tools: the worker has recorded the approvals.
        """
        return await self.runs.approvals(run_id)

    async def approve(
        self,
        run_id: str,
        approval: Approval | str,
        *,
        arguments: Mapping[str, JSONValue] | None = None,
    ) -> "RunHandle[OutputT]":
        """Let a call run, named by its `Approval` or that one's digest.

        A second answer, or one to a call that has changed, is a `ConversationError`.
        """
        text = None if arguments is None else json.dumps(dict(arguments), ensure_ascii=False)
        return await self._decide(run_id, Decision(_digest(approval), True, arguments=text))  # noqa: FBT003

    async def deny(
        self, run_id: str, approval: Approval | str, *, reason: str = ""
    ) -> "RunHandle[OutputT]":
        """Answer a call with a no, and the reason, for the model."""
        return await self._decide(run_id, Decision(_digest(approval), False, reason))  # noqa: FBT003

    async def _decide(self, run_id: str, decision: Decision) -> "RunHandle[OutputT]":
        await self.runs.go_on(run_id, decisions=[decision])
        return RunHandle(self, run_id)

    async def answer(self, run_id: str, results: Mapping[str, JSONValue]) -> "RunHandle[OutputT]":
        """Give the results of client tools, by the ids of their calls."""
        messages = [
            ToolMessage(
                tool_call_id=call_id,
                content=value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
            )
            for call_id, value in results.items()
        ]
        await self.runs.go_on(run_id, messages=messages)
        return RunHandle(self, run_id)

    async def in_doubt(self, run_id: str | None = None) -> Sequence[DoubtfulCall]:
        """Return this agent's calls that may or may not have run, for a person to check."""
        return await asyncio.to_thread(self.runs.tables.doubts, agent=self.name, run=run_id)

    async def forget_doubt(self, call: DoubtfulCall) -> bool:
        """Remove a call from `in_doubt` after a person has checked it."""
        return await asyncio.to_thread(self.runs.tables.forget_doubt, call)

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

        `concurrency` is how many run here at once, `total` how many of the queue on all workers,
        `rate` so many that may start in so many seconds. What runs at the end may end within some
        seconds; the rest is left to other workers.
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
        """As `work`, for the time of an `async with` block."""
        runs = self.runs
        place = Place(
            agent=self.agent,
            client=runs.client,
            tables=runs.tables,
            histories=runs.histories,
            name=self.name,
            worker=worker_name(),
            context=self._context,
        )
        worker = Worker(
            partial(run_segment, place),
            client=place.client,
            tables=place.tables,
            name=place.worker,
            workflow=workflow_name(self.name),
            version=self.version,
            database=self._database,
            queue=self.queue,
            heartbeat=self._heartbeat,
        )
        async with self.agent, self._expiring():
            try:
                await worker.start(concurrency=concurrency, total=total, rate=rate, poll=poll)
                yield
            finally:
                await worker.stop(seconds=stop_seconds)

    @asynccontextmanager
    async def _expiring(self) -> AsyncIterator[None]:
        """Delete sessions older than `retention` inside the block."""
        if self._retention is None:
            yield
            return
        expiring = expire_for_ever(self.runs.client, self.name, self._retention)
        task = asyncio.create_task(expiring)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


class RunHandle(Generic[OutputT]):
    """A run, seen from any process: what it said so far, and its result."""

    def __init__(self, durable: DurableAgent[OutputT], run_id: str) -> None:
        self._durable = durable
        self.id = run_id

    def __repr__(self) -> str:
        return f"<RunHandle {self.id!r}>"

    async def status(self) -> RunStatus:
        """Where the run stands."""
        return status_of((await self._durable.runs.segments(self.id))[-1])

    async def result(self) -> RunResult[OutputT]:
        """Wait until the run rests, and give its result; `RunFailed` where an error stopped it.

        A run that waits for approvals or a client's results rests: its status is SUSPENDED.
        """
        runs = self._durable.runs
        return await runs.result(await runs.settled(self.id))

    async def events(self) -> AsyncIterator[Message]:
        """Give the messages of the run as they are recorded, from the first one, until it rests."""
        runs, number, seen = self._durable.runs, 1, 0
        while True:
            segments = await runs.segments(self.id)
            steps = await runs.steps(segments[number - 1].workflow_id)
            said = [message for step in steps for message in new_messages(step)]
            for message in said[seen:]:
                yield message
            seen = len(said)
            if status_of(segments[number - 1]) in AT_WORK:
                await asyncio.sleep(LOOK_SECONDS)
            elif number == len(segments):
                return
            else:
                number, seen = number + 1, 0

    async def cancel(self) -> None:
        """End the run for good."""
        await self._durable.cancel(self.id)


def tools_version(agent: AsyncAgent[Any]) -> str:
    """Name the version of an agent's code: equal as long as its tools and their schemas are."""
    definitions = sorted(json.dumps(each, sort_keys=True) for each in agent.tools.definitions())
    text = json.dumps([FORMAT, definitions])
    return f"tools-{blake2b(text.encode(), digest_size=8).hexdigest()}"


def _digest(approval: Approval | str) -> str:
    return approval if isinstance(approval, str) else approval.digest
