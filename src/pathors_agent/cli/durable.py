"""Workers and batches of durable runs on the command line."""

import asyncio
import inspect
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from inspect import Parameter
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TypeGuard

import anyio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pathors_agent.agents.agent import AsyncAgent
from pathors_agent.cli.output import (
    INTERRUPTED,
    RUNS_FILE,
    WRONG_USAGE,
    fail,
    place,
    stored_in,
    what_to_install,
    write_json,
    write_note,
)
from pathors_agent.cli.values import per_minute
from pathors_agent.concurrency.lifetime import CLOSE_SECONDS, end_process_within
from pathors_agent.durable.agent import DurableAgent
from pathors_agent.durable.batch import read_batch, run_batch, write_batch
from pathors_agent.durable.worker import ATTEMPTS, STOP_SECONDS
from pathors_agent.errors import BatchRefused, error_text, named_error


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """A durable agent as the options describe it."""

    app: str
    name: str
    database: str | None
    queue: str
    version: str | None
    retention: timedelta | None = None
    attempts: int = ATTEMPTS

    @property
    def stored(self) -> str:
        """The URL of the database."""
        return stored_in(self.database, file=RUNS_FILE)

    def durable(self) -> DurableAgent[Any]:
        """Return the durable agent."""
        return DurableAgent(
            load_agent(self.app),
            database=self.stored,
            name=self.name,
            queue=self.queue,
            version=self.version,
            retention=self.retention,
            attempts=self.attempts,
        )


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


def load_agent(app: str) -> AsyncAgent[Any]:
    """Import the agent that `module:object` names; the working directory is searched first."""
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


async def work(
    made: Sequence[AgentOptions],
    *,
    concurrency: int,
    total: int | None,
    rate: int | None,
    has_notes: bool,
) -> None:
    """Carry out runs until a signal; a second one ends the process at once."""
    note = write_note if has_notes else lambda _text: None
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

    async def carry_out(each: AgentOptions, durable: DurableAgent[Any]) -> None:
        working = durable.working(concurrency=concurrency, total=total, rate=per_minute(rate))
        async with working:
            note(
                f"Taking runs from the queue {each.queue}, for {each.name} {durable.version},"
                f" in {place(each.stored)}"
            )
            await ended.wait()

    async with AsyncExitStack() as stack:
        opened = [(each, await stack.enter_async_context(each.durable())) for each in made]
        tasks = [asyncio.create_task(carry_out(*each)) for each in opened]
        stopping = asyncio.create_task(ended.wait())
        await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        ended.set()  # also if one of them failed
        note(f"Stopping: runs have {STOP_SECONDS:g} seconds to end. A second signal stops at once.")
        await asyncio.wait([*tasks, stopping])
        for task in tasks:
            task.result()


def _check_output(source: Path, output: Path) -> None:
    """Exit before any run if the results could not be written at the end."""
    if output.is_dir() or not output.parent.is_dir():
        fail(f"--output {output}: name a file in a folder that exists", WRONG_USAGE)
    if output.resolve() == source.resolve():
        fail(f"--output {output}: would replace the input; name another file", WRONG_USAGE)


async def batch(
    made: AgentOptions,
    source: Path,
    output: Path,
    *,
    name: str,
    concurrency: int,
    rate: int | None,
    works: bool,
    as_json: bool,
) -> int:
    """Run the lines of a file; return how many failed."""
    await asyncio.to_thread(_check_output, source, output)
    try:
        text = await anyio.Path(source).read_text(encoding="utf-8")
        # Not `splitlines`: texts may contain other ends of lines, such as U+2028.
        lines = read_batch(text.split("\n"))
    except UnicodeDecodeError as error:
        raise BatchRefused(f"{source} is not UTF-8 (byte {error.start})") from None
    except BatchRefused as error:
        raise BatchRefused(f"{source}: {error_text(error)}") from None
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"))
    async with AsyncExitStack() as stack:
        durable = await stack.enter_async_context(made.durable())
        if works:
            working = durable.working(concurrency=concurrency, rate=per_minute(rate))
            await stack.enter_async_context(working)
        bar = stack.enter_context(
            Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
        )
        task = bar.add_task(name, total=len(lines), failed=0)
        results = await run_batch(
            durable,
            lines,
            name=name,
            progress=lambda done, failed: bar.update(task, completed=done, failed=failed),
        )
    await asyncio.to_thread(write_batch, results, output)
    failed = sum("error" in result for result in results)
    if as_json:
        write_json({"batch": name, "output": str(output), "lines": len(lines), "failed": failed})
    return failed
