"""Limit the turns that run at once, and how much each key uses per minute."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio

from pathors_agent.agents.result import RunResult
from pathors_agent.history.trim import AsyncHistory, HistoryTail, estimate_tokens
from pathors_agent.server.http.problems import busy, rate_exceeded
from pathors_agent.server.settings import ServerSettings
from pathors_agent.server.turns.metrics import Metrics

_MINUTE = 60.0
_ROUNDING_SECONDS = 1e-6
# Above this number, the state of keys with an unused rate is deleted.
MAX_RATED_KEYS = 1_000

_Name = tuple[str, str]
"""The subject that turns are counted for: a key or a project, and its id."""


class Admission:
    """Counts the turns that run, by project and by key."""

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._gates: dict[_Name, _Gate] = {}
        self._requests = Rates(settings.requests_per_minute)
        self._tokens = Rates(settings.tokens_per_minute)

    def check_rates(self, key: str) -> None:
        """Charge a completion to its key's rate.

        A refused completion (`Problem` 429) is not charged.
        """
        for rates, of_what in ((self._tokens, "tokens"), (self._requests, "requests")):
            if seconds := rates.wait(key):
                raise rate_exceeded(f"The key has used its {of_what} per minute", seconds)
        self._requests.take(key, 1)

    @contextmanager
    def reading(self, project: str, key: str) -> Generator[None]:
        """Count a request while its body arrives. Raise `Problem` 429 if the queue is full."""
        gates = self._counted(project, key)
        try:
            yield
        finally:
            self._leave(gates)

    def charge(self, key: str, result: RunResult[Any], history: AsyncHistory | None) -> None:
        """Charge the tokens of a turn to its key's rate, even if the turn failed."""
        if self._tokens.per_minute is None or not result.messages:
            return
        used = result.usage.total_tokens
        if used is None:  # the provider reported no usage
            tail = history if isinstance(history, HistoryTail) else tuple
            used = sum(map(estimate_tokens, tail(result.conversation.messages)))
        self._tokens.take(key, used)

    def has_room(self, project: str, key: str) -> bool:
        """Return True if a turn could begin now."""
        gates = (self._gates.get(name) for name, _ in self._wanted(project, key))
        return all(gate is None or not gate.running.locked() for gate in gates)

    def turn(self, project: str, key: str) -> "Place":
        """Return a place for a turn, to hold while it runs."""
        return Place(self, project, key)

    async def enter(self, project: str, key: str) -> "list[_Gate]":
        """Pass the gates of a turn. Raise `Problem` 429 if no place becomes free in time."""
        gates, held = self._counted(project, key), list[_Gate]()
        try:
            for gate in gates:
                if gate.running.locked():
                    await self._wait_for_places(project, gates, held)
                    break
                await gate.running.acquire()
                held.append(gate)
        except BaseException:
            self._release(gates, held)
            raise
        self._metrics.running(project, 1)
        return gates

    def leave(self, project: str, gates: "Sequence[_Gate]") -> None:
        """Release the place of a turn at its gates."""
        self._metrics.running(project, -1)
        self._release(gates, gates)

    def _release(self, gates: "Sequence[_Gate]", held: "Sequence[_Gate]") -> None:
        for gate in held:
            gate.running.release()
        self._leave(gates)

    async def _wait_for_places(
        self, project: str, gates: Sequence["_Gate"], held: list["_Gate"]
    ) -> None:
        """Wait for a place at each gate that is not held yet."""
        try:
            with anyio.fail_after(self._settings.queue_seconds), self._metrics.waiting(project):
                for gate in gates[len(held) :]:
                    await gate.running.acquire()
                    held.append(gate)
        except TimeoutError:
            raise self._full() from None

    def _wanted(self, project: str, key: str) -> list[tuple[_Name, int]]:
        settings = self._settings
        return [
            (("key", key), settings.turns_per_key),
            (("project", project), settings.turns_per_project),
        ]

    def _counted(self, project: str, key: str) -> "list[_Gate]":
        """Count a request at its gates. Raise `Problem` 429 if the queue at one of them is full."""
        wanted = self._wanted(project, key)
        for name, size in wanted:
            gate = self._gates.get(name)
            if gate is not None and gate.requests >= size + self._settings.queue_length:
                raise self._full()
        gates = [self._gates.setdefault(name, _Gate(name, size)) for name, size in wanted]
        for gate in gates:
            gate.requests += 1
        return gates

    def _leave(self, gates: "Sequence[_Gate]") -> None:
        for gate in gates:
            gate.requests -= 1
            if not gate.requests:
                del self._gates[gate.name]

    def _full(self) -> Exception:
        return busy("Too many requests at once; try again", self._settings.queue_seconds)


