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
from typing import Any, Generic, Literal, TypeVar

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
    except (ArgumentError, ValueError, TypeError):  # their texts quote the URL
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


Kind = Literal["read", "write", "lock", "erase", "probe"]
"""The kind of a transaction.

- `read` sees the database as it is at one moment.
- `write` ends when it is stored as a whole. It may run twice if the first try was rolled back.
- `lock` is about who may write, such as the holder of a lease. Its result matters as long as the
  processes run that share the database. So SQLite, whose processes share a machine, does not flush
  it to the disk.
- `erase` is a `write` that deletes content. It also overwrites what is left of the content outside
  of the tables. That is best effort: while others read, it happens after a later deletion.
- `probe` writes, and is rolled back.
"""


class Job(Generic[ResultT]):
    """A transaction that a caller waits for: a task of `loop`, or a thread if that is None.

    Its caller may withdraw it until a thread has claimed it; from then on it runs to its end.
    """

    def __init__(
        self,
        kind: Kind,
        doing: str,
        work: Callable[[Connection], ResultT],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.kind, self.doing, self.work, self.loop = kind, doing, work, loop
        self.wake: Callable[[], object]
        self.timer: asyncio.TimerHandle
        self.is_claimed = self.is_withdrawn = self.has_ended = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.obstacle: BaseException = TooBusy()
        self.put, self.begun = time.monotonic(), math.inf
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
        """Wake the caller; called on the caller's event loop, if it has one."""
        self.has_ended = True
        self.wake()


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
        by_loop: dict[asyncio.AbstractEventLoop | None, list[Job[Any]]] = {}
        for job in jobs:
            by_loop.setdefault(job.loop, []).append(job)
        for loop, ended in by_loop.items():
            if loop is None:
                _end(ended)
                continue
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

    def stop(self, *, waits: bool = True) -> None:
        """Close every connection, once the jobs before are done; blocks if it `waits`."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads if waits else ():
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
    """A database by its URL; `timeout` is how long to wait for a connection or a lock.

    Async code uses `open`, `run` and `close`; blocking code uses `connect`, `run_blocking` and
    `disconnect`.
    """

    def __init__(self, url: URL, timeout: float) -> None:
        self.shown = shown(url)
        self._url, self._timeout = url, timeout
        self.is_open = False
        self._texts: StatementTexts
        self._readers: Threads[Any]
        self._writers: Threads[Any]

    def connect(self) -> None:
        """Connect, and bring the tables to this version; blocks."""
        self.is_open = True
        doing = "open the sessions"
        try:
            self._prepare()
            if not self.run_blocking("read", doing, self._is_up_to_date):
                self.run_blocking("write", doing, self._migrate)
        except BaseException as error:
            self.disconnect()
            found = store_error(error, doing, self.shown)
            if found is error:
                raise
            raise found from None

    def disconnect(self, *, waits: bool = True) -> None:
        """Close every connection; blocks if it `waits` for running transactions."""
        self.is_open = False
        self._readers.stop(waits=waits)
        self._writers.stop(waits=waits)

    async def open(self) -> None:
        """Connect, and bring the tables to this version."""
        try:
            await _run_to_its_end(self.connect)
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every connection."""
        await _run_to_its_end(self.disconnect)

    def run_blocking(
        self, kind: Kind, doing: str, work: Callable[[Connection], ResultT]
    ) -> ResultT:
        """Run a transaction for the calling thread, and return its result; blocks."""
        job, ended = Job(kind, doing, work, None), threading.Event()
        job.wake = ended.set
        self._put(job)
        try:
            while not ended.wait(self._look_seconds):
                self._limit(job)
        except BaseException:  # Ctrl-C
            job.withdraw()
            raise
        return self._result(job)

    async def run(self, kind: Kind, doing: str, work: Callable[[Connection], ResultT]) -> ResultT:
        """Run a transaction for a task, and return its result.

        A job that has begun runs to its end, also if its caller is cancelled.
        """
        loop = asyncio.get_running_loop()
        job = Job(kind, doing, work, loop)
        ended = _end_of(job, loop)
        self._put(job)
        self._watch(job, loop)
        try:
            await ended
        except asyncio.CancelledError:
            by_scope = anyio.current_effective_deadline() == -math.inf
            if not job.has_ended:
                if job.withdraw():
                    raise
                with anyio.CancelScope(shield=True):
                    while not job.has_ended:
                        with suppress(asyncio.CancelledError):
                            await _end_of(job, loop)
            # A cancelled scope cancels again at the next checkpoint. So the caller learns, for
            # example, which lease it has to give back.
            if not by_scope:
                raise
        finally:
            job.timer.cancel()
        return self._result(job)

    def _put(self, job: Job[Any]) -> None:
        if not self.is_open:
            raise StoreError("The store is not open: use it inside `async with store:`.")
        (self._readers if job.kind == "read" else self._writers).put(job)

    def _result(self, job: Job[ResultT]) -> ResultT:
        if job.error is not None:
            error, job.error = job.error, None  # no cycle of the error, its frames and the job
            raise store_error(error, job.doing, self.shown) from None
        result: ResultT = job.result
        return result

    @property
    def _look_seconds(self) -> float:
        """How often to look at a job until it has ended."""
        return min(self._timeout, STATEMENT_SECONDS)

    def _watch(self, job: Job[Any], loop: asyncio.AbstractEventLoop) -> None:
        """Limit a job of a task again and again until it has ended."""

        def look() -> None:
            self._limit(job)
            if not job.has_ended:
                self._watch(job, loop)

        job.timer = loop.call_later(self._look_seconds, look)

    def _limit(self, job: Job[Any]) -> None:
        """End a job that has waited or run for too long."""
        now = time.monotonic()
        if now >= job.begun + STATEMENT_SECONDS:
            job.interrupt()
        elif now >= job.put + self._timeout and job.withdraw():
            job.error = job.obstacle
            job.end()

    @abstractmethod
    def _prepare(self) -> None:
        """Check that connections can be made; blocks."""

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


def _end_of(job: Job[Any], loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    """Return a future that is done when a job ends."""
    ended = loop.create_future()

    def wake() -> None:
        if not ended.done():
            ended.set_result(None)

    job.wake = wake
    return ended
