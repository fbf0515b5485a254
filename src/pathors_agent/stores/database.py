"""What databases have in common: connections, transactions, and the threads that run them.

A transaction is a plain function that takes a `Connection`. It runs in one thread from its first
statement to its commit, so that only the whole transaction crosses between event loop and thread.
"""

import asyncio
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import anyio
from sqlalchemy import URL, Dialect, SelectBase, UpdateBase, make_url
from sqlalchemy.exc import ArgumentError

from pathors_agent.errors import StoreError
from pathors_agent.stores import tables
from pathors_agent.stores.errors import TooBusy, store_error

ResultT = TypeVar("ResultT")

Statement = SelectBase | UpdateBase

# PostgreSQL allows 100 connections by default: room for several processes.
CONNECTIONS = 10

# A request's statements take milliseconds; only a search through gigabytes takes seconds.
STATEMENT_SECONDS = 30.0


# - URLs -

_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+aiosqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "postgresql+psycopg_async": "postgresql+psycopg",
}


def read_url(text: str) -> URL:
    """Parse the URL of a database. Raise `StoreError` if no store can open it."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # their texts quote the URL
        raise _unusable() from None
    driver = _DRIVERS.get(url.drivername)
    if driver is None or "@" in (url.host or ""):
        raise _unusable()
    name = url.database or ""
    in_memory = name in {"", ":memory:", "file::memory:"} or url.query.get("mode") == "memory"
    if driver == "sqlite" and in_memory:
        raise StoreError("A database in memory is lost with its connection: use MemoryStore().")
    return url.set(drivername=driver)


def shown(url: URL) -> str:
    """Return a URL for people: without the password, and without options, which may hold one."""
    known = URL.create(
        url.get_backend_name(),
        username=url.username,
        host=url.host,
        port=url.port,
        database=url.database,
    )
    return known.render_as_string()


def _unusable() -> StoreError:
    return StoreError(
        "The database's URL cannot be used: it must be like sqlite:///sessions.db or"
        " postgresql://user:password@host:5432/name, with the special characters of a password"
        " percent-encoded."
    )


# - connections -


class StatementTexts(dict[Statement, tuple[str, list[str], dict[str, Any]]]):
    """The SQL text of each statement, the names of its values in order, and its constants.

    A statement is compiled when it is used first.
    """

    def __init__(self, dialect: Dialect) -> None:
        super().__init__()
        self.dialect = dialect

    def __missing__(self, statement: Statement) -> tuple[str, list[str], dict[str, Any]]:
        compiled = statement.compile(dialect=self.dialect)
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        self[statement] = found = str(compiled), compiled.positiontup or [], constants
        return found


class Connection(ABC):
    """A connection of one thread. It runs statements; the thread begins and ends transactions.

    Statements are built once, as constants of a module: their SQL text is compiled once. Values go
    to their `bindparam`s by name.
    """

    def __init__(self, texts: StatementTexts) -> None:
        self.texts = texts

    @abstractmethod
    def rows(self, statement: Statement, **values: object) -> list[Any]:
        """Run a statement and return its rows as tuples."""

    @abstractmethod
    def change(self, statement: Statement, **values: object) -> int:
        """Run a statement that returns no rows, and return how many rows it changed."""

    @abstractmethod
    def execute(self, text: str) -> None:
        """Run SQL without values and results."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection, which may be broken already."""

    def interrupt(self) -> None:  # noqa: B027  (PostgreSQL limits statements itself)
        """Interrupt the statement that another thread runs now."""

    def row(self, statement: Statement, **values: object) -> Any:
        """Run a statement and return its first row, or None."""
        rows = self.rows(statement, **values)
        return rows[0] if rows else None

    def value(self, statement: Statement, **values: object) -> Any:
        """Run a statement and return the first column of its first row, or None."""
        rows = self.rows(statement, **values)
        return rows[0][0] if rows else None


# - jobs -


