"""The commands `worker` and `batch` and their options; their code is imported when they run."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from pathors_agent.cli.output import EXIT_STATUS, log_to_stderr, reporting
from pathors_agent.cli.values import (
    AsJSON,
    Database,
    Rate,
    age,
    app_object,
    filled,
    number_option,
)

_APP = "An AsyncAgent, or a function without arguments that returns one."
Concurrency = Annotated[
    int, number_option("The maximum number of concurrent runs in this process.")
]


def register(app: typer.Typer) -> None:
    """Add these commands to the program's."""
    app.command("worker", epilog=EXIT_STATUS)(worker)
    app.command("batch", epilog=EXIT_STATUS)(batch)


def worker(
    *,
    app: Annotated[
        list[str],
        typer.Option(
            parser=app_object,
            metavar="MODULE:OBJECT",
            help=f"{_APP} Can be repeated.",
        ),
    ],
    queue: Annotated[
        list[str],
        typer.Option(
            parser=filled,
            metavar="NAME",
            help="The queue to take runs from: one, or one for each --app.",
        ),
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(
            parser=filled,
            metavar="NAME",
            help="The agent's name in the database, one for each --app. Default: agent, or with"
            " several apps the names of their objects.",
        ),
    ] = None,
    database: Database = None,
    concurrency: Concurrency = 10,
    total: Annotated[
        int | None,
        number_option("The maximum number of concurrent runs of the queue, over all workers."),
    ] = None,
    rate: Rate = None,
    app_version: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="The version of the code. Default: derived from the tools."
        ),
    ] = None,
    attempts: Annotated[
        int, number_option("Fail a run after its process died this many times.")
    ] = 3,
    retention: Annotated[
        timedelta | None,
        typer.Option(
            parser=age,
            metavar="AGE",
            help="Delete sessions whose last run ended longer ago, such as 30d. Default: keep them.",
        ),
    ] = None,
    log: Annotated[
        bool,
        typer.Option("--log", help="Write every event to standard error, not only problems."),
    ] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Write log lines as JSON.")] = False,
) -> None:
    """Carry out durable runs until SIGTERM or Ctrl-C.

    A single --app may have several queues. --concurrency applies to each agent and queue. A stopping
    worker waits 20 seconds for running runs; other workers continue the rest. Problems are logged to
    standard error, without contents; --log logs every event.
    """
    with reporting():
        from pathors_agent.cli import durable as commands

        made = [
            commands.AgentOptions(
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
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", exists=True, dir_okay=False, help="A file of JSON lines."),
    ],
    *,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The file for the results.")],
    app: Annotated[str, typer.Option(parser=app_object, metavar="MODULE:OBJECT", help=_APP)],
    name: Annotated[
        str, typer.Option(parser=filled, metavar="NAME", help="The agent's name in the database.")
    ] = "agent",
    batch_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The name of the batch; lines that ended under it are not run again. Default: INPUT's name.",
        ),
    ] = None,
    database: Database = None,
    queue: Annotated[
        str, typer.Option(parser=filled, metavar="NAME", help="The queue to use.")
    ] = "batch",
    concurrency: Concurrency = 10,
    rate: Rate = None,
    work: Annotated[bool, typer.Option(help="Carry out runs in this process, too.")] = True,
    as_json: AsJSON = False,
) -> None:
    """Run each line of a file as a conversation.

    A line is like {"id": "a", "prompt": "..."}, or has `messages` like a request of the API. Started
    again, a batch continues where it stopped and retries the lines that failed. Errors are written
    beside the results; the exit status is 1 if there are any.
    """
    with reporting():
        from pathors_agent.cli import durable as commands

        made = commands.AgentOptions(app, name=name, database=database, queue=queue, version=None)
        failed = asyncio.run(
            commands.batch(
                made,
                source,
                output,
                name=batch_name or source.stem,
                concurrency=concurrency,
                rate=rate,
                works=work,
                as_json=as_json,
            )
        )
        raise typer.Exit(1 if failed else 0)
