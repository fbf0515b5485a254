"""Read and change durable runs directly in their database."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio

from pathors_agent.cli.output import (
    RUNS_FILE,
    fail,
    log_to_stderr,
    place,
    stored_in,
    write_json,
    write_line,
    write_note,
    write_rest,
    write_table,
)
from pathors_agent.cli.values import per_minute
from pathors_agent.durable.client import DurableClient
from pathors_agent.durable.operator import (
    Operator,
    opened_as_json,
    operating,
    waiting_as_json,
)
from pathors_agent.durable.run_list import RunFilter, RunStatus, RunSummary
from pathors_agent.durable.tables import DoubtfulCall
from pathors_agent.durable.timeline import as_html, as_text
from pathors_agent.errors import AgentError, RunExists, RunNotFound, error_text
from pathors_agent.server.turns.journal import calls_in_doubt

Act = Callable[[DurableClient[Any], str], Awaitable[object]]
"""Changes a run of an agent by its id."""

_KEY_VARIABLE = "PATHORS_RUNS_KEY"

_TITLES = ("run", "agent", "session", "queue", "status", "segments", "started", "worker", "version")


@dataclass(frozen=True, slots=True)
class ChosenRuns:
    """Runs with these ids, or all runs that match a filter."""

    ids: Sequence[str]
    wanted: RunFilter

    async def runs(self, operator: Operator) -> Sequence[RunSummary]:
        """Find the runs; raise `RunNotFound` before anything is changed."""
        if not self.ids:
            return await operator.all(self.wanted)
        return [await operator.find(each, agent=self.wanted.agent) for each in self.ids]


@asynccontextmanager
async def _operating(database: str | None) -> AsyncIterator[tuple[Operator, str]]:
    """Open the requested database, or the default file, and return it with its URL for people.

    The error for an unknown run names the database.
    """
    url = stored_in(database, file=RUNS_FILE)
    try:
        async with operating(url) as operator:
            yield operator, place(url)
    except RunNotFound as error:
        raise RunNotFound(f"{error_text(error)} in {place(url)}") from None


async def list_runs(
    database: str | None, wanted: RunFilter, *, limit: int, offset: int, as_json: bool
) -> None:
    """List runs, the last started or continued first."""
    async with _operating(database) as (operator, where):
        page = await operator.page(wanted, limit=limit, offset=offset)
    if as_json:
        write_json({"data": [asdict(run) for run in page], "total": page.total})
        return
    rows = [
        (
            r.id,
            r.agent,
            r.session_id,
            r.queue,
            r.status,
            r.segments,
            r.created_at,
            r.worker,
            r.version,
        )
        for r in page
    ]
    which = "no runs" if wanted == RunFilter() else "no runs that match the options"
    write_table(_TITLES, rows, empty=f"{where} has {which}.")
    write_rest(len(page), page.total, offset)


async def show(
    database: str | None, run_id: str, agent: str | None, *, html: Path | None, json: bool
) -> None:
    """Show a run's calls, and why it failed."""
    async with _operating(database) as (operator, _):
        opened = await operator.open(await operator.find(run_id, agent=agent))
    if html is not None:
        await anyio.Path(html).write_text(as_html(opened.timeline), encoding="utf-8")
        write_note(f"{html} shows the run {run_id}.")
    if json:
        write_json(opened_as_json(opened))
    elif html is None:
        for line in as_text(opened.timeline):
            write_line(line)
        if opened.failure is not None:
            write_line(opened.failure)


async def change(
    database: str | None,
    chosen: ChosenRuns,
    act: Act,
    allowed: Sequence[RunStatus],
    *,
    done: str,
    as_json: bool,
) -> int:
    """Change each chosen run; return how many could not be changed."""
    changes = _Changes(done, as_json=as_json)
    async with _operating(database) as (operator, where):
        for run in await chosen.runs(operator):
            problem = ""
            try:
                if run.status not in allowed:
                    raise RunExists(f"it is {run.status}, not {' or '.join(allowed)}")
                await act(operator.agent_of(run), run.id)
            except AgentError as error:
                problem = error_text(error)
            changes.add(run, problem)
    return changes.end(where)


async def delete(database: str | None, chosen: ChosenRuns, *, done: str, as_json: bool) -> int:
    """Delete the chosen runs; return how many could not be deleted."""
    changes = _Changes(done, as_json=as_json)
    async with _operating(database) as (operator, where):
        async for run, problem in operator.delete(await chosen.runs(operator)):
            changes.add(run, problem)
    return changes.end(where)