class Job(Generic[ResultT]):
    """A transaction that a caller waits for.

    Its caller may withdraw it until a thread has claimed it; from then on it runs to its end.
    """

    def __init__(self, doing: str, work: Callable[[Connection], ResultT], kind: str) -> None:
        self.doing, self.work, self.kind = doing, work, kind
        self.loop = asyncio.get_running_loop()
        self.ended = self.loop.create_future()
        self.is_claimed = self.is_withdrawn = self.has_ended = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.obstacle: BaseException = TooBusy()
        self.put, self.begun = time.monotonic(), math.inf
        self.timer: asyncio.TimerHandle
        self.connection: Connection | None = None  # while it runs
        self._lock = threading.Lock()

    def claim(self) -> bool:
        """Begin to run, in a thread. Return False if the caller has withdrawn the job."""
        with self._lock:
            self.is_claimed = not self.is_withdrawn
            return self.is_claimed

    def withdraw(self) -> bool:
        """Withdraw the job. Return False if a thread has claimed it."""
        with self._lock:
            self.is_withdrawn = not self.is_claimed
            return self.is_withdrawn

    def run(self, connection: Connection) -> None:
        """Run the transaction's function, and keep its result or its error."""
        self.result = self.error = None
        self.begun, self.connection = time.monotonic(), connection
        try:
            self.result = self.work(connection)
        except BaseException as error:  # noqa: BLE001  (raised again where it is waited for)
            self.error = error
        finally:
            with self._lock:
                self.connection = None

    def interrupt(self) -> None:
        """Interrupt the statement that runs now, unless the database limits it itself."""
        with self._lock:
            if self.connection is not None:
                self.connection.interrupt()

    def end(self) -> None:
        """Wake the caller; called on the caller's event loop."""
        self.has_ended = True
        if not self.ended.done():
            self.ended.set_result(None)


def _end(jobs: Iterable[Job[Any]]) -> None:
    for job in jobs:
        job.end()


ConnectionT = TypeVar("ConnectionT", bound=Connection)


