"""The commands and their options; their code is imported when they run."""

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from pathors_agent import __version__
from pathors_agent.cli import run_changes, stored, workers
from pathors_agent.cli.output import EXIT_STATUS, listen_to_ctrl_c, reporting, stored_in
from pathors_agent.cli.values import (
    AsJSON,
    Host,
    Key,
    Model,
    Port,
    Seconds,
    Timeline,
    choice_option,
    endpoint,
    new_app,
    number_option,
    session_id,
)

app = new_app(
    name="pathors-agent",
    help="Serve agents as an OpenAI-compatible API with sessions, and talk to them.",
)
app.add_typer(stored.keys, name="keys")
app.add_typer(stored.sessions, name="sessions")
app.add_typer(run_changes.runs, name="runs")

AccessLog = Literal["text", "json"]


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
    database: stored.Database = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[int, number_option("The number of processes, up to 256.", most=256)] = 1,
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
        choice_option(
            get_args(AccessLog),
            "Log one line per request to standard error. With json, every log line is JSON.",
            metavar="text|json",
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
    key: Key = None,
    session: Annotated[
        str | None, typer.Option(parser=session_id, metavar="ID", help="Continue this session.")
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
    key: Key = None,
    model: Model = None,
    tokens: Annotated[
        int, number_option("The maximum number of tokens per answer, at least 16.", least=16)
    ] = 256,
    seconds: Seconds = 60,
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
    model: Model = None,
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

        run_demo(prompt or (), model=model, colour=not no_color, timeline=timeline, as_json=as_json)


workers.register(app)
