"""The command `serve`: build the app from projects and settings, and run it."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from fastapi import FastAPI

from pathors_agent.cli.demo_tools import INSTRUCTIONS, PACE, demo_tools
from pathors_agent.cli.output import log_to_stderr, write_json, write_line, write_text
from pathors_agent.concurrency.lifetime import CLOSE_SECONDS, end_process_within
from pathors_agent.offline.transport import AsyncOfflineTransport
from pathors_agent.server.app import create_app
from pathors_agent.server.config import load_projects, load_settings
from pathors_agent.server.http.keys import make_key
from pathors_agent.server.running.serving import serve as serve_app
from pathors_agent.server.settings import ServerSettings
from pathors_agent.server.turns.front_ends import FRONT_ENDS
from pathors_agent.server.turns.project import Project
from pathors_agent.stores.database import read_url, shown
from pathors_agent.stores.sql import SQLStore

_TRY = """\
Try:
  curl {base}/chat/completions \\
    -H "Authorization: Bearer $PATHORS_API_KEY" -H "Content-Type: application/json" \\
    -d '{{"messages": [{{"role": "user", "content": "{question}"}}]}}'"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The options of `serve`; each worker builds its app from them."""

    database: str
    config: Path | None = None
    ui: bool = False
    front_ends: bool = False
    durable: bool = False
    log: bool = False
    access_log: Literal["text", "json"] | None = None
    metrics: bool = False

    @property
    def is_demo(self) -> bool:
        """Whether there is no file of projects."""
        return self.config is None


def serve(served: ServeOptions, *, host: str, port: int, workers: int, as_json: bool) -> int:
    """Serve until a signal; return the exit status."""
    app = make_app(
        served
    )  # even if workers build their own apps, so that a problem is reported once
    projects = app.state.runtime.projects
    new_keys = asyncio.run(_prepare(served, projects))
    tell = partial(_tell, served, list(projects), new_keys, as_json)
    make = partial(make_app, served) if workers > 1 else lambda: app
    status = serve_app(make, host=host, port=port, workers=workers, on_ready=tell)
    end_process_within(CLOSE_SECONDS)
    return status


def make_app(served: ServeOptions) -> FastAPI:
    """Build the app in the process that runs it."""
    log_to_stderr(everything=served.log, as_json=served.access_log == "json")
    runs = served.database if served.durable else None
    store = SQLStore(served.database)
    return create_app(
        _projects(served),
        store,
        _settings(served),
        ui=served.ui,
        front_ends=served.front_ends,
        runs=runs,
    )


def _projects(served: ServeOptions) -> list[Project]:
    if served.config is not None:
        return load_projects(served.config)
    return [demo_project()]


def _settings(served: ServeOptions) -> ServerSettings:
    settings = ServerSettings() if served.config is None else load_settings(served.config)
    return replace(
        settings,
        access_log=settings.access_log or served.access_log is not None,
        metrics=settings.metrics or served.metrics,
    )


async def _prepare(served: ServeOptions, projects: Iterable[str]) -> dict[str, str]:
    """Create the tables and the demo's first key; return new keys by project.

    Projects of your own get no key here, because the output may be stored in a log.
    """
    new_keys: dict[str, str] = {}
    async with SQLStore(served.database) as store:
        for project in projects if served.is_demo else ():
            if all(key.revoked_at for key in await store.keys(project)):
                new_keys[project], key = make_key(project, name="first")
                await store.add_key(key)
    return new_keys


def _tell(
    served: ServeOptions,
    projects: list[str],
    new_keys: Mapping[str, str],
    as_json: bool,  # noqa: FBT001  (by partial)
    address: str,
) -> None:
    """Print the address, and each new key once."""
    bases = {project: f"{address}/v1/projects/{project}" for project in projects}
    if as_json:
        write_json({"url": address, "base_urls": bases, "keys": new_keys})
        return
    write_line(f"Listening on {address}")
    for project, base in bases.items():
        write_line(f"  project {project}: {base}")
        for protocol in FRONT_ENDS if served.front_ends else ():
            write_line(f"    {protocol.title}: {base}/{protocol.name}")
    write_line(f"  sessions and keys: {shown(read_url(served.database))}")
    if served.ui:
        write_line(f"  chat page: {address}/")
    if served.is_demo:
        write_line("  The answers come from rules, not from a language model; the tools are real.")
    for key in new_keys.values():
        write_text(f"A new key, shown only now:\n  export PATHORS_API_KEY={key}")
    if not new_keys:
        write_line(f"For a key: pathors-agent keys create --project {projects[0]}")
    question = "How many kilometres are 26.2 miles?" if served.is_demo else "Hello!"
    write_text(_TRY.format(base=bases[projects[0]], question=question))


def demo_project() -> Project:
    """Return the project `demo`."""
    return Project(
        id="demo",
        transport=AsyncOfflineTransport(pace=PACE),
        instructions=INSTRUCTIONS,
        tools=demo_tools(),
    )