class Threads(Generic[ConnectionT]):
    """Up to `most` threads that take jobs from one queue, each with a connection of its own.

    `serve` runs a job, calls `deliver`, and returns the connection for the next job, or None to
    open another. It gets None at first.
    """

    def __init__(
        self,
        name: str,
        most: int,
        serve: Callable[[Job[Any], ConnectionT | None], ConnectionT | None],
    ) -> None:
        self._name, self._most, self._serve = name, most, serve
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._open_jobs = 0
        self._lock = threading.Lock()

    def put(self, job: Job[Any]) -> None:
        """Queue a job for the next free thread; start another thread if none is free."""
        with self._lock:
            self._open_jobs += 1
            if self._open_jobs > len(self._threads) and len(self._threads) < self._most:
                thread = threading.Thread(target=self._main, name=self._name, daemon=True)
                self._threads.append(thread)
                thread.start()
        self._jobs.put(job)

    def deliver(self, jobs: Sequence[Job[Any]]) -> None:
        """Wake the callers of jobs; called by the threads' own function, once for each job."""
        with self._lock:
            self._open_jobs -= len(jobs)
        by_loop: dict[asyncio.AbstractEventLoop, list[Job[Any]]] = {}
        for job in jobs:
            by_loop.setdefault(job.loop, []).append(job)
        for loop, ended in by_loop.items():
            with suppress(RuntimeError):  # the loop was closed, and its callers are gone
                loop.call_soon_threadsafe(_end, ended)

    def take_waiting(self, most: int) -> list[Job[Any]]:
        """Return the jobs that wait now, up to a number; called by the threads' own function."""
        taken: list[Job[Any]] = []
        with suppress(Empty):
            while len(taken) < most:
                job = self._jobs.get_nowait()
                if job is None:  # the end is for later
                    self._jobs.put(None)
                    break
                taken.append(job)
        return taken

    def stop(self) -> None:
        """Close every connection, once the jobs before are done; blocks."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _main(self) -> None:
        connection: ConnectionT | None = None
        while (job := self._jobs.get()) is not None:
            connection = self._serve(job, connection)
            del job  # its caller's values are not kept while the thread waits
        if connection is not None:
            connection.close()


# - databases -


class Database(ABC):
    """A database by its URL; `timeout` is how long to wait for a connection or a lock."""

    def __init__(self, url: URL, timeout: float) -> None:
        self.shown = shown(url)
        self._url, self._timeout = url, timeout
        self._is_open = False
        self._texts: StatementTexts

    @property
    def is_open(self) -> bool:
        """Return True between `open` and `close`."""
        return self._is_open

    async def open(self) -> None:
        """Connect, and bring the tables to this version."""
        self._is_open = True
        try:
            await anyio.to_thread.run_sync(self._prepare)
            doing = "open the sessions"
            if not await self.read(doing, self._is_up_to_date):
                await self.write(doing, self._migrate)
        except BaseException as error:
            await self.close()
            found = store_error(error, "open the sessions", self.shown)
            if found is error:
                raise
            raise found from None

    async def close(self) -> None:
        """Close every connection."""
        self._is_open = False
        await _run_to_its_end(self._stop)

    async def read(self, doing: str, work: Callable[[Connection], ResultT]) -> ResultT:
        """Run a transaction that sees the database as it is at one moment."""
        return await self._done(Job(doing, work, "read"))

    async def write(self, doing: str, work: Callable[[Connection], ResultT]) -> ResultT:
        """Run a transaction; return its result once it is stored as a whole.

        `work` may run twice if the first transaction was rolled back.
        """
        return await self._done(Job(doing, work, "write"))

    async def lock(self, doing: str, work: Callable[[Connection], ResultT]) -> ResultT:
        """Run a transaction about who may write, such as one about a lease.

        Its result matters as long as the processes run that share the database. So a database that
        only processes of its own machine share need not flush it to the disk.
        """
        return await self._done(Job(doing, work, "lock"))

    async def probe(self, doing: str, work: Callable[[Connection], object]) -> None:
        """Run a transaction that writes, and roll it back."""
        await self._done(Job(doing, work, "probe"))

    async def forget_deleted(self) -> None:  # noqa: B027  (PostgreSQL needs nothing)
        """Overwrite deleted content where the database still has it outside of its tables."""

    async def _done(self, job: Job[ResultT]) -> ResultT:
        """Wait until a job has ended, and return its result.

        A job that has begun runs to its end, also if its caller is cancelled.
        """
        if not self._is_open:
            raise StoreError("The store is not open: use it inside `async with store:`.")
        self._watch(job)
        self._put(job)
        try:
            try:
                await job.ended
            except asyncio.CancelledError:
                by_scope = anyio.current_effective_deadline() == -math.inf
                if not job.has_ended:
                    if job.withdraw():
                        raise
                    await _end_of(job)
                # A cancelled scope cancels again at the next checkpoint. So the caller learns, for
                # example, which lease it has to give back.
                if not by_scope:
                    raise
        finally:
            job.timer.cancel()
        if job.error is not None:
            raise self._told(job) from None
        result: ResultT = job.result
        return result

    def _watch(self, job: Job[Any]) -> None:
        """Look at a job again and again until it has ended."""
        seconds = min(self._timeout, STATEMENT_SECONDS)
        job.timer = job.loop.call_later(seconds, self._limit, job)

    def _limit(self, job: Job[Any]) -> None:
        """End a job that has waited or run for too long."""
        now = time.monotonic()
        if now >= job.begun + STATEMENT_SECONDS:
            job.interrupt()
        elif now >= job.put + self._timeout and job.withdraw():
            job.error = job.obstacle
            job.end()
            return
        self._watch(job)

    def _told(self, job: Job[Any]) -> BaseException:
        error = job.error
        assert error is not None
        job.error = None  # no cycle of the error, its frames and the job
        return store_error(error, job.doing, self.shown)

    @abstractmethod
    def _prepare(self) -> None:
        """Check that connections can be made; blocks."""

    @abstractmethod
    def _stop(self) -> None:
        """Close every connection; blocks."""

    @abstractmethod
    def _put(self, job: Job[Any]) -> None:
        """Queue a job for a thread."""

    @abstractmethod
    def _version(self, connection: Connection) -> int:
        """Return the version of the tables, or 0 if there are none."""

    def _is_up_to_date(self, connection: Connection) -> bool:
        """Return True if the tables have this version. Raise `StoreError` if they are newer."""
        found, known = self._version(connection), tables.version()
        if found > known:
            raise StoreError(
                f"The database has version {found} of the tables, and this pathors-agent knows them"
                f" up to {known}: install the newer pathors-agent that made it."
            )
        return found == known

    def _migrate(self, connection: Connection) -> None:
        """Create the tables or upgrade them."""
        if not self._is_up_to_date(connection):  # otherwise another process was first
            found = self._version(connection)
            for statement in tables.upgrade(connection.texts.dialect, found):
                connection.execute(statement)


async def _run_to_its_end(function: Callable[[], None]) -> None:
    """Run a blocking function in a thread to its end, however often the caller is cancelled."""
    ended = asyncio.get_running_loop().run_in_executor(None, function)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not ended.done():
            try:
                await asyncio.shield(ended)
            except asyncio.CancelledError as error:
                cancelled = error
    ended.result()
    if cancelled is not None:
        raise cancelled


async def _end_of(job: Job[Any]) -> None:
    """Wait until a job has ended, however often the caller is cancelled."""
    with anyio.CancelScope(shield=True):
        while not job.has_ended:
            job.ended = job.loop.create_future()
            with suppress(asyncio.CancelledError):
                await job.ended
