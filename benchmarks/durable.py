"""What durability costs: a turn and a step, beside a plain run and a peer; workers on one database.

Every run is a process of its own, on a database of its own. The model answers at once, so that
nothing but the engine is measured.
"""

import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from benchmarks.postgres import cluster
from benchmarks.results import Measured, Row, Settings
from benchmarks.rounds import WrongResult, say

ROOT = Path(__file__).parent.parent
NEEDED = ("dbos", "sqlalchemy", "psycopg")

# The model's answer, that the call begins, and what it gave.
STEPS_A_TURN = 3
TURNS = 60
# Long enough that a step which wrote the whole history would be ten times dearer at its end.
LONG = 400
MOST_GROWTH = 1.3
# A turn beside the same records by the engine alone.
MOST_ABOVE_ENGINE = 1.3
# A turn of a long session beside one of a short session.
SHORT, MANY_MESSAGES = 10, 5_000
MOST_OF_LONG_SESSION = 3.0
WORKERS = (1, 2, 4)
RUNS = 200
IDLE_SECONDS = 5.0
WRITERS, WRITE_SECONDS = 8, 3.0


def run(settings: Settings) -> Measured:
    measured = Measured()
    if absent := [name for name in NEEDED if find_spec(name) is None]:
        measured.skipped.append(f"durable: {', '.join(absent)} is not installed")
        return measured
    with tempfile.TemporaryDirectory() as folder, cluster() as postgres:
        databases = _Databases(folder, postgres)
        measured += _turns(databases, settings)
        measured += _growth(databases, settings)
        measured += _sessions(databases, settings)
        if postgres:
            measured += _workers(databases, settings)
        else:
            measured.skipped.append("durable, PostgreSQL: its programs are not installed")
    say("")
    return measured


class _Databases:
    """Empty databases, each used once."""

    def __init__(self, folder: str, postgres: str | None) -> None:
        self._folder = folder
        self._postgres = postgres
        self._made = 0
        self.kinds = ("SQLite", "PostgreSQL") if postgres else ("SQLite",)

    def new(self, kind: str) -> str:
        self._made += 1
        if kind == "SQLite":
            return f"sqlite:///{self._folder}/runs{self._made}.db"
        import psycopg

        assert self._postgres
        name = f"runs{self._made}"
        with psycopg.connect(self._postgres, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"{self._postgres.rpartition('/')[0]}/{name}"


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "benchmarks.durable_process", *map(str, arguments)]


# - turns -


def _turns(databases: _Databases, settings: Settings) -> Measured:
    """Milliseconds of a turn: a model call, and a call of a tool."""
    turns = 4 if settings.quick else TURNS
    kinds = ["durable", "dbos", *(["pydantic-ai"] if _has_peer() else [])]
    found: dict[tuple[str, str], list[float]] = {("plain", ""): []}
    found |= {(kind, database): [] for database in databases.kinds for kind in kinds}
    for number in range(settings.rounds_of_slow):
        for kind, database in random.sample(list(found), len(found)):
            say(f"durable: round {number + 1}, {kind} {database}")
            ticks = _ticks(kind, databases.new(database) if database else "-", turns)
            found[kind, database].append(statistics.median(_gaps(ticks)) * 1e3)
    measured = Measured(list(_turn_rows(found)))
    if not _has_peer():
        measured.skipped.append("durable, pydantic-ai: it is not installed")
    return measured


def _has_peer() -> bool:
    return find_spec("pydantic_ai") is not None


def _turn_rows(found: dict[tuple[str, str], list[float]]) -> Iterator[Row]:
    plain = statistics.median(found["plain", ""])
    for (kind, database), values in found.items():
        where = f", {database}" if database else ""
        yield Row("", f"ms a turn with one tool, {kind}{where}", values)
        if kind == "durable":
            # Not below nothing, where a machine is busy.
            steps = [max(value - plain, 0.001) / STEPS_A_TURN for value in values]
            yield Row("", f"ms a durable step{where}", steps)
        ours = found.get(("durable", database), [])
        if kind == "dbos":
            ratios = [ours_ / value for ours_, value in zip(ours, values, strict=True)]
            what = f"a turn of DurableAgent / the same records by DBOS alone{where}"
            yield Row("T25", what, ratios, MOST_ABOVE_ENGINE)
        elif kind != "durable" and database:
            ratios = [value / statistics.median(ours) for value in values]
            yield Row("", f"a turn of {kind} / of DurableAgent{where}", ratios)


