"""The commands and their options; their code is imported when they run."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pathors_agent import __version__
from pathors_agent.cli import durable_app, runs_app
from pathors_agent.cli.output import (
    EXIT_STATUS,
    AsJSON,
    listen_to_ctrl_c,
    place,
    reporting,
    stored_in,
)
from pathors_agent.cli.values import (
    api_key,
    database_option,
    endpoint,
    filled,
    project_id,
    session_id,
)

if TYPE_CHECKING:
    from pathors_agent.stores.base import Store

_HERE = "Works directly on the database, without a key or a running server."

# No locals in tracebacks, because they may contain keys. Plain help, because it is fast.
_new_app = partial(
    typer.Typer,
    epilog=EXIT_STATUS,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app = _new_app(
    name="pathors-agent",
    help="Serve agents as an OpenAI-compatible API with sessions, and talk to them.",
)
keys = _new_app(add_completion=False, help=f"Create, list and revoke API keys. {_HERE}")
sessions = _new_app(add_completion=False, help=f"List, show, search and end sessions. {_HERE}")
app.add_typer(keys, name="keys")
app.add_typer(sessions, name="sessions")
app.add_typer(runs_app.runs, name="runs")

Database = Annotated[str | None, database_option("a file")]
ProjectName = Annotated[
    str, typer.Option(parser=project_id, metavar="NAME", help="The project's name.")
]
AnyProject = Annotated[
    str | None,
    typer.Option(parser=project_id, metavar="NAME", help="Only the keys of this project."),
]
Limit = Annotated[
    int, typer.Option(min=1, max=1000, metavar="N", help="The maximum number of rows.")
]
Offset = Annotated[int, typer.Option(min=0, metavar="N", help="The number of rows to skip.")]
Timeline = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a timeline of all calls to an HTML file."),
]
AccessLog = Literal["text", "json"]
Model = Annotated[
    str | None, typer.Option(parser=filled, metavar="NAME", help="The model to ask for.")
]
SessionId = Annotated[
    str, typer.Argument(metavar="SESSION", help="The session's id, as shown by `sessions list`.")
]


def _show_version(wanted: bool) -> None:  # noqa: FBT001  (typer calls it)
    if wanted:
        typer.echo(f"pathors-agent {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Handle the options before a command."""


@app.command(epilog=EXIT_STATUS)
def serve(
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="A TOML file of projects. Default: the project `demo`.",
        ),
    ] = None,
    database: Database = None,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="The address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, metavar="PORT", help="The port to listen on; 0 picks a free one."
        ),
    ] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, max=256, metavar="N", help="The number of processes.")
    ] = 1,
    ui: Annotated[bool, typer.Option("--ui", help="Serve a chat page at /.")] = False,
    front_ends: Annotated[
        bool,
        typer.Option(
            "--front-ends", help="Serve the protocols of useChat (AI SDK) and AG-UI, too."
        ),
    ] = False,
    durable: Annotated[
        bool,
        typer.Option(
            "--durable", help="Run turns durably: another process finishes them after a crash."
        ),
    ] = False,
    log: Annotated[
        bool, typer.Option("--log", help="Log events to standard error, without message contents.")
    ] = False,
    access_log: Annotated[
        AccessLog | None,
        typer.Option(
            "--access-log",
            metavar="text|json",
            help="Log one line per request to standard error. With json, every log line is JSON.",
        ),
    ] = None,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Serve Prometheus metrics at /metrics, without a key.")
    ] = False,
    as_json: AsJSON = False,
) -> None:
    """Serve projects over HTTP.

    Without --config, serve the project `demo`: three tools, answers by rules, and a new key that is
    printed once. SIGTERM or Ctrl-C waits for running turns; a second one stops at once.
    """
    with reporting():
        from pathors_agent.cli.serve import ServeOptions
        from pathors_agent.cli.serve import serve as run

        served = ServeOptions(
            database=stored_in(database),
            config=config,
            ui=ui,
            front_ends=front_ends,
            durable=durable,
            log=log,
            access_log=access_log,
            metrics=metrics,
        )
        status = run(served, host=host, port=port, workers=workers, as_json=as_json)
        raise typer.Exit(status)


@app.command(epilog=EXIT_STATUS)
def chat(
    *,
    url: Annotated[
        str | None,
        typer.Option(
            parser=endpoint,
            metavar="URL",
            help="The base URL of an OpenAI-compatible endpoint, without /chat/completions. Default:"
            " PATHORS_BASE_URL, or the hosted project PATHORS_PROJECT_ID, or the demo in this process.",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            parser=api_key,
            metavar="KEY",
            help="The API key, which other users of the machine can see. Default: PATHORS_API_KEY, if PATHORS_BASE_URL has the same host, and for this machine.",
        ),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(parser=session_id, metavar="ID", help="Continue this session."),
    ] = None,
    model: Model = None,
    timeline: Timeline = None,
    as_json: AsJSON = False,
) -> None:
    """Talk to an agent, line by line.

    Answers stream, and calls of the server's tools are shown. /help lists the commands. Ctrl-C stops an
    answer; exit or Ctrl-D ends. Lines may also come from a file or pipe, where the first error ends the
    command, and so does a call that waits for an approval.
    """
    options = {"api_key": "--key", "model": "--model", **({"base_url": "--url"} if url else {})}
    with reporting(options):
        from pathors_agent.cli.chat import chat as run

        asked = {"key": key, "model": model, "session": session}
        raise typer.Exit(run(url, **asked, timeline=timeline, as_json=as_json, options=options))


