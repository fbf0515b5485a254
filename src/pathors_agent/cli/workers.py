"""The commands `worker` and `batch`, which carry out durable runs."""

import asyncio
import inspect
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from importlib import import_module
from inspect import Parameter
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any, TypeGuard

import typer

from pathors_agent.cli.output import (
    EXIT_STATUS,
    INTERRUPTED,
    RUNS_FILE,
    WRONG_USAGE,
    fail,
    log_to_stderr,
    place,
    reporting,
    stored_in,
    what_to_install,
    write_json,
    write_note,
)
from pathors_agent.cli.values import (
    AsJSON,
    Database,
    Rate,
    age,
    app_object,
    filled,
    number_option,
    per_minute,
)

if TYPE_CHECKING:
    from pathors_agent.agents.agent import AsyncAgent
    from pathors_agent.durable.agent import DurableAgent
    from pathors_agent.durable.batch import BatchLine

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
        typer.Option(parser=app_object, metavar="MODULE:OBJECT", help=f"{_APP} Can be repeated."),
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
        bool, typer.Option("--log", help="Write every event to standard error, not only problems.")
    ] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Write log lines as JSON.")] = False,
) -> None:
    """Carry out durable runs until SIGTERM or Ctrl-C.

    A single --app may have several queues. --concurrency applies to each agent and queue. A stopping
    worker waits 20 seconds for running runs; other workers continue the rest. Problems are logged to
    standard error, without contents; --log logs every event.
    """

    def durable(module: str, agent: str, own: str) -> "DurableAgent[Any]":
        from pathors_agent.durable.agent import DurableAgent

        return DurableAgent(
            load_agent(module),
            database=stored,
            name=agent,
            queue=own,
            version=app_version,
            retention=retention,
            attempts=attempts,
        )

    with reporting():
        stored = stored_in(database, file=RUNS_FILE)
        log_to_stderr(everything=log, as_json=log_json)
        made = [partial(durable, *each) for each in placed(app, name or (), queue)]
        note = (lambda _text: None) if log_json else write_note
        asyncio.run(_work(made, concurrency, total, per_minute(rate), place(stored), note))


async def _work(
    made: "Sequence[Callable[[], DurableAgent[Any]]]",
    concurrency: int,
    total: int | None,
    rate: tuple[int, float] | None,
    where: str,
    note: Callable[[str], None],
) -> None:
    """Carry out runs until a signal; a second one ends the process at once."""
    from pathors_agent.concurrency.lifetime import CLOSE_SECONDS, end_process_within
    from pathors_agent.durable.worker import STOP_SECONDS

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

    async def carry_out(agent: "DurableAgent[Any]") -> None:
        async with agent.working(concurrency=concurrency, total=total, rate=rate):
            note(
                f"Taking runs from the queue {agent.queue}, for {agent.name} {agent.version},"
                f" in {where}"
            )
            await ended.wait()

    async with AsyncExitStack() as stack:
        agents = [await stack.enter_async_context(make()) for make in made]
        tasks = [asyncio.create_task(carry_out(agent)) for agent in agents]
        stopping = asyncio.create_task(ended.wait())
        await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        ended.set()  # also if one of them failed
        note(f"Stopping: runs have {STOP_SECONDS:g} seconds to end. A second signal stops at once.")
        await asyncio.wait([*tasks, stopping])
        for task in tasks:
            task.result()


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
    name_of_batch = batch_name or source.stem

    async def run() -> int:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        from pathors_agent.durable.agent import DurableAgent
        from pathors_agent.durable.batch import run_batch, write_batch

        await asyncio.to_thread(_check_output, source, output)
        lines = await asyncio.to_thread(_read_lines, source)
        stored = stored_in(database, file=RUNS_FILE)
        made = DurableAgent(load_agent(app), database=stored, name=name, queue=queue)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"))
        async with AsyncExitStack() as stack:
            durable = await stack.enter_async_context(made)
            if work:
                working = durable.working(concurrency=concurrency, rate=per_minute(rate))
                await stack.enter_async_context(working)
            bar = stack.enter_context(
                Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            )
            task = bar.add_task(name_of_batch, total=len(lines), failed=0)
            results = await run_batch(
                durable,
                lines,
                name=name_of_batch,
                progress=lambda done, failed: bar.update(task, completed=done, failed=failed),
            )
        await asyncio.to_thread(write_batch, results, output)
        failed = sum("error" in result for result in results)
        if as_json:
            told = {"batch": name_of_batch, "output": str(output), "lines": len(lines)}
            write_json({**told, "failed": failed})
        return failed

    with reporting():
        raise typer.Exit(1 if asyncio.run(run()) else 0)


