"""Let in as many turns at once as the server can bear, and a short queue of others."""

from collections.abc import AsyncGenerator, Hashable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from pathors_agent.server.problems import busy
from pathors_agent.server.settings import ServerSettings


class Admission:
    """Counts the turns that run, by project and by key."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._gates: dict[Hashable, _Gate] = {}

    @asynccontextmanager
    async def turn(self, project: str, key: str) -> AsyncGenerator[None]:
        """Hold a place while a turn runs; `Problem` 429 where none becomes free."""
        settings = self._settings
        wanted = [(("key", key), settings.turns_per_key)]
        wanted.append((("project", project), settings.turns_per_project))
        async with AsyncExitStack() as places:
            try:
                with anyio.fail_after(settings.queue_seconds):
                    for name, size in wanted:
                        await places.enter_async_context(self._place(name, size))
            except TimeoutError:
                raise self._full() from None
            yield

    @asynccontextmanager
    async def _place(self, name: Hashable, size: int) -> AsyncGenerator[None]:
        gate = self._gates.setdefault(name, _Gate(size))
        if gate.waiting >= self._settings.queue_length and not gate.has_room:
            raise self._full()
        gate.users += 1
        try:
            async with gate.entered():
                yield
        finally:
            gate.users -= 1
            if not gate.users:
                del self._gates[name]

    def _full(self) -> Exception:
        return busy("Too many turns at once; try again", self._settings.queue_seconds)


class _Gate:
    def __init__(self, size: int) -> None:
        self.users = 0
        self._semaphore = anyio.Semaphore(size)

    @property
    def has_room(self) -> bool:
        return self._semaphore.value > 0

    @property
    def waiting(self) -> int:
        return self._semaphore.statistics().tasks_waiting

    @asynccontextmanager
    async def entered(self) -> AsyncGenerator[None]:
        async with self._semaphore:
            yield


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