class _Changes:
    """Writes the outcome for each changed run: one note each, or one JSON value."""

    def __init__(self, done: str, *, as_json: bool) -> None:
        self._done = done
        self._as_json = as_json
        self._data: list[dict[str, str]] = []
        self._failed = 0

    def add(self, run: RunSummary, problem: str) -> None:
        error = {"error": problem} if problem else {}
        self._data.append({"id": run.id, "agent": run.agent, **error})
        self._failed += bool(problem)
        if not self._as_json:
            write_note(f"error: {run.id}: {problem}" if problem else f"{run.id} {self._done}.")

    def end(self, where: str) -> int:
        if self._as_json:
            write_json({"data": self._data, "failed": self._failed})
        elif not self._data:
            write_note(f"{where} has no runs that match.")
        return self._failed


async def list_waiting(database: str | None, chosen: ChosenRuns, *, as_json: bool) -> None:
    """List the calls that suspended runs wait for."""
    async with _operating(database) as (operator, where):
        found = [
            call for run in await chosen.runs(operator) for call in await operator.waiting(run)
        ]
    if as_json:
        write_json({"data": [waiting_as_json(each) for each in found]})
        return
    rows = [
        (w.run.id, w.run.agent, w.wants, w.digest or w.call.id, w.call.name, w.call.arguments)
        for w in found
    ]
    titles = ("run", "agent", "wants", "call", "tool", "arguments")
    write_table(titles, rows, empty=f"{where} has no calls that wait.")


async def list_doubts(database: str | None, *, as_json: bool) -> None:
    """List calls in doubt, of runs and of served turns."""
    async with _operating(database) as (operator, where):
        doubts, notes = await operator.doubts()
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
        write_json({"data": [asdict(doubt) for doubt in doubts]})
        return
    rows = [(d.agent, d.run_id, d.effect, d.tool, d.call_id, d.key) for d in doubts]
    titles = ("agent", "run", "effect", "tool", "call", "key")
    write_table(titles, rows, empty=f"{where} has no calls in doubt.")


async def limit_queue(
    database: str | None, queue: str, *, total: int | None, rate: int | None, as_json: bool
) -> None:
    """Replace the bounds of a queue."""
    async with _operating(database) as (operator, _):
        await operator.limit_queue(queue, total=total, rate=per_minute(rate))
    if as_json:
        write_json({"queue": queue, "total": total, "rate": rate})
        return
    bounds = [f"{total} runs at once"] if total is not None else []
    bounds += [f"{rate} starts in a minute"] if rate is not None else []
    allowed = f"allows {', '.join(bounds)}" if bounds else "has no bounds"
    write_note(f"The queue {queue} {allowed}.")


async def forget_doubt(
    database: str | None, run_id: str, effect: str, *, agent: str | None, as_json: bool
) -> None:
    """Remove a call in doubt; its run may have been deleted."""
    async with _operating(database) as (operator, where):
        doubts, _ = await operator.doubts()
        found = [
            doubt
            for doubt in doubts
            if (doubt.run_id, doubt.effect) == (run_id, effect) and agent in (None, doubt.agent)
        ]
        if not found:
            fail(
                f"no call {effect!r} of a run {run_id!r} is in doubt in {where}; see `runs doubts`"
            )
        if len(found) > 1:
            names = ", ".join(doubt.agent for doubt in found)
            fail(f"the agents {names} each have such a call: name one with --agent", 2)
        await operator.forget_doubt(found[0])
    if as_json:
        write_json(asdict(found[0]))
        return
    write_note(f"{effect} of {run_id} is no longer listed.")


def serve(database: str | None, *, host: str, port: int, as_json: bool) -> int:
    """Serve the page of runs until a signal; return the exit status."""
    from pathors_agent.server.http.keys import MAX_KEY
    from pathors_agent.server.running.serving import serve as serve_app
    from pathors_agent.server.runs_app import MIN_KEY_CHARACTERS, create_runs_app, is_loopback

    key = os.environ.get(_KEY_VARIABLE, "").strip() or None
    if key is None and not is_loopback(host):
        fail(f"--host {host} needs a key in {_KEY_VARIABLE}: others could read all runs", 2)
    if key is not None and not (key.isascii() and MIN_KEY_CHARACTERS <= len(key) <= MAX_KEY):
        fail(f"{_KEY_VARIABLE} must have {MIN_KEY_CHARACTERS} to {MAX_KEY} ASCII characters", 2)
    log_to_stderr(everything=False, as_json=False)

    def tell(address: str) -> None:
        if as_json:
            write_json({"url": address})
        else:
            write_line(f"Listening on {address}")

    app = create_runs_app(stored_in(database, file=RUNS_FILE), key=key)
    return serve_app(lambda: app, host=host, port=port, on_ready=tell)
