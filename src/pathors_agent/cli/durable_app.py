"""The commands that carry out durable runs, and their options; what they do is loaded when they run."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from pathors_agent.cli.output import EXIT_STATUS, log_to_stderr, reporting

SETTINGS = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}

AGE = re.compile(r"([1-9]\d{0,3})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def age(text: str) -> timedelta:
    """Read an age: a number with m (minutes), h (hours) or d (days)."""
    if (found := AGE.fullmatch(text)) is None:
        raise typer.BadParameter(f"{text!r} is not an age: write a number with m, h or d, as 30d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


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
        metavar="MODULE:OBJECT",
        help="The AsyncAgent, or a function without arguments that makes it.",
    ),
]
Name = Annotated[str, typer.Option(metavar="NAME", help="The agent's name in the database.")]
Concurrency = Annotated[
    int, typer.Option(min=1, metavar="N", help="How many runs at once, in this process.")
]
Rate = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="How many runs may start in a minute.")
]
AsJSON = Annotated[bool, typer.Option("--json", help="Write JSON, one value on a line.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program's."""
    app.command("worker", epilog=EXIT_STATUS)(worker)
    app.command("batch", epilog=EXIT_STATUS)(batch)


def worker(
    *,
    app: Annotated[
        list[str],
        typer.Option(
            metavar="MODULE:OBJECT",
            help="The AsyncAgent, or a function without arguments that makes it. Can be repeated.",
        ),
    ],
    queue: Annotated[
        list[str],
        typer.Option(
            metavar="NAME", help="The queue to take runs from: one, or one for each --app."
        ),
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="The agent's name in the database, one for each --app. Else agent, and for several"
            " apps the names of their objects.",
        ),
    ] = None,
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
    attempts: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="A run fails if its process died this often meanwhile."
        ),
    ] = 3,
    retention: Annotated[
        timedelta | None,
        typer.Option(
            parser=age,
            metavar="AGE",
            help="Delete sessions whose runs all ended longer ago, as 30d; else keep them.",
        ),
    ] = None,
    log: Annotated[
        bool,
        typer.Option("--log", help="Write every event to standard error, not only problems."),
    ] = False,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Write the lines on standard error as JSON.")
    ] = False,
) -> None:
    """Carry out the durable runs of agents and queues until SIGTERM or Ctrl-C.

    One --app may have several queues. --concurrency is for each agent and queue.
    Running runs then have 20 seconds to end; other workers continue the rest. Problems are written
    to standard error, without contents; --log writes every event.
    """
    with reporting():
        from pathors_agent.cli import durable as commands

        made = [
            commands.Made(
                module,
                name=agent,
                database=database,
                queue=own,
                version=app_version,
                retention=retention,
                attempts=attempts,
            )
            for module, agent, own in commands.placed(app, name or (), queue)
        ]
        log_to_stderr(everything=log, as_json=log_json)
        working = commands.work(
            made, concurrency=concurrency, total=total, rate=rate, has_notes=not log_json
        )
        asyncio.run(working)


def batch(
    source: Annotated[Path, typer.Argument(metavar="INPUT", exists=True, dir_okay=False)],
    *,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The file for the results.")],
    app: App,
    name: Name = "agent",
    batch_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Lines that ended under this name are not run again; INPUT's name unless given.",
        ),
    ] = None,
    database: Database = None,
    queue: Annotated[str, typer.Option(metavar="NAME", help="The queue to use.")] = "batch",
    concurrency: Concurrency = 10,
    rate: Rate = None,
    work: Annotated[
        bool, typer.Option(help="Carry out runs here too, not only in other workers.")
    ] = True,
) -> None:
    """Run each line of a file as a conversation.

    A line is like {"id": "a", "prompt": "..."}, or has `messages` like a request of the API. Started
    again, a batch continues where it stopped and retries the lines that failed. Errors are written
    beside the results; the exit status is 1 if there are any.
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