def _check_output(source: Path, output: Path) -> None:
    """Exit before any run if the results could not be written at the end."""
    if output.is_dir() or not output.parent.is_dir():
        fail(f"--output {output}: name a file in a folder that exists", WRONG_USAGE)
    if output.resolve() == source.resolve():
        fail(f"--output {output}: would replace the input; name another file", WRONG_USAGE)


def _read_lines(source: Path) -> "list[BatchLine]":
    from pathors_agent.durable.batch import read_batch
    from pathors_agent.errors import BatchRefused, error_text

    try:
        # Not `splitlines`: texts may contain other ends of lines, such as U+2028.
        return read_batch(source.read_text(encoding="utf-8").split("\n"))
    except UnicodeDecodeError as error:
        raise BatchRefused(f"{source} is not UTF-8 (byte {error.start})") from None
    except BatchRefused as error:
        raise BatchRefused(f"{source}: {error_text(error)}") from None


def placed(
    apps: Sequence[str], names: Sequence[str], queues: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Return each app with its agent's name and a queue; one app may have several queues.

    Without names, one app's agent is `agent`, and those of several apps are named as their objects.
    """
    if not names:
        names = ["agent"] if len(apps) == 1 else [app.rpartition(":")[2] for app in apps]
    if len(names) != len(apps):
        fail(f"--name: {len(names)} names for {len(apps)} apps; pass one for each", WRONG_USAGE)
    if len({*names}) != len(names):
        fail("--name: two apps have the same name; pass a --name for each --app", WRONG_USAGE)
    if len({*queues}) != len(queues) and len(apps) == 1:
        fail("--queue: the same queue twice", WRONG_USAGE)
    agents = list(zip(apps, names, strict=True))
    if len(agents) == 1:
        agents *= len(queues)
    if len(queues) == 1:
        queues = [*queues] * len(agents)
    if len(queues) != len(agents):
        fail(
            f"--queue: {len(queues)} queues for {len(apps)} apps; pass one, or one for each",
            WRONG_USAGE,
        )
    return [(*agent, queue) for agent, queue in zip(agents, queues, strict=True)]


def load_agent(app: str) -> "AsyncAgent[Any]":
    """Import the agent that `module:object` names; the working directory is searched first."""
    from pathors_agent.agents.agent import AsyncAgent
    from pathors_agent.errors import named_error

    module, _, name = app.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and module.startswith(error.name or "/"):
            fail(f"--app {app}: there is no module {error.name}", WRONG_USAGE)
        if isinstance(error, ImportError) and what_to_install(error):
            raise
        traceback.print_exception(error.with_traceback(_own_frames(error)))
        fail(f"--app {app}: the module cannot be imported: {named_error(error)}")
    imported = sys.modules[module]
    if not hasattr(imported, name):
        agents = [each for each, value in vars(imported).items() if isinstance(value, AsyncAgent)]
        has = f"; its agents are {', '.join(agents)}" if agents else ""
        fail(f"--app {app}: the module has no {name!r}{has}", WRONG_USAGE)
    found = getattr(imported, name)
    made = found() if _takes_nothing(found) else found
    if not isinstance(made, AsyncAgent):
        fail(
            f"--app {app}: must be an AsyncAgent, or a function without arguments that returns one;"
            f" it is {_kind(found)}",
            WRONG_USAGE,
        )
    return made


def _own_frames(error: Exception) -> TracebackType | None:
    """Return the frames of the module, without those that import it."""
    frames = error.__traceback__
    while frames and (
        "importlib" in (name := frames.tb_frame.f_code.co_filename) or name == __file__
    ):
        frames = frames.tb_next
    return frames


def _takes_nothing(found: object) -> TypeGuard[Callable[[], object]]:
    """Return True for a function that can be called without arguments."""
    if not inspect.isroutine(found):
        return False
    needed = inspect.signature(found).parameters.values()
    named = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return all(each.default is not Parameter.empty or each.kind in named for each in needed)


def _kind(found: object) -> str:
    """Return what an object is, for an error."""
    if inspect.iscoroutinefunction(found):
        return "an async function"
    if inspect.isroutine(found):
        return "a function that needs arguments, or returns something else"
    return f"of the type {type(found).__name__}"