@app.command(
    epilog="Exit status: 0 agents work, 1 the endpoint cannot be reached, 2 wrong usage, 3 a required "
    "feature is missing, 4 a required feature was not observed, 5 agents work with the profile shown, "
    "130 interrupted."
)
def check(
    url: Annotated[
        str,
        typer.Argument(
            parser=endpoint, metavar="URL", help="The base URL, without /chat/completions."
        ),
    ],
    *,
    key: Annotated[
        str | None,
        typer.Option(
            parser=api_key,
            metavar="KEY",
            help="The API key, which other users of the machine can see. Default: PATHORS_API_KEY, if PATHORS_BASE_URL has the same host, and for this machine.",
        ),
    ] = None,
    model: Model = None,
    tokens: Annotated[
        int, typer.Option(min=16, metavar="N", help="The maximum number of tokens per answer.")
    ] = 256,
    seconds: Annotated[
        float, typer.Option(min=1, metavar="S", help="The timeout of one answer.")
    ] = 60,
    as_json: AsJSON = False,
) -> None:
    """Test what an endpoint supports, and print the profile to use.

    Sends about forty short requests in sequence. A feature that the model is too weak to show is reported
    as "not seen". Deletes the sessions that the requests created.
    """
    listen_to_ctrl_c()
    with reporting({"api_key": "--key", "base_url": "URL", "model": "--model"}):
        from pathors_agent.cli.check import check as run

        status = run(url, key=key, model=model, tokens=tokens, seconds=seconds, as_json=as_json)
        raise typer.Exit(status)


@app.command(epilog=EXIT_STATUS)
def demo(
    *,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            "--prompt",
            metavar="TEXT",
            help="A prompt; repeat the option for a longer conversation.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model to ask the endpoint for.")
    ] = None,
    timeline: Timeline = None,
    no_color: Annotated[bool, typer.Option("--no-color", help="Write without colours.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Show a conversation that uses three tools.

    The tools are calculate, convert and local_time. Starts a server on this machine that answers by rules, without a language model. If the environment
    has PATHORS_BASE_URL, or PATHORS_API_KEY and PATHORS_PROJECT_ID, that endpoint answers instead, and the
    tools run here. NO_COLOR turns colours off.
    """
    listen_to_ctrl_c()
    with reporting({"model": "--model"}):
        from pathors_agent.cli.demo import run_demo

        run_demo(
            prompt or (),
            model=model,
            colour=not no_color,
            timeline=timeline,
            as_json=as_json,
        )


durable_app.register(app)

# - keys -


@keys.command("create", epilog=EXIT_STATUS)
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")] = "",
    *,
    project: ProjectName = "demo",
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Create a key, and print it once.

    The database keeps only its digest.
    """
    with reporting():
        from pathors_agent.cli import keys as commands

        _with_store(database, lambda s: commands.create(s, project, name, as_json=as_json))


@keys.command("list", epilog=EXIT_STATUS)
def list_keys(
    *, project: AnyProject = None, database: Database = None, as_json: AsJSON = False
) -> None:
    """List keys, including revoked ones."""
    with reporting():
        from pathors_agent.cli import keys as commands

        where = place(stored_in(database))
        _with_store(database, lambda s: commands.show_all(s, project, where=where, as_json=as_json))


@keys.command("revoke", epilog=EXIT_STATUS)
def revoke_key(
    key: Annotated[
        str, typer.Argument(parser=filled, metavar="KEY", help="The key's id, or its name.")
    ],
    *,
    project: AnyProject = None,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Revoke a key permanently. Running servers refuse it within a second."""
    with reporting():
        from pathors_agent.cli import keys as commands

        _with_store(database, lambda s: commands.revoke(s, project, key, as_json=as_json))


# - sessions -


@sessions.command("list", epilog=EXIT_STATUS)
def list_sessions(
    *,
    project: ProjectName = "demo",
    limit: Limit = 50,
    offset: Offset = 0,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """List sessions, newest first, including ended ones."""
    with reporting():
        from pathors_agent.cli import sessions as commands

        where = place(stored_in(database))
        _with_store(
            database,
            lambda s: commands.show_all(
                s, project, where=where, limit=limit, offset=offset, as_json=as_json
            ),
        )


@sessions.command("show", epilog=EXIT_STATUS)
def show_session(
    session: SessionId,
    *,
    project: ProjectName = "demo",
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Show the messages of a session."""
    with reporting():
        from pathors_agent.cli import sessions as commands

        _with_store(database, lambda s: commands.show(s, project, session, as_json=as_json))


@sessions.command("search", epilog=EXIT_STATUS)
def search_sessions(
    text: Annotated[
        str,
        typer.Argument(metavar="TEXT", help="The text as it appears in the JSON; case-sensitive."),
    ],
    *,
    project: ProjectName = "demo",
    limit: Limit = 50,
    offset: Offset = 0,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Find sessions that contain a text, last updated first.

    Their messages and variables are searched.
    """
    with reporting():
        from pathors_agent.cli import sessions as commands

        _with_store(
            database,
            lambda s: commands.search(
                s, project, text, limit=limit, offset=offset, as_json=as_json
            ),
        )


@sessions.command("end", epilog=EXIT_STATUS)
def end_session(
    session: SessionId,
    *,
    project: ProjectName = "demo",
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """End a session, and delete its variables and messages permanently."""
    with reporting():
        from pathors_agent.cli import sessions as commands

        _with_store(database, lambda s: commands.end(s, project, session, as_json=as_json))


def _with_store(database: str | None, use: "Callable[[Store], Awaitable[None]]") -> None:
    """Open the database for one command."""
    from pathors_agent.stores.sql import SQLStore

    async def run() -> None:
        async with SQLStore(stored_in(database)) as store:
            await use(store)

    asyncio.run(run())
