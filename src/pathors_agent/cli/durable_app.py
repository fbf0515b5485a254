"""The commands for durable runs and their options; what they do is loaded when they run."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from pathors_agent.cli.reporting import EXIT_STATUS, reporting

_SETTINGS = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}

runs = typer.Typer(
    help="Look into durable runs, straight on their database.",
    epilog=EXIT_STATUS,
    **_SETTINGS,  # type: ignore[arg-type]  # as in app.py
)

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
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Only those that stand there.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, metavar="N")] = 50,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """List runs, newest first: id, session, status, worker, version."""
    with reporting():
        from pathors_agent.cli import durable as commands

        asyncio.run(commands.list_runs(database, status=status, limit=limit, as_json=as_json))


@runs.command("show", epilog=EXIT_STATUS)
def show_run(
    run: RunId,
    *,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one page that shows it as bars.")
    ] = None,
    database: Database = None,
) -> None:
    """Show the calls of a run: how long each took, and what became of it."""
    with reporting():
        from pathors_agent.cli import durable as commands

        asyncio.run(commands.show_run(database, run, html=html))


@runs.command("cancel", epilog=EXIT_STATUS)
def cancel_run(run: RunId, *, database: Database = None) -> None:
    """End a run for good."""
    with reporting():
        from pathors_agent.cli import durable as commands

        asyncio.run(commands.cancel(database, run))


@runs.command("resume", epilog=EXIT_STATUS)
def resume_run(run: RunId, *, database: Database = None) -> None:
    """Let a run that failed go on from what it owes."""
    with reporting():
        from pathors_agent.cli import durable as commands

        asyncio.run(commands.resume(database, run))


@runs.command("doubts", epilog=EXIT_STATUS)
def list_doubts(*, database: Database = None, as_json: AsJSON = False) -> None:
    """List the calls of which nobody knows whether they were carried out."""
    with reporting():
        from pathors_agent.cli import durable as commands

        asyncio.run(commands.list_doubts(database, as_json=as_json))