def _ticks(kind: str, database: str, turns: int) -> list[float]:
    done = subprocess.run(
        _command(kind, database, turns), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise WrongResult(f"durable, {kind}: {done.stderr[-1000:]}")
    ticks: list[float] = json.loads(done.stdout.splitlines()[-1])
    return ticks


def _gaps(ticks: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(ticks)]


# - growth -


def _growth(databases: _Databases, settings: Settings) -> Measured:
    """The last turns of a long run beside its first ones."""
    turns = 8 if settings.quick else LONG
    rows = []
    for database in databases.kinds:
        say(f"durable: a run of {turns} turns, {database}")
        gaps = _gaps(_ticks("durable", databases.new(database), turns))
        part = len(gaps) // 4
        ratio = statistics.median(gaps[-part:]) / statistics.median(gaps[:part])
        what = f"last quarter of {turns} turns / first quarter, {database}"
        rows.append(Row("", what, [ratio], MOST_GROWTH))
    return Measured(rows)


# - sessions -


def _sessions(databases: _Databases, settings: Settings) -> Measured:
    """A turn of a session with many messages beside one with few; and one that reads them first."""
    many = 40 if settings.quick else MANY_MESSAGES
    rows = []
    for database in databases.kinds:
        say(f"durable: sessions, {database}")
        few = statistics.median(_ticks("session", databases.new(database), SHORT))
        long = statistics.median(_ticks("session", databases.new(database), many))
        read = statistics.median(_ticks("session-read", databases.new(database), many))
        what = f"a turn in a session of {many:,} messages / of {SHORT}, {database}"
        rows.append(Row("T26", what, [long / few], MOST_OF_LONG_SESSION))
        what = f"ms more where the worker must read the {many:,} messages first, {database}"
        rows.append(Row("", what, [max((read - long) * 1e3, 0.001)]))
    return Measured(rows)


# - workers -


def _workers(databases: _Databases, settings: Settings) -> Measured:
    """Runs a second of one turn each, on PostgreSQL, and what the database does for them."""
    counts, runs = ((1,), 4) if settings.quick else (WORKERS, RUNS)
    rows = []
    for count in counts:
        say(f"durable: {runs} runs, {count} workers")
        database = databases.new("PostgreSQL")
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(_worker(database))
            seconds = asyncio.run(_carried_out(database, runs))
            rows.append(Row("", f"runs a second, {count} workers, PostgreSQL", [runs / seconds]))
    database = databases.new("PostgreSQL")
    with _worker(database, "idle"):
        idle = _transactions_in(database, 1.0 if settings.quick else IDLE_SECONDS)
    rows.append(Row("", "transactions a second of an idle worker", [idle]))
    return Measured([*rows, *_rates(databases, settings)])


def _transactions_in(database: str, seconds: float) -> float:
    """Count the transactions that a database ends in a second."""
    import psycopg

    query = "SELECT pg_stat_force_next_flush(), xact_commit + xact_rollback FROM pg_stat_database"
    with psycopg.connect(database, autocommit=True) as connection:
        found = []
        for pause in (0.0, seconds):
            time.sleep(pause)
            row = connection.execute(f"{query} WHERE datname = current_database()".encode())
            found.append(row.fetchall()[0][1])
    return max((found[1] - found[0]) / seconds, 0.001)


def _rates(databases: _Databases, settings: Settings) -> Iterator[Row]:
    """Count what a database takes in a second: rows of a step's size, each for good, and looks."""
    import psycopg

    database = databases.new("PostgreSQL")
    seconds = 0.2 if settings.quick else WRITE_SECONDS
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE steps (number SERIAL PRIMARY KEY, text TEXT)")
    write = f"INSERT INTO steps (text) VALUES ('{'x' * 540}')"
    look = "SELECT text FROM steps WHERE number = 17"
    for name, statement in {"writes": write, "reads": look}.items():
        end = time.perf_counter() + seconds

        def work(_: int, statement: str = statement, end: float = end) -> int:
            done = 0
            with psycopg.connect(database, autocommit=True) as connection:
                while time.perf_counter() < end:
                    connection.execute(statement.encode())
                    done += 1
            return done

        with ThreadPoolExecutor(WRITERS) as threads:
            rate = max(sum(threads.map(work, range(WRITERS))) / seconds, 0.001)
        yield Row("", f"{name} a second, PostgreSQL", [rate])


@contextmanager
def _worker(database: str, kind: str = "worker") -> Iterator[None]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        _command(kind, database), cwd=ROOT, stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            if process.stdout.readline() != "ready\n":
                raise WrongResult("durable: a worker did not start")
            yield
        finally:
            process.stdin.close()


async def _carried_out(database: str, runs: int) -> float:
    from benchmarks.durable_process import DONE, QUEUE, make_agent
    from pathors_agent.durable import DurableAgent

    async with DurableAgent(make_agent(1, []), database=database, queue=QUEUE) as agent:
        start = time.perf_counter()
        handles = [await agent.start("go") for _ in range(runs)]
        results = [await handle.result() for handle in handles]
        seconds = time.perf_counter() - start
    if {result.output for result in results} != {DONE}:
        raise WrongResult("durable: a run without its answer")
    return seconds
