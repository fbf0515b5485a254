"""Operate the runs of all agents in a database, without their code."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import sqlalchemy as sa

from pathors_agent.agents.approvals import digests_of
from pathors_agent.durable.client import DurableClient, no_tools
from pathors_agent.durable.history import new_messages
from pathors_agent.durable.retention import Retention
from pathors_agent.durable.run_list import (
    Figures,
    RunFilter,
    RunPage,
    RunSummary,
    read_figures,
    runs_named,
)
from pathors_agent.durable.tables import Bounds, DoubtfulCall, Rate
from pathors_agent.durable.timeline import Timeline, as_json, read_timeline
from pathors_agent.errors import RunExists, RunFailed, RunNotFound
from pathors_agent.messages import Message, ToolCall, write_message
from pathors_agent.stores.database import read_url, shown
from pathors_agent.stores.errors import store_error
from pathors_agent.stores.values import TurnNote

# Runs are read from the database in pages of this size while many of them are changed.
_BLOCK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingCall:
    """An open call of a suspended run.

    `wants` is "approval" or "answer". `digest` names an approval in `approve` and `deny`.
    """

    run: RunSummary
    call: ToolCall
    wants: Literal["approval", "answer"]
    digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRun:
    """A run with its contents: its messages, its calls, its open approvals and its error."""

    run: RunSummary
    messages: Sequence[Message]
    timeline: Timeline
    waiting: Sequence[WaitingCall]
    failure: str | None


class Operator:
    """The runs of a database; see `operating`."""

    def __init__(self, durable: DurableClient[Any], database: str) -> None:
        self._durable = durable
        self._database = database

    async def page(self, wanted: RunFilter, *, limit: int, offset: int = 0) -> RunPage:
        """Return runs, the last started or continued first."""
        return await self._durable.runs.page(wanted, limit=limit, offset=offset)

    async def all(self, wanted: RunFilter) -> Sequence[RunSummary]:
        """Return all runs that match."""
        found: list[RunSummary] = []
        while True:
            page = await self.page(wanted, limit=_BLOCK, offset=len(found))
            found += page
            if len(found) >= page.total or not page:
                return found

    async def find(self, run_id: str, *, agent: str | None = None) -> RunSummary:
        """Return the run with this id; raise `RunNotFound` without one, `RunExists` with several."""
        runs = self._durable.runs
        agents = [agent] if agent else await asyncio.to_thread(runs.tables.agents_of, run_id)
        found = await asyncio.to_thread(runs_named, runs.client, run_id, agents)
        if not found:
            where = "" if agent is None else f" of the agent {agent!r}"
            raise RunNotFound(f"there is no run {run_id!r}{where}")
        if len(found) > 1:
            names = ", ".join(agents)
            raise RunExists(f"the agents {names} each have a run {run_id!r}: name the agent")
        return found[0]

    async def doubts(self) -> tuple[list[DoubtfulCall], Sequence[TurnNote]]:
        """Return the calls in doubt of runs, and the notes of served turns."""
        tables = self._durable.runs.tables
        doubts = await asyncio.to_thread(tables.doubts)
        return doubts, await asyncio.to_thread(tables.turn_notes)

    async def forget_doubt(self, call: DoubtfulCall) -> bool:
        """Remove a call in doubt after a person has checked it."""
        return await asyncio.to_thread(self._durable.runs.tables.forget_doubt, call)

    async def limit_queue(self, queue: str, *, total: int | None, rate: Rate | None) -> None:
        """Replace the bounds of a queue."""
        bounds = Bounds(total=total, rate=rate)
        await asyncio.to_thread(self._durable.runs.tables.set_bounds, queue, bounds)

    async def waiting_run(self, run_id: str, agent: str | None) -> RunSummary:
        """Return a suspended run; raise `RunExists` if the run is not suspended."""
        run = await self.find(run_id, agent=agent)
        if run.status != "suspended":
            raise RunExists(f"run {run_id!r} is {run.status}, not suspended")
        return run

    async def figures(self) -> Figures:
        """Count runs, their takeovers and their calls in doubt."""
        return await asyncio.to_thread(read_figures, self._durable.runs.client)

    def agent_of(self, run: RunSummary) -> DurableClient[Any]:
        """Return the agent of a run, for changes that do not need its code."""
        agent: DurableClient[Any] = DurableClient(
            self._durable.agent,
            database=self._database,
            name=run.agent,
            queue=run.queue,
            version=run.version or "-",
        )
        agent._open_runs = replace(
            self._durable.runs, name=run.agent, queue=run.queue, version=agent.version
        )
        return agent

    async def delete(self, runs: Sequence[RunSummary]) -> AsyncIterator[tuple[RunSummary, str]]:
        """Delete runs, each session in one transaction; yield each run with an error or ""."""
        sessions: dict[tuple[str, str], list[RunSummary]] = {}
        for run in runs:
            sessions.setdefault((run.agent, run.session_id), []).append(run)
        for (agent, session), found in sessions.items():
            retention = Retention(self._durable.runs.client, agent)
            ids = [run.id for run in found]
            problem = ""
            try:
                await asyncio.to_thread(retention.delete, session, runs=ids)
            except RunExists as error:
                problem = str(error)
            for run in found:
                yield run, problem

    async def waiting(self, run: RunSummary) -> Sequence[WaitingCall]:
        """Return the calls that a run waits for."""
        if run.status != "suspended":
            return ()
        runs = self.agent_of(run).runs
        segments = await runs.segments(run.id)
        result = await runs.result(segments)
        return [
            WaitingCall(
                run=run, call=call, wants="answer" if digest is None else "approval", digest=digest
            )
            for call, digest in digests_of(result.open_calls, await runs.approvals(run.id))
        ]

    async def open(self, run: RunSummary) -> OpenedRun:
        """Read a run with its contents."""
        runs = self.agent_of(run).runs
        segments = await runs.segments(run.id)
        steps = [step for row in segments for step in await runs.steps(row.workflow_id)]
        failure = None
        try:
            await runs.result(segments)
        except RunFailed as error:
            failure = str(error)
        return OpenedRun(
            run=run,
            messages=[message for step in steps for message in new_messages(step)],
            timeline=await read_timeline(runs, run.id),
            waiting=await self.waiting(run),
            failure=failure,
        )


def waiting_as_json(waiting: WaitingCall) -> dict[str, object]:
    """Return a waiting call for JSON."""
    return {
        "run": waiting.run.id,
        "agent": waiting.run.agent,
        "wants": waiting.wants,
        "digest": waiting.digest,
        "call": waiting.call.id,
        "tool": waiting.call.name,
        "arguments": waiting.call.arguments,
    }


def summary_as_json(run: RunSummary) -> dict[str, object]:
    """Return a run for JSON, with times as datetimes."""
    return asdict(run)


def opened_as_json(opened: OpenedRun) -> dict[str, object]:
    """Return a run with its contents for JSON, with times as datetimes."""
    return {
        **summary_as_json(opened.run),
        "failure": opened.failure,
        "waiting": [waiting_as_json(each) for each in opened.waiting],
        "messages": [write_message(message) for message in opened.messages],
        **as_json(opened.timeline),
    }


@asynccontextmanager
async def operating(database: str) -> AsyncIterator[Operator]:
    """Open a database to operate its runs, without carrying them out.

    Raises `StoreError` for errors of the database inside the block, too.
    """
    durable: DurableClient[Any] = DurableClient(
        no_tools(), database=database, name="agent", queue="-", version="-"
    )
    async with durable:
        try:
            yield Operator(durable, database)
        except sa.exc.SQLAlchemyError as error:
            place = shown(read_url(database))
            raise store_error(error, "read or change the durable runs", place) from None
