"""Look into durable runs and act on them, straight on their database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio

from pathors_agent.agents.agent import AsyncAgent
from pathors_agent.cli.durable import database_url
from pathors_agent.cli.output import write_json, write_line, write_note, write_rest, write_table
from pathors_agent.cli.reporting import fail
from pathors_agent.durable import DoubtfulCall, DurableAgent
from pathors_agent.durable.run_list import RunFilter
from pathors_agent.durable.timeline import as_html, as_json, as_text, read_timeline
from pathors_agent.offline import AsyncOfflineTransport
from pathors_agent.server.journal import calls_in_doubt

_TITLES = ("run", "agent", "session", "queue", "status", "segments", "started", "worker", "version")


async def list_runs(
    database: str | None, wanted: RunFilter, *, limit: int, offset: int, as_json: bool
) -> None:
    """List runs, the last started or continued first."""
    async with looking(database) as durable:
        page = await durable.runs.page(wanted, limit=limit, offset=offset)
    if as_json:
        write_json({"data": [asdict(run) for run in page], "total": page.total})
        return
    rows = [
        (
            run.id,
            run.agent,
            run.session_id,
            run.queue,
            run.status,
            run.segments,
            run.created_at,
            run.worker,
            run.version,
        )
        for run in page
    ]
    write_table(_TITLES, rows, empty="There are no runs.")
    write_rest(len(page), page.total, offset)


async def show(
    database: str | None, run: str, *, agent: str | None, html: Path | None, json: bool
) -> None:
    """Show a run's calls."""
    async with _of_run(database, run, agent) as durable:
        timeline = await read_timeline(durable.runs, run)
    if html is not None:
        await anyio.Path(html).write_text(as_html(timeline), encoding="utf-8")
        write_note(f"{html} shows the run {run}.")
    if json:
        write_json(as_json(timeline))
    elif html is None:
        for line in as_text(timeline):
            write_line(line)


async def cancel(database: str | None, run: str, *, agent: str | None) -> None:
    """End a run for good."""
    async with _of_run(database, run, agent) as durable:
        await durable.cancel(run)
    write_note(f"{run} is cancelled.")


async def resume(database: str | None, run: str, *, agent: str | None) -> None:
    """Continue a failed run."""
    async with _of_run(database, run, agent) as durable:
        await durable.resume(run)
    write_note(f"{run} waits for a worker.")


async def list_doubts(database: str | None, *, as_json: bool) -> None:
    """List calls in doubt, of runs and of served turns."""
    async with looking(database) as durable:
        doubts = await asyncio.to_thread(durable.runs.tables.doubts)
        notes = await asyncio.to_thread(durable.runs.tables.turn_notes)
    for note, call in calls_in_doubt(notes):
        session = f"{note.project}/{note.session_id}"
        effect = call.key.partition("/")[2]
        doubts.append(
            DoubtfulCall(
                agent="",
                run_id=session,
                effect=effect,
                tool=call.tool,
                call_id=call.id,
                key=call.key,
            )
        )
    if as_json:
        write_json([asdict(doubt) for doubt in doubts])
        return
    rows = [(d.agent, d.run_id, d.effect, d.tool, d.call_id, d.key) for d in doubts]
    write_table(
        ("agent", "run", "effect", "tool", "call", "key"), rows, empty="No calls are in doubt."
    )


@asynccontextmanager
async def looking(
    database: str | None, *, name: str = "agent", queue: str = "-", version: str | None = None
) -> AsyncIterator[DurableAgent[Any]]:
    """Open a database to read it; no run is carried out, and no agent's code is needed."""
    no_tools: AsyncAgent[Any] = AsyncAgent(AsyncOfflineTransport())
    durable = DurableAgent(
        no_tools, database=database_url(database), name=name, queue=queue, version=version
    )
    async with durable:
        yield durable


@asynccontextmanager
async def _of_run(
    database: str | None, run: str, agent: str | None
) -> AsyncIterator[DurableAgent[Any]]:
    """Open a database with the agent's name, queue and version that a run was stored with."""
    if agent is None:
        async with looking(database) as durable:
            agents = await asyncio.to_thread(durable.runs.tables.agents_of, run)
        if len(agents) > 1:
            fail(f"run {run!r} exists for the agents {', '.join(agents)}: pass one with --agent", 2)
        agent = agents[0] if agents else "agent"
    async with looking(database, name=agent) as durable:
        row = (await durable.runs.segments(run))[-1]
    queue = row.queue_name or f"{agent}-local"
    async with looking(database, name=agent, queue=queue, version=row.app_version) as durable:
        yield durable
