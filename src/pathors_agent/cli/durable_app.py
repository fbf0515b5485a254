"""The commands for durable runs and their options; what they do is loaded when they run."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer

from pathors_agent.cli.reporting import EXIT_STATUS, reporting

# As `durable.run_list.STATUSES`, whose import would slow `--help` down.
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

_SETTINGS = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}

runs = typer.Typer(
    help="Look into durable runs, straight on their database.",
    epilog=EXIT_STATUS,
    **_SETTINGS,  # type: ignore[arg-type]  # as in app.py
)

_TIME = "an age such as 30m, 12h or 7d, or a time such as 2026-11-28T10:00 (local without a zone)"
_AGE = re.compile(r"(\d{1,6})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def age(text: str) -> timedelta:
    """Read an age: a number with m (minutes), h (hours) or d (days)."""
    if (found := _AGE.fullmatch(text)) is None:
        raise typer.BadParameter(f"{text!r} is not an age: write a number with m, h or d, as 30d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def moment(text: str) -> datetime:
    """Read a time: an age before now, or a date with or without a time of day."""
    try:
        if _AGE.fullmatch(text):
            return datetime.now(UTC) - age(text)
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not a time: write {_TIME}") from None


Database = Annotated[
    str | None,
    typer.Option(
        envvar="PATHORS_DATABASE",
        metavar="URL",
        help="sqlite:///FILE or postgresql://USER@HOST/NAME; else runs.db in the user's data"
        " folder (PATHORS_DATA_DIR).",
    ),
]
App = Annotated[
    str,
    typer.Option(
        metavar="MODULE:OBJECT", help="The AsyncAgent, or a function without arguments making one."
    ),
]
Name = Annotated[str, typer.Option(metavar="NAME", help="The agent's name in the database.")]
Queue = Annotated[str, typer.Option(metavar="NAME", help="The queue to take runs from.")]
Concurrency = Annotated[int, typer.Option(min=1, metavar="N", help="How many runs at once.")]
Rate = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="How many runs may start in a minute.")
]
OnlyStatus = Annotated[Status | None, typer.Option(help="Only runs with this status.")]
OnlyAgent = Annotated[
    str | None, typer.Option(metavar="NAME", help="Only runs of the agent with this name.")
]
OnlySession = Annotated[
    str | None, typer.Option(metavar="ID", help="Only runs of the session with this id.")
]
OnlyQueue = Annotated[
    str | None, typer.Option(metavar="NAME", help="Only runs of the queue with this name.")
]
Since = Annotated[
    datetime | None,
    typer.Option(
        parser=moment,
        metavar="TIME",
        help=f"Only runs started or last continued since then: {_TIME}.",
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option(
        parser=moment, metavar="TIME", help="Only runs started or last continued before then."
    ),
]
OfAgent = Annotated[
    str | None,
    typer.Option(
        "--agent", metavar="NAME", help="The agent's name, if several agents have such a run."
    ),
]
RunId = Annotated[str, typer.Argument(metavar="RUN")]
AsJSON = Annotated[bool, typer.Option("--json", help="Write JSON, one value on a line.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program's."""
    app.command("worker", epilog=EXIT_STATUS)(worker)
    app.command("batch", epilog=EXIT_STATUS)(batch)
    app.add_typer(runs, name="runs")


def worker(
    *,
    app: App,
    queue: Queue,
    name: Name = "agent",
    database: Database = None,
    concurrency: Concurrency = 10,
    total: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="How many of the queue at once, on all workers."),
    ] = None,
    rate: Rate = None,
    app_version: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The code's version; else made of the tools."),
    ] = None,
) -> None:
    """Carry out durable runs of a queue, until SIGTERM or Ctrl-C.

    What runs then may end within 20 seconds; the rest is left to other workers, and goes on where
    it was.
    """
    with reporting():
        from pathors_agent.cli import durable as commands

        made = commands.Made(app, name=name, database=database, queue=queue, version=app_version)
        asyncio.run(commands.work(made, concurrency=concurrency, total=total, rate=rate))


def batch(
    source: Annotated[Path, typer.Argument(metavar="INPUT", exists=True, dir_okay=False)],
    *,
    output: Annotated[Path, typer.Option(metavar="FILE", help="Where the results go.")],
    app: App,
    name: Name = "agent",
    batch_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Lines done under it are not run again; else INPUT's."),
    ] = None,
    database: Database = None,
    queue: Annotated[str, typer.Option(metavar="NAME", help="The queue to use.")] = "batch",
    concurrency: Concurrency = 10,
    rate: Rate = None,
    work: Annotated[
        bool, typer.Option(help="Carry runs out here too, not only by other workers.")
    ] = True,
) -> None:
    """Run each line of a file as a conversation.

    A line is like {"id": "a", "prompt": "..."}, or has `messages` as the API has them. Run again,
    it goes on where it stopped, and tries again what failed. Errors are kept beside the results;
    the exit status is 1 where there are some.
    """
    with reporting():
        from pathors_agent.cli import durable as commands

        made = commands.Made(app, name=name, database=database, queue=queue, version=None)
        failed = asyncio.run(
            commands.batch(
                made,
                source,
                output,
                name=batch_name or source.stem,
                concurrency=concurrency,
                rate=rate,
                works=work,
            )
        )
        raise typer.Exit(1 if failed else 0)


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
        int, typer.Option(min=1, max=10_000, metavar="N", help="How many at most.")
    ] = 50,
    offset: Annotated[int, typer.Option(min=0, metavar="N", help="How many to skip.")] = 0,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """List runs, the last started or continued first."""
    with reporting():
        from pathors_agent.cli import runs as commands
        from pathors_agent.durable.run_list import RunFilter

        wanted = RunFilter(
            agent=agent,
            status=status,
            session_id=session,
            queue=queue,
            since=since,
            until=until,
        )
        asyncio.run(
            commands.list_runs(database, wanted, limit=limit, offset=offset, as_json=as_json)
        )


@runs.command("show", epilog=EXIT_STATUS)
def show_run(
    run: RunId,
    *,
    agent: OfAgent = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one page that shows it as bars.")
    ] = None,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Show the calls of a run, with their times and outcomes."""
    with reporting():
        from pathors_agent.cli import runs as commands

        asyncio.run(commands.show(database, run, agent=agent, html=html, json=as_json))


@runs.command("cancel", epilog=EXIT_STATUS)
def cancel_run(run: RunId, *, agent: OfAgent = None, database: Database = None) -> None:
    """End a run for good."""
    with reporting():
        from pathors_agent.cli import runs as commands

        asyncio.run(commands.cancel(database, run, agent=agent))


@runs.command("resume", epilog=EXIT_STATUS)
def resume_run(run: RunId, *, agent: OfAgent = None, database: Database = None) -> None:
    """Continue a failed run where it stopped."""
    with reporting():
        from pathors_agent.cli import runs as commands

        asyncio.run(commands.resume(database, run, agent=agent))


@runs.command("doubts", epilog=EXIT_STATUS)
def list_doubts(*, database: Database = None, as_json: AsJSON = False) -> None:
    """List calls that began and have no known result."""
    with reporting():
        from pathors_agent.cli import runs as commands

        asyncio.run(commands.list_doubts(database, as_json=as_json))