class Rates:
    """Limits the use of each key per minute; a used amount is restored evenly over a minute.

    A request is refused while the key has nothing left. Its cost may be known only later, and may
    exceed the rest of the rate; in that case the key waits longer.
    """

    def __init__(self, per_minute: int | None, now: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._now = now
        self._full_at: dict[str, float] = {}

    def wait(self, key: str) -> float:
        """Return the seconds until the key has something left; 0 if it has something now."""
        if self.per_minute is None:
            return 0.0
        # The rate is full at this time, and was empty a minute before.
        one = _MINUTE / self.per_minute
        ahead = self._full_at.get(key, 0.0) - self._now()
        seconds = ahead + min(one, _MINUTE) - _MINUTE
        return seconds if seconds > _ROUNDING_SECONDS else 0.0

    def take(self, key: str, amount: int) -> None:
        """Charge an amount to the key's rate."""
        if self.per_minute is None:
            return
        now = self._now()
        if len(self._full_at) >= MAX_RATED_KEYS:
            self._full_at = {k: at for k, at in self._full_at.items() if at > now}
        begin = max(now, self._full_at.get(key, now))
        self._full_at[key] = begin + amount * _MINUTE / self.per_minute


class Place:
    """A place among the running turns. An async context manager.

    A turn holds it as long as it runs, and a generator would take four times the memory.
    """

    __slots__ = ("_admission", "_gates", "_key", "_project")

    def __init__(self, admission: Admission, project: str, key: str) -> None:
        self._admission = admission
        self._project = project
        self._key = key
        self._gates: Sequence[_Gate] = ()

    async def __aenter__(self) -> None:
        self._gates = await self._admission.enter(self._project, self._key)

    async def __aexit__(self, *_: object) -> None:
        self._admission.leave(self._project, self._gates)


class _Gate:
    """The requests of a key or a project: running turns, and requests that wait or still arrive."""

    def __init__(self, name: _Name, size: int) -> None:
        self.name = name
        self.requests = 0
        self.running = asyncio.Semaphore(size)  # of asyncio, as the locks below


class SessionQueue:
    """Runs the turns of one session one after another, in order, within this process.

    The store's lease excludes other processes. Waiting here needs no queries of the store.
    """

    def __init__(self) -> None:
        # asyncio's locks take a fourth of the memory of anyio's.
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._turns: Counter[tuple[str, str]] = Counter()

    def is_free(self, project: str, session_id: str) -> bool:
        """Return True if no turn holds the session or waits for it."""
        return (project, session_id) not in self._locks

    async def enter(self, project: str, session_id: str) -> None:
        """Wait for earlier turns, and hold the session."""
        name = (project, session_id)
        lock = self._locks.setdefault(name, asyncio.Lock())
        self._turns[name] += 1
        try:
            await lock.acquire()
        except BaseException:
            self._forget(name)
            raise

    def leave(self, project: str, session_id: str) -> None:
        """Pass the session to the next turn."""
        name = (project, session_id)
        self._locks[name].release()
        self._forget(name)

    def _forget(self, name: tuple[str, str]) -> None:
        self._turns[name] -= 1
        if not self._turns[name]:
            del self._turns[name], self._locks[name]
