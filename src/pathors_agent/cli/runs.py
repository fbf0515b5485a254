"""The commands that read durable runs and their queues, directly in their database.

`run_changes` has those that change runs.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from pathors_agent.cli.output import (
    EXIT_STATUS,
    RUNS_FILE,
    WRONG_USAGE,
    fail,
    log_to_stderr,
    place,
    reporting,
    stored_in,
    write_json,
    write_line,
    write_note,
    write_rest,
    write_table,
)
from pathors_agent.cli.values import (
    TIME,
    AsJSON,
    Database,
    Host,
    Offset,
    Port,
    Rate,
    choice_option,
    filled,
    moment,
    new_group,
    number_option,
    per_minute,
)

if TYPE_CHECKING:
    from pathors_agent.durable.operator import Operator
    from pathors_agent.durable.run_list import RunFilter, RunSummary
    from pathors_agent.durable.tables import DoubtfulCall

_KEY_VARIABLE = "PATHORS_RUNS_KEY"

# Equal to `durable.run_list`, whose import would slow `--help` down.
Status = Literal[
    "queued",
    "running",
    "suspended",
    "finished",
    "limit_reached",
    "no_answer",
    "failed",
    "cancelled",
]

runs = new_group("List durable runs and act on them, directly in their database.")

OnlyStatus = Annotated[
    Status | None,
    choice_option(
        get_args(Status),
        f"Only runs with this status: {', '.join(get_args(Status))}.",
        metavar="STATUS",
    ),
]
OnlyAgent = Annotated[
    str | None,
    typer.Option(parser=filled, metavar="NAME", help="Only runs of the agent with this name."),
]
OnlySession = Annotated[
    str | None,
    typer.Option(parser=filled, metavar="ID", help="Only runs of the session with this id."),
]
OnlyQueue = Annotated[
    str | None,
    typer.Option(parser=filled, metavar="NAME", help="Only runs of the queue with this name."),
]
Since = Annotated[
    datetime | None,
    typer.Option(
        parser=moment,
        metavar="TIME",
        help=f"Only runs started or last continued since then: {TIME}.",
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option(
        parser=moment, metavar="TIME", help="Only runs started or last continued before then."
    ),
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
RunIds = Annotated[list[str] | None, typer.Argument(metavar="RUN", help="Ids of runs.")]
AgentName = Annotated[
    str | None,
    typer.Option("--agent", metavar="NAME", help="The run's agent, if several have this run id."),
]


def run_filter(
    statuses: Sequence[Status] = (),
    agent: str | None = None,
    session: str | None = None,
    queue: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> "RunFilter":
    """Return the filter of the options for runs."""
    from pathors_agent.durable.run_list import RunFilter

    return RunFilter(
        agent=agent, statuses=statuses, session_id=session, queue=queue, since=since, until=until
    )


def with_operator(database: str | None, work: "Callable[[Operator, str], Awaitable[None]]") -> None:
    """Open the requested database, or the default file, for one command.

    `work` also gets the database's URL for people, which the error for an unknown run names.
    """
    with reporting():
        from pathors_agent.durable.operator import operating
        from pathors_agent.errors import RunNotFound, error_text

        url = stored_in(database, file=RUNS_FILE)

        async def run() -> None:
            try:
                async with operating(url) as operator:
                    await work(operator, place(url))
            except RunNotFound as error:
                raise RunNotFound(f"{error_text(error)} in {place(url)}") from None

        asyncio.run(run())


async def chosen_runs(
    operator: "Operator", ids: Sequence[str] | None, wanted: "RunFilter"
) -> "Sequence[RunSummary]":
    """Return the runs with these ids, or all runs that match a filter.

    Raise `RunNotFound` before anything is changed.
    """
    if not ids:
        return await operator.all(wanted)
    return [await operator.find(each, agent=wanted.agent) for each in ids]


@runs.command("list", epilog=EXIT_STATUS)
def list_runs(
    *,
    status: OnlyStatus = None,
    agent: OnlyAgent = None,
    session: OnlySession = None,
    queue: OnlyQueue = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[
        int, number_option("The maximum number of rows, up to 10000.", most=10_000)
    ] = 50,
    offset: Offset = 0,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """List runs, the last started or continued first."""
    wanted = run_filter((status,) if status else (), agent, session, queue, since, until)

    async def work(operator: "Operator", where: str) -> None:
        page = await operator.page(wanted, limit=limit, offset=offset)
        if as_json:
            write_json({"data": [asdict(run) for run in page], "total": page.total})
            return
        columns = attrgetter(
            *("id", "agent", "session_id", "queue", "status"),
            *("segments", "created_at", "worker", "version"),
        )
        titles = ("run", "agent", "session", "queue", "status", "segments", "started")
        which = "no runs" if wanted == run_filter() else "no runs that match the options"
        write_table(
            (*titles, "worker", "version"), map(columns, page), empty=f"{where} has {which}."
        )
        write_rest(len(page), page.total, offset)

    with_operator(database, work)


@runs.command("show", epilog=EXIT_STATUS)
def show_run(
    run: RunId,
    *,
    agent: AgentName = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the timeline to an HTML file.")
    ] = None,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Show the calls of a run, with their times and outcomes.

    With --json, also its messages and the calls that it waits for.
    """

    async def work(operator: "Operator", _: str) -> None:
        from pathors_agent.durable.operator import opened_as_json
        from pathors_agent.durable.timeline import as_html, as_text

        opened = await operator.open(await operator.find(run, agent=agent))
        if html is not None:
            await asyncio.to_thread(html.write_text, as_html(opened.timeline), encoding="utf-8")
            write_note(f"{html} shows the run {run}.")
        if as_json:
            write_json(opened_as_json(opened))
        elif html is None:
            for line in as_text(opened.timeline):
                write_line(line)
            if opened.failure is not None:
                write_line(opened.failure)

    with_operator(database, work)


