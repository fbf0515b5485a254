"""The open parts of a running server: its projects, its store, and the tasks of its turns."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup
from starlette.requests import Request

from pathors_agent.errors import SessionConflict, StoreError, refuse_other
from pathors_agent.server.http.keys import Authenticate, Authenticator, Caller
from pathors_agent.server.http.problems import log_store_error, unauthorized, unavailable
from pathors_agent.server.settings import ServerSettings
from pathors_agent.server.turns.admission import Admission, SessionQueue
from pathors_agent.server.turns.metrics import Metrics
from pathors_agent.server.turns.project import Project
from pathors_agent.server.turns.run import DurableRunner
from pathors_agent.server.turns.turn import Services
from pathors_agent.stores.base import Store
from pathors_agent.telemetry.events import share, shared_fields

OpenDurable = Callable[[Mapping[str, Project], Services], DurableRunner]
"""Builds the runner of durable turns for the projects and services of a server."""

AskedT = TypeVar("AskedT")


class Runtime:
    """The open parts of a server.

    Store, transports and tools live in a task of their own. It starts with the app, or with the
    first request: an app that is mounted in another gets no lifespan events.
    """

    def __init__(
        self,
        projects: Iterable[Project],
        store: Store,
        settings: ServerSettings,
        open_durable: OpenDurable | None = None,
        authenticate: Authenticate | None = None,
    ) -> None:
        refuse_other("create_app", store, Store)
        self.projects = _by_id(projects)
        self.store = store
        self.metrics = Metrics()
        self.settings = settings
        self.durable: DurableRunner | None = None
        self._open_durable = open_durable
        self._drained_at: float | None = None
        self._turns: TaskGroup
        self._turns_left = 0
        self._turn_ended = anyio.Event()
        self._authenticator = Authenticator(store, authenticate)
        self._services = self._made_services()
        self._host: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._stop = asyncio.Event()

    @property
    def services(self) -> Services:
        """What all turns use."""
        return self._services

    async def start(self) -> None:
        """Open all parts once. Raise the error that prevents it."""
        if self._host is None or self._host.done():
            # These belong to an event loop, which may differ from the earlier one.
            self._stop, self._services = asyncio.Event(), self._made_services()
            self._ready = asyncio.get_running_loop().create_future()
            with shared_fields():  # the task belongs to no request
                self._host = asyncio.create_task(self._be_open(self._ready))
        assert self._ready is not None  # set with the task
        await asyncio.shield(self._ready)

    async def stop(self) -> None:
        """Wait for running turns, then close all parts. `start` opens them again."""
        self.drain()
        self._stop.set()
        if self._host is not None:
            await self._host
        self._drained_at = None

    def _made_services(self) -> Services:
        return Services(
            store=self.store,
            settings=self.settings,
            admission=Admission(self.settings, self.metrics),
            metrics=self.metrics,
            sessions=SessionQueue(),
        )

    async def check(self) -> None:
        """Raise `StoreError` unless a turn could be stored now, in every database that it needs."""
        await self.store.check()
        if self.durable is not None:
            await self.durable.check()

    @property
    def is_draining(self) -> bool:
        """Whether no new turns are taken."""
        return self._drained_at is not None

    @property
    def grace_left(self) -> float:
        """The seconds for which running turns may go on."""
        spent = 0.0 if self._drained_at is None else time.monotonic() - self._drained_at
        return max(0.0, self.settings.grace_seconds - spent)

    @property
    def has_turns_left(self) -> bool:
        """Whether turns run whose clients disconnected."""
        return self._turns_left > 0

    def drain(self) -> None:
        """Refuse new turns. The grace time of running turns begins now."""
        if self._drained_at is None:
            self._drained_at = time.monotonic()

    def end_turns(self) -> None:
        """End every running turn with an error, and leave its session unchanged."""
        self._services.ending.set()

    def start_soon(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run a turn in the background of its request."""
        self._turns.start_soon(self._counted, function, *args)

    async def _counted(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        self._turns_left += 1
        try:
            await function(*args)
        finally:
            self._turns_left -= 1
            self._turn_ended.set()

    def note_store_error(self, error: StoreError) -> None:
        """Log and count a failure of the store outside of turns."""
        if not isinstance(error, SessionConflict):
            log_store_error(error)
            self.metrics.store_error()

    async def authenticated(self, request: Request, project_id: str) -> Caller:
        """Return the caller of a request.

        Raise the same `Problem` for every key that is not valid.
        """
        caller = await self._with_keys(lambda: self._authenticator.caller_of(request, project_id))
        if project_id not in self.projects:
            raise unauthorized()
        share(project=project_id)
        return caller

    async def project_of(self, request: Request) -> str:
        """Return the project that a request may use.

        Raise the same `Problem` as `authenticated`.
        """
        project = await self._with_keys(lambda: self._authenticator.project_of(request))
        if project not in self.projects:
            raise unauthorized()
        return project

    async def _with_keys(self, ask: Callable[[], Awaitable[AskedT]]) -> AskedT:
        try:
            await self.start()
            return await ask()
        except StoreError as error:
            self.note_store_error(error)
            raise unavailable("Keys cannot be read now") from None

    async def _be_open(self, ready: "asyncio.Future[None]") -> None:
        try:
            async with AsyncExitStack() as opened:
                for part in self._parts():
                    await opened.enter_async_context(part)
                if self._open_durable is not None:
                    durable = self._open_durable(self.projects, self._services)
                    self.durable = await opened.enter_async_context(durable)
                async with anyio.create_task_group() as self._turns:
                    ready.set_result(None)
                    await self._stop.wait()
                    await self._end_turns()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
                with suppress(Exception):
                    ready.exception()  # marks it as retrieved, in case nothing waits for it
                if isinstance(error, Exception):
                    return
            raise

    async def _end_turns(self) -> None:
        """Wait for turns whose clients disconnected, within the grace time."""
        with anyio.move_on_after(self.grace_left):
            while self._turns_left:
                self._turn_ended = anyio.Event()
                await self._turn_ended.wait()
        self._turns.cancel_scope.cancel()

    def _parts(self) -> Iterable[AbstractAsyncContextManager[object]]:
        yield self.store
        given: list[object] = []
        for project in self.projects.values():
            given += [project.transport, project.tools]
        for part in {id(part): part for part in given}.values():
            if isinstance(part, AbstractAsyncContextManager):
                yield part


def _by_id(projects: Iterable[Project]) -> dict[str, Project]:
    named: dict[str, Project] = {}
    for project in projects:
        refuse_other("create_app", project, Project)
        if named.setdefault(project.id, project) is not project:
            raise ValueError(f"two projects have the id {project.id!r}")
    return named
