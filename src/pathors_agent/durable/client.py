"""Start, read and decide about the durable runs of an agent, from any process."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any, Generic, Self, Unpack

from pathors_agent.agents.agent import AsyncAgent
from pathors_agent.agents.answers import OutputT
from pathors_agent.agents.approvals import Approval, Decision
from pathors_agent.agents.base import RunSettings, dump_settings
from pathors_agent.concurrency.lifetime import OneProcess
from pathors_agent.durable import engine
from pathors_agent.durable.claims import Bell
from pathors_agent.durable.handle import RunHandle
from pathors_agent.durable.history import Histories
from pathors_agent.durable.migration import prepare
from pathors_agent.durable.records import SegmentInput, check_id, check_run_id
from pathors_agent.durable.retention import Retention
from pathors_agent.durable.run_list import RunFilter, RunPage, RunStatus
from pathors_agent.durable.runs import Runs, input_of, start_delay
from pathors_agent.durable.schedules import Schedule, Schedules
from pathors_agent.durable.tables import Bounds, DoubtfulCall, Rate, Tables, check_count
from pathors_agent.errors import InvalidSetting, refuse_other
from pathors_agent.history.loading import Prompt, user_message
from pathors_agent.messages import JSONValue, ToolMessage
from pathors_agent.transports.base import AsyncResponse, AsyncTransport, Request


class DurableClient(OneProcess, Generic[OutputT]):
    """An agent's runs in the database, without carrying them out. An async context manager."""

    def __init__(
        self,
        agent: AsyncAgent[OutputT],
        *,
        database: str,
        name: str,
        queue: str,
        version: str,
        context: object = None,
        is_local: bool = False,
    ) -> None:
        self.agent = agent
        self.name = name
        self.queue = queue
        self.version = version
        self._database = database
        self._context = context
        self._is_local = is_local
        self._is_client = False
        self._opened = AsyncExitStack()
        self._open_runs: Runs[OutputT] | None = None

    async def __aenter__(self) -> Self:
        if self._open_runs is not None:
            raise RuntimeError("the DurableAgent is already open: open another one")
        client = await engine.opened(engine.connect, self._database)
        self._opened.callback(client.destroy)
        try:
            await asyncio.to_thread(prepare, engine.sql(client))
        except BaseException:
            await self._opened.aclose()
            raise
        tables = Tables(engine.sql(client))
        self._open_runs = Runs(
            agent=self.agent,
            client=client,
            bell=Bell(engine.sql(client).url),
            tables=tables,
            histories=Histories(tables),
            name=self.name,
            queue=self.queue,
            is_local=self._is_local,
            version=self.version,
            context=self._context,
            is_client=self._is_client,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
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
        delay: float | None = None,
        at: datetime | None = None,
        context: JSONValue = None,
        **settings: Unpack[RunSettings],
    ) -> RunHandle[OutputT]:
        """Start a run, and return a handle to it as soon as it is stored.

        The `id` of an existing run returns a handle to that run; its prompt must be the same. The
        runs of one session run one after another. Without a `session_id`, a run has a session of
        its own, with the run's id. In a queue, runs with `priority=1` are first and runs without a
        priority are last; of equal priority, the oldest is first.

        A run starts after `delay` seconds, or at the time `at`, which needs a time zone. `context`
        is a JSON value that the run's tools get as `ToolContext.context`, instead of the agent's
        own context. `model`, `limits` and the `options` that are set override the agent's for this
        run.
        """
        run = token_hex(16) if id is None else id
        check_run_id(run, "a run's id")
        if session_id:
            check_id(session_id, "session_id")
        check_count("priority", priority)
        segment_input = SegmentInput.first(
            self.name,
            run,
            session_id,
            messages=(user_message(prompt),),
            context=_json(context),
            settings=dump_settings(settings),
        )
        runs = await self._registered() if self._is_client else self.runs
        await runs.start(segment_input, priority=priority, delay=start_delay(delay, at))
        return RunHandle(self, run)

    async def _registered(self) -> Runs[OutputT]:
        """Return the runs, with the queue and the version of the worker that started last."""
        found = await self.runs.in_thread(
            "read a durable agent", self.runs.tables.registered, self.name
        )
        if found is None:
            known = await self.runs.in_thread("read durable agents", self.runs.tables.agents)
            raise InvalidSetting(
                f"no worker of an agent {self.name!r} has ever started with this database: check"
                " the name, or start a worker of it first (agents with workers:"
                f" {', '.join(known) or 'none'})"
            )
        queue, version = found
        return replace(self.runs, queue=queue, version=version)

    async def send(
        self,
        session_id: str,
        message: Prompt,
        *,
        id: str | None = None,  # noqa: A002
        context: JSONValue = None,
    ) -> RunHandle[OutputT]:
        """Start the next run of a session with a `message` of the user; see `start`."""
        return await self.start(message, session_id=session_id, id=id, context=context)

    async def get(self, run_id: str) -> RunHandle[OutputT]:
        """Return a handle to a run; raise `RunNotFound` if there is no such run."""
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

        `status`, `session_id` and `queue` select runs, and `limit` and `offset` select a page.
        `since` and `until` bound the time when a run was started or last continued. The page is a
        sequence, and its `total` counts all runs that match.
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
        """Cancel a run permanently, and answer its open calls as cancelled."""
        await self.runs.cancel(run_id)

    async def delete(self, run_id: str) -> None:
        """Delete a run that has ended, with its contents, if its session has no other runs.

        Raises `RunExists` otherwise: later runs of a session read the messages of earlier ones.
        """
        [first, *_] = await self.runs.segments(run_id)
        retention = Retention(self.runs.client, self.name)
        session = input_of(first).session
        await self.runs.in_thread("delete a durable run", retention.delete, session, runs=[run_id])

    async def delete_session(self, session_id: str) -> int:
        """Delete a session with all its runs and their contents; return the number of runs.

        Raises `RunExists` while one of its runs is queued or running. The next run of the session
        begins a new history.
        """
        retention = Retention(self.runs.client, self.name)
        return await self.runs.in_thread("delete a session", retention.delete, session_id)

    async def resume(self, run_id: str) -> RunHandle[OutputT]:
        """Continue a run that failed or reached a limit, with the calls that were pending.

        A suspended run continues if none of its calls still waits, because their tools have changed.
        Raises `RunExists` for any other run.
        """
        await self.runs.go_on(run_id, resumes=True)
        return RunHandle(self, run_id)

    # - suspended runs -

    async def approvals(self, run_id: str) -> Sequence[Approval]:
        """Return the calls of a run that wait for approval.

        With a `queue`, this agent may not have their tools; the worker has recorded the approvals.
        """
        return await self.runs.approvals(run_id)

    async def approve(
        self,
        run_id: str,
        approval: Approval | str,
        *,
        arguments: Mapping[str, JSONValue] | None = None,
    ) -> RunHandle[OutputT]:
        """Approve a call, named by its `Approval` or by the digest of the approval.

        Raises `ConversationError` if the call has changed or already has a decision.
        """
        text = None if arguments is None else _text(dict(arguments), "the arguments of a call")
        return await self._decide(run_id, Decision(_digest(approval), True, arguments=text))  # noqa: FBT003

    async def deny(
        self, run_id: str, approval: Approval | str, *, reason: str = ""
    ) -> RunHandle[OutputT]:
        """Deny a call; the model reads the reason."""
        return await self._decide(run_id, Decision(_digest(approval), False, reason))  # noqa: FBT003

    async def _decide(self, run_id: str, decision: Decision) -> RunHandle[OutputT]:
        await self.runs.go_on(run_id, decisions=[decision])
        return RunHandle(self, run_id)

    async def answer(self, run_id: str, results: Mapping[str, JSONValue]) -> RunHandle[OutputT]:
        """Record the results of client tools, by the ids of their calls."""
        given: object = results
        if not isinstance(given, Mapping) or not all(isinstance(each, str) for each in given):
            raise TypeError("results= must be a mapping from the ids of calls to their results")
        if not given:
            raise InvalidSetting("results= is empty; pass a result for each call, by its id")
        messages = [
            ToolMessage(
                tool_call_id=call_id,
                content=value if isinstance(value, str) else _text(value, "the answer to a call"),
            )
            for call_id, value in results.items()
        ]
        await self.runs.go_on(run_id, messages=messages)
        return RunHandle(self, run_id)

    async def in_doubt(self, run_id: str | None = None) -> Sequence[DoubtfulCall]:
        """Return this agent's calls that may or may not have run, for a person to check."""
        doubts = self.runs.tables.doubts
        return await self.runs.in_thread("read doubts", doubts, agent=self.name, run=run_id)

    async def forget_doubt(self, call: DoubtfulCall) -> bool:
        """Remove a call from `in_doubt` after a person has checked it."""
        refuse_other("forget_doubt", call, DoubtfulCall)
        return await self.runs.in_thread("delete a doubt", self.runs.tables.forget_doubt, call)

    # - schedules -

    async def schedule(
        self,
        name: str,
        cron: str,
        prompt: Prompt,
        *,
        timezone: str = "UTC",
        session_id: str | None = None,
        context: JSONValue = None,
    ) -> None:
        """Start a run at each time of a cron expression, as long as workers of the agent run.

        Replaces a schedule of this name. The workers start one run for each time. If times pass
        while no worker runs, the next worker starts one run, for the latest of them. `session_id`
        makes the runs turns of one session.
        """
        schedule = Schedule(
            name=name,
            cron=cron,
            prompt=user_message(prompt),
            timezone=timezone,
            session_id=session_id,
            context=_json(context),
            since=datetime.now(UTC),
        )
        await self.runs.in_thread("store a schedule", self._schedules.put, schedule)

    async def schedules(self) -> Sequence[Schedule]:
        """Return the schedules of the agent, sorted by name."""
        return await self.runs.in_thread("read schedules", self._schedules.all)

    async def unschedule(self, name: str) -> bool:
        """Delete a schedule; return False if there is none. Runs that it started continue."""
        return await self.runs.in_thread("delete a schedule", self._schedules.delete, name)

    @property
    def _schedules(self) -> Schedules:
        return Schedules(self.runs.client, self.name)

    async def limit_queue(self, *, total: int | None = None, rate: Rate | None = None) -> None:
        """Replace the bounds of the queue; None removes a bound. Workers apply them at once."""
        bounds = Bounds(total=total, rate=rate)
        set_bounds = self.runs.tables.set_bounds
        await self.runs.in_thread("store the bounds of a queue", set_bounds, self.queue, bounds)


class _NoModel(AsyncTransport):
    """The transport of a program that carries out no runs."""

    def send(self, request: Request) -> AbstractAsyncContextManager[AsyncResponse]:
        raise NotImplementedError


def no_tools() -> AsyncAgent[Any]:
    """Return an agent for a program that knows neither the model nor the tools of its runs."""
    return AsyncAgent(_NoModel())


def _json(context: JSONValue) -> JSONValue:
    """Return a context as the database will return it; raise `InvalidSetting` if it is not JSON."""
    value: JSONValue = json.loads(_text(context, "the context of a durable run"))
    return value


def _text(value: JSONValue, what: str) -> str:
    """Write a value as JSON; raise `InvalidSetting` if it is not JSON."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidSetting(f"{what} must be JSON: {error}") from None


def _digest(approval: Approval | str) -> str:
    refuse_other("approval=", approval, Approval, str)
    return approval if isinstance(approval, str) else approval.digest