@runs.command("waiting", epilog=EXIT_STATUS)
def list_waiting(
    ids: RunIds = None,
    *,
    agent: OnlyAgent = None,
    session: OnlySession = None,
    queue: OnlyQueue = None,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """List the calls that wait for an approval or an answer.

    Of the named runs, or of all suspended runs that match the options.
    """

    async def work(operator: "Operator", where: str) -> None:
        from pathors_agent.durable.operator import waiting_as_json

        wanted = run_filter(("suspended",), agent, session, queue)
        chosen = await chosen_runs(operator, ids, wanted)
        found = [call for run in chosen for call in await operator.waiting(run)]
        if as_json:
            write_json({"data": [waiting_as_json(each) for each in found]})
            return
        rows = [
            (w.run.id, w.run.agent, w.wants, w.digest or w.call.id, w.call.name, w.call.arguments)
            for w in found
        ]
        titles = ("run", "agent", "wants", "call", "tool", "arguments")
        write_table(titles, rows, empty=f"{where} has no calls that wait.")

    with_operator(database, work)


@runs.command("limit", epilog=EXIT_STATUS)
def limit_queue(
    queue: Annotated[str, typer.Argument(parser=filled, metavar="QUEUE", help="The queue's name.")],
    *,
    total: Annotated[
        int | None, number_option("The maximum number of concurrent runs, over all workers.")
    ] = None,
    rate: Rate = None,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Replace the bounds of a queue.

    An option that is left out removes its bound. Running workers follow at once.
    """

    async def work(operator: "Operator", _: str) -> None:
        await operator.limit_queue(queue, total=total, rate=per_minute(rate))
        if as_json:
            write_json({"queue": queue, "total": total, "rate": rate})
            return
        bounds = [f"{total} runs at once"] if total is not None else []
        bounds += [f"{rate} starts in a minute"] if rate is not None else []
        allowed = f"allows {', '.join(bounds)}" if bounds else "has no bounds"
        write_note(f"The queue {queue} {allowed}.")

    with_operator(database, work)


@runs.command("doubts", epilog=EXIT_STATUS)
def list_doubts(*, database: Database = None, as_json: AsJSON = False) -> None:
    """List calls that began and have no known result."""

    async def work(operator: "Operator", where: str) -> None:
        doubts = await _doubts(operator)
        if as_json:
            write_json({"data": [asdict(doubt) for doubt in doubts]})
            return
        rows = [(d.agent, d.run_id, d.effect, d.tool, d.call_id, d.key) for d in doubts]
        titles = ("agent", "run", "effect", "tool", "call", "key")
        write_table(titles, rows, empty=f"{where} has no calls in doubt.")

    with_operator(database, work)


async def _doubts(operator: "Operator") -> "list[DoubtfulCall]":
    """Return the calls in doubt, of runs and of served turns."""
    from pathors_agent.durable.tables import DoubtfulCall
    from pathors_agent.server.turns.journal import calls_in_doubt

    doubts, notes = await operator.doubts()
    return doubts + [
        DoubtfulCall(
            agent="",
            run_id=f"{note.project}/{note.session_id}",
            effect=call.key.partition("/")[2],
            tool=call.tool,
            call_id=call.id,
            key=call.key,
        )
        for note, call in calls_in_doubt(notes)
    ]


@runs.command("forget", epilog=EXIT_STATUS)
def forget_doubt(
    run: RunId,
    effect: Annotated[
        str,
        typer.Argument(
            metavar="EFFECT", help="The effect, as shown by `runs doubts`, such as tool/0/0."
        ),
    ],
    *,
    agent: AgentName = None,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Remove a call from `runs doubts`, after you have checked it."""

    async def work(operator: "Operator", where: str) -> None:
        doubts, _ = await operator.doubts()
        found = [
            doubt
            for doubt in doubts
            if (doubt.run_id, doubt.effect) == (run, effect) and agent in (None, doubt.agent)
        ]
        if not found:
            fail(f"no call {effect!r} of a run {run!r} is in doubt in {where}; see `runs doubts`")
        if len(found) > 1:
            names = ", ".join(doubt.agent for doubt in found)
            fail(f"the agents {names} each have such a call: name one with --agent", WRONG_USAGE)
        await operator.forget_doubt(found[0])
        if as_json:
            write_json(asdict(found[0]))
            return
        write_note(f"{effect} of {run} is no longer listed.")

    with_operator(database, work)


@runs.command("serve", epilog=EXIT_STATUS)
def serve_runs(
    *,
    host: Host = "127.0.0.1",
    port: Port = 8001,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Serve a page that lists runs and opens one.

    It has an API under /api and metrics for Prometheus at /metrics. Requests need the key in
    PATHORS_RUNS_KEY. Without that variable only this machine can use the page, and HOST must be a
    loopback address.
    """
    with reporting():
        from pathors_agent.server.http.keys import MAX_KEY
        from pathors_agent.server.running.serving import serve as serve_app
        from pathors_agent.server.runs_app import MIN_KEY_CHARACTERS, create_runs_app, is_loopback

        key = os.environ.get(_KEY_VARIABLE, "").strip() or None
        if key is None and not is_loopback(host):
            fail(
                f"--host {host} needs a key in {_KEY_VARIABLE}: others could read all runs",
                WRONG_USAGE,
            )
        if key is not None and not (key.isascii() and MIN_KEY_CHARACTERS <= len(key) <= MAX_KEY):
            fail(
                f"{_KEY_VARIABLE} must have {MIN_KEY_CHARACTERS} to {MAX_KEY} ASCII characters",
                WRONG_USAGE,
            )
        log_to_stderr(everything=False, as_json=False)

        def tell(address: str) -> None:
            if as_json:
                write_json({"url": address})
            else:
                write_line(f"Listening on {address}")

        app = create_runs_app(stored_in(database, file=RUNS_FILE), key=key)
        status = serve_app(lambda: app, host=host, port=port, on_ready=tell)
        raise typer.Exit(status)
