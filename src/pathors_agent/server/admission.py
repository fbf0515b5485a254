"""Let in as many turns at once as the server can bear, and a short queue of others."""

from collections.abc import AsyncGenerator, Generator, Hashable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager

import anyio

from pathors_agent.server.problems import busy
from pathors_agent.server.settings import ServerSettings


class Admission:
    """Counts the turns that run, by project and by key."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._gates: dict[Hashable, _Gate] = {}

    @contextmanager
    def reading(self, project: str, key: str) -> Generator[None]:
        """Count a request whose body comes in; `Problem` 429 where it could not even wait."""
        with ExitStack() as counted:
            for name, size in self._wanted(project, key):
                counted.enter_context(self._counted(name, size))
            yield

    @asynccontextmanager
    async def turn(self, project: str, key: str) -> AsyncGenerator[None]:
        """Hold a place while a turn runs; `Problem` 429 where none becomes free."""
        async with AsyncExitStack() as places:
            try:
                with anyio.fail_after(self._settings.queue_seconds):
                    for name, size in self._wanted(project, key):
                        await places.enter_async_context(self._place(name, size))
            except TimeoutError:
                raise self._full() from None
            yield

    def _wanted(self, project: str, key: str) -> list[tuple[Hashable, int]]:
        settings = self._settings
        return [
            (("key", key), settings.turns_per_key),
            (("project", project), settings.turns_per_project),
        ]

    @asynccontextmanager
    async def _place(self, name: Hashable, size: int) -> AsyncGenerator[None]:
        with self._counted(name, size) as gate:
            async with gate.running:
                yield

    @contextmanager
    def _counted(self, name: Hashable, size: int) -> "Generator[_Gate]":
        gate = self._gates.setdefault(name, _Gate(size))
        if gate.requests >= size + self._settings.queue_length:
            raise self._full()
        gate.requests += 1
        try:
            yield gate
        finally:
            gate.requests -= 1
            if not gate.requests:
                del self._gates[name]

    def _full(self) -> Exception:
        return busy("Too many turns at once; try again", self._settings.queue_seconds)


class _Gate:
    """The requests of a key or a project: those whose turns run, those that wait or still come."""

    def __init__(self, size: int) -> None:
        self.requests = 0
        self.running = anyio.Semaphore(size)


class SessionQueue:
    """Lets the turns of one session in one after another, in order, within this process.

    Other processes are kept out by the store's lease; waiting here costs the store nothing.
    """

    def __init__(self) -> None:
        self._locks: dict[tuple[str, str], anyio.Lock] = {}

    @asynccontextmanager
    async def place(self, project: str, session_id: str) -> AsyncGenerator[None]:
        """Wait for the turns that came before, and hold the session."""
        name = (project, session_id)
        lock = self._locks.setdefault(name, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            waiting = lock.statistics()
            if not waiting.locked and not waiting.tasks_waiting:
                self._locks.pop(name, None)
