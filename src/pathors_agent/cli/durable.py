"""Durable runs on the command line: carry them out, run batches, look into them."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pathors_agent.agent import AsyncAgent
from pathors_agent.cli.output import write_json, write_line, write_note, write_table
from pathors_agent.cli.places import data_folder
from pathors_agent.cli.reporting import INTERRUPTED, fail
from pathors_agent.durable import (
    DoubtfulCall,
    DurableAgent,
    read_batch,
    run_batch,
    write_batch,
)
from pathors_agent.durable.runs import WORKFLOW_PREFIX, Runs
from pathors_agent.durable.timeline import as_html, as_text, read_timeline
from pathors_agent.durable.worker import STOP_SECONDS
from pathors_agent.lifetime import CLOSE_SECONDS, end_process_within
from pathors_agent.offline import AsyncOfflineTransport
from pathors_agent.server.journal import calls_in_doubt

_TITLES = ("run", "session", "status", "segments", "started", "worker", "version")
_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Made:
    """A durable agent, as the options describe it."""

    app: str
    name: str
    database: str | None
    queue: str
    version: str | None

    def durable(self) -> DurableAgent[Any]:
        """Make it."""
        return DurableAgent(
            load_agent(self.app),
            database=database_url(self.database),
            name=self.name,
            queue=self.queue,
            version=self.version,
        )


def database_url(given: str | None) -> str:
    """Give the database that was asked for, or that of the data folder."""
    return given or f"sqlite:///{(data_folder() / 'runs.db').resolve()}"


def load_agent(app: str) -> AsyncAgent[Any]:
    """Import the agent that `module:object` names."""
    module, _, name = app.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        fail(f"--app {app}: there is no module {error.name}", 2)
    except AttributeError:
        fail(f"--app {app}: the module has no {name!r}", 2)
    made = found if isinstance(found, AsyncAgent) else found()
    if not isinstance(made, AsyncAgent):
        fail(f"--app {app}: is no AsyncAgent, and makes none", 2)
    return made


async def work(made: Made, *, concurrency: int, total: int | None, rate: int | None) -> None:
    """Carry out runs until a signal; a second one ends the process at once."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    is_told = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_told
        if is_told:
            os._exit(INTERRUPTED)
        is_told = True
        loop.call_soon_threadsafe(ended.set)
        end_process_within(STOP_SECONDS + CLOSE_SECONDS)

    # Not the event loop's own handlers: a tool may block it.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, stop)
    async with made.durable() as durable:
        async with durable.working(concurrency=concurrency, total=total, rate=_per_minute(rate)):
            write_note(f"takes runs from the queue {made.queue}, for code {durable.version}")
            await ended.wait()
            write_note("stops; what runs may end")


async def batch(
    made: Made,
    source: Path,
    output: Path,
    *,
    name: str,
    concurrency: int,
    rate: int | None,
    works: bool,
) -> int:
    """Run a file's lines; give how many failed."""
    text = await anyio.Path(source).read_text(encoding="utf-8")
    lines = read_batch(text.splitlines())
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"))
    async with AsyncExitStack() as stack:
        durable = await stack.enter_async_context(made.durable())
        if works:
            working = durable.working(concurrency=concurrency, rate=_per_minute(rate))
            await stack.enter_async_context(working)
        bar = stack.enter_context(
            Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
        )
        task = bar.add_task(name, total=len(lines), failed=0)
        results = await run_batch(
            durable,
            lines,
            name=name,
            progress=lambda done, failed: bar.update(task, completed=done, failed=failed),
        )
    await asyncio.to_thread(write_batch, results, output)
    return sum("error" in result for result in results)


def _per_minute(rate: int | None) -> tuple[int, float] | None:
    return None if rate is None else (rate, _SECONDS)


@asynccontextmanager
async def looking(
    database: str | None, *, name: str = "agent", queue: str = "-", version: str | None = None
) -> AsyncIterator[DurableAgent[Any]]:
    """Open a database to look into it; nothing is carried out, and no agent is needed."""
    nobody: AsyncAgent[Any] = AsyncAgent(AsyncOfflineTransport())
    durable = DurableAgent(
        nobody, database=database_url(database), name=name, queue=queue, version=version
    )
    async with durable:
        yield durable


def _of_all(durable: DurableAgent[Any]) -> Runs[Any]:
    from dataclasses import replace

    return replace(durable.runs, workflow=None)


async def list_runs(database: str | None, *, status: str | None, limit: int, as_json: bool) -> None:
    """List runs, newest first."""
    async with looking(database) as durable:
        found = [
            run for run in await _of_all(durable).newest(limit) if status in (None, run.status)
        ]
    if as_json:
        write_json([asdict(run) for run in found])
        return
    rows = [
        (
            run.id,
            run.session_id,
            run.status,
            run.segments,
            datetime.fromtimestamp(run.created_at, UTC),
            run.worker,
            run.version,
        )
        for run in found
    ]
    write_table(_TITLES, rows, empty="There are no runs.")


async def show_run(database: str | None, run: str, *, html: Path | None) -> None:
    """Show a run's calls."""
    async with looking(database) as durable:
        timeline = await read_timeline(durable.runs, run)
    if html is not None:
        await anyio.Path(html).write_text(as_html(timeline), encoding="utf-8")
        write_note(f"{html} shows the run {run}.")
        return
    for line in as_text(timeline):
        write_line(line)


async def cancel(database: str | None, run: str) -> None:
    """End a run for good."""
    async with _of_run(database, run) as durable:
        await durable.cancel(run)
    write_note(f"{run} is cancelled.")


async def resume(database: str | None, run: str) -> None:
    """Let a failed run go on."""
    async with _of_run(database, run) as durable:
        await durable.resume(run)
    write_note(f"{run} waits for a worker.")


async def list_doubts(database: str | None, *, as_json: bool) -> None:
    """List calls in doubt, of runs and of served turns."""
    async with looking(database) as durable:
        doubts = [*await durable.in_doubt()]
        notes = await asyncio.to_thread(durable.runs.tables.turn_notes)
    for note, call in calls_in_doubt(notes):
        session = f"{note.project}/{note.session_id}"
        effect = call.key.partition("/")[2]
        doubts.append(
            DoubtfulCall(
                run_id=session, effect=effect, tool=call.tool, call_id=call.id, key=call.key
            )
        )
    if as_json:
        write_json([asdict(doubt) for doubt in doubts])
        return
    rows = [(d.run_id, d.effect, d.tool, d.call_id, d.key) for d in doubts]
    write_table(("run", "effect", "tool", "call", "key"), rows, empty="Nothing is in doubt.")


@asynccontextmanager
async def _of_run(database: str | None, run: str) -> AsyncIterator[DurableAgent[Any]]:
    """Open a database with the name, queue and version that a run was stored with."""
    async with looking(database) as durable:
        row = (await durable.runs.segments(run))[-1]
    name = row.name.removeprefix(WORKFLOW_PREFIX)
    queue = row.queue_name or f"{name}-local"
    async with looking(database, name=name, queue=queue, version=row.app_version) as durable:
        yield durable
