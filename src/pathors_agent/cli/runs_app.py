"""The commands for stored durable runs and their options; their code is imported when they run."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from pathors_agent.cli.output import EXIT_STATUS, reporting
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
    json_object,
    moment,
    new_group,
    number_option,
)

if TYPE_CHECKING:
    from pathors_agent.cli.runs import Act
    from pathors_agent.durable.run_list import RunFilter

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

CANCELLABLE: tuple[Status, ...] = ("queued", "running", "suspended")
RESUMABLE: tuple[Status, ...] = ("failed", "limit_reached")
ENDED: tuple[Status, ...] = ("finished", "limit_reached", "no_answer", "failed", "cancelled")

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
Call = Annotated[str, typer.Argument(metavar="CALL", help="The call, as shown by `runs waiting`.")]


def _filter(
    statuses: Sequence[Status] = (),
    agent: str | None = None,
    session: str | None = None,
    queue: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> "RunFilter":
    from pathors_agent.durable.run_list import RunFilter

    return RunFilter(
        agent=agent,
        statuses=statuses,
        session_id=session,
        queue=queue,
        since=since,
        until=until,
    )


def _check_choice(ids: list[str] | None, *conditions: object) -> None:
    """Refuse a change of all runs, and one of named runs that has conditions too."""
    has_condition = any(condition is not None for condition in conditions)
    if bool(ids) == has_condition:
        raise typer.BadParameter(
            "name runs, or choose them by an option such as --status; not both", param_hint="RUN"
        )


def _add_change(
    name: str,
    description: str,
    act: "Act | None",
    done: str,
    *,
    allowed: Sequence[Status],
    default: Sequence[Status],
) -> None:
    """Add a command that changes the named runs, or all that match its options.

    Without `--status`, runs with a `default` status match. An `act` of None deletes the runs.
    """

    def change(
        ids: RunIds = None,
        *,
        status: OnlyStatus = None,
        agent: OnlyAgent = None,
        session: OnlySession = None,
        queue: OnlyQueue = None,
        since: Since = None,
        until: Until = None,
        database: Database = None,
        as_json: AsJSON = False,
    ) -> None:
        _check_choice(ids, status, None if ids else agent, session, queue, since, until)
        if status is not None and status not in allowed:
            raise typer.BadParameter(
                f"must be {' or '.join(allowed)} here, not {status}", param_hint="--status"
            )
        statuses = default if status is None else (status,)
        if act is None and session and status is None:
            statuses = ()  # the whole session
        wanted = _filter(statuses, agent, session, queue, since, until)
        _change(act, done, allowed, database, ids, wanted, as_json=as_json)

    runs.command(name, help=description, epilog=EXIT_STATUS)(change)


def _change(
    act: "Act | None",
    done: str,
    allowed: Sequence[Status],
    database: str | None,
    ids: list[str] | None,
    wanted: "RunFilter",
    *,
    as_json: bool,
) -> None:
    """Change the named runs, or all that match, and end with the exit status."""
    with reporting():
        from pathors_agent.cli import runs as commands

        chosen = commands.ChosenRuns(ids or (), wanted)
        if act is None:
            work = commands.delete(database, chosen, done=done, as_json=as_json)
        else:
            work = commands.change(database, chosen, act, allowed, done=done, as_json=as_json)
        raise typer.Exit(1 if asyncio.run(work) else 0)


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
    with reporting():
        from pathors_agent.cli import runs as commands

        wanted = _filter((status,) if status else (), agent, session, queue, since, until)
        asyncio.run(
            commands.list_runs(database, wanted, limit=limit, offset=offset, as_json=as_json)
        )


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
    with reporting():
        from pathors_agent.cli import runs as commands

        asyncio.run(commands.show(database, run, agent, html=html, json=as_json))


_add_change(
    "cancel",
    "Cancel queued, running and suspended runs permanently.\n\n"
    "The named runs, or all that match the options.",
    lambda durable, run_id: durable.cancel(run_id),
    "is cancelled",
    allowed=CANCELLABLE,
    default=CANCELLABLE,
)
_add_change(
    "resume",
    "Continue runs that failed or reached a limit, where they stopped.\n\n"
    "The named runs, or all that match the options; without --status, those that failed.",
    lambda durable, run_id: durable.resume(run_id),
    "waits for a worker",
    allowed=RESUMABLE,
    default=("failed",),
)
_add_change(
    "delete",
    "Delete runs that have ended, with their contents.\n\n"
    "The named runs, or all that match the options. A run is only deleted together with all other"
    " runs of its session, which read its messages. --session deletes a whole session; suspended"
    " runs need it, or --status suspended.",
    None,
    "is deleted",
    allowed=(*ENDED, "suspended"),
    default=ENDED,
)


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
    with reporting():
        from pathors_agent.cli import runs as commands

        wanted = _filter(("suspended",), agent, session, queue)
        chosen = commands.ChosenRuns(ids or (), wanted)
        asyncio.run(commands.list_waiting(database, chosen, as_json=as_json))


def _decide(
    run: str, agent: str | None, act: "Act", database: str | None, *, as_json: bool
) -> None:
    """Decide about a call of a suspended run."""
    wanted = _filter(agent=agent)
    _change(act, "continues", ("suspended",), database, [run], wanted, as_json=as_json)


@runs.command("approve", epilog=EXIT_STATUS)
def approve_call(
    run: RunId,
    call: Call,
    *,
    arguments: Annotated[
        dict[str, Any] | None,
        typer.Option(
            parser=json_object,
            metavar="JSON",
            help="Run the call with these arguments instead of the model's.",
        ),
    ] = None,
    agent: AgentName = None,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Approve a call: it runs, and the run continues."""
    _decide(
        run,
        agent,
        lambda durable, run_id: durable.approve(run_id, call, arguments=arguments),
        database,
        as_json=as_json,
    )


@runs.command("deny", epilog=EXIT_STATUS)
def deny_call(
    run: RunId,
    call: Call,
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="The reason, for the model.")] = "",
    agent: AgentName = None,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Deny a call: the model reads the reason, and the run continues."""
    _decide(
        run,
        agent,
        lambda durable, run_id: durable.deny(run_id, call, reason=reason),
        database,
        as_json=as_json,
    )


@runs.command("answer", epilog=EXIT_STATUS)
def answer_call(
    run: RunId,
    call: Annotated[
        str, typer.Argument(metavar="CALL", help="The call's id, from `runs waiting`.")
    ],
    result: Annotated[str, typer.Argument(metavar="RESULT", help="The result, for the model.")],
    *,
    agent: AgentName = None,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Answer a call of a client's tool; the run continues."""
    _decide(
        run,
        agent,
        lambda durable, run_id: durable.answer(run_id, {call: result}),
        database,
        as_json=as_json,
    )


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
    with reporting():
        from pathors_agent.cli import runs as commands

        asyncio.run(commands.limit_queue(database, queue, total=total, rate=rate, as_json=as_json))


@runs.command("doubts", epilog=EXIT_STATUS)
def list_doubts(*, database: Database = None, as_json: AsJSON = False) -> None:
    """List calls that began and have no known result."""
    with reporting():
        from pathors_agent.cli import runs as commands

        asyncio.run(commands.list_doubts(database, as_json=as_json))


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
    with reporting():
        from pathors_agent.cli import runs as commands

        asyncio.run(commands.forget_doubt(database, run, effect, agent=agent, as_json=as_json))


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
        from pathors_agent.cli import runs as commands

        raise typer.Exit(commands.serve(database, host=host, port=port, as_json=as_json))
