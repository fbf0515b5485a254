"""Fleets larger than any at hand: a discrete-event simulation of workers on one or more databases.

`python -m benchmarks.simulate_fleet` prints tables and writes a plot. What a transaction costs comes
from the file of measured figures (`make bench`), else from those of FIGURES.
"""

import argparse
import json
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from math import log
from pathlib import Path
from typing import Any

from benchmarks import lines

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figures:
    """What was measured: of PostgreSQL, and of an idle worker."""

    writes_a_second: float
    reads_a_second: float
    idle_transactions_a_second: float


# Of two cores that ran the database and what asked it.
FIGURES = Figures(writes_a_second=2_500, reads_a_second=13_700, idle_transactions_a_second=6.4)
NAMES = {
    "writes a second, PostgreSQL": "writes_a_second",
    "reads a second, PostgreSQL": "reads_a_second",
    "transactions a second of an idle worker": "idle_transactions_a_second",
}


@dataclass(frozen=True)
class Fleet:
    """What is simulated; times in seconds. The defaults are the assumptions of the docs' page."""

    figures: Figures = FIGURES
    workers: int = 100
    conversations_a_day: float = 1_000_000
    databases: int = 1
    runs_a_conversation: float = 4
    # The busiest hour of a day has this many times its mean.
    peak: float = 2.5
    slots: int = 20
    tool_rounds: float = 1.0  # on the mean, geometric
    model_median: float = 2.0
    model_p95: float = 8.0
    tool_median: float = 0.3
    tool_p95: float = 2.0
    # Sizes of projects by Zipf's law: the largest has a sixth of all runs.
    projects: int = 200
    zones: int = 3
    poll: float = 0.5
    takeover: float = 18.0
    # A database that is in the lost zone is replaced by its standby within this time.
    failover: float = 30.0
    # What a database does at once: a commit waits for the disk, others need not wait for it.
    channels: int = 8
    seconds: float = 60.0
    lost_at: float | None = None
    database_is_lost: bool = False

    @property
    def runs_a_second(self) -> float:
        return self.conversations_a_day * self.runs_a_conversation * self.peak / 86_400


# The pause between two looks into the queue when the figures were taken: workers that find nothing
# look less and less often.
MEASURED_POLL = 0.5

# Transactions of a run before its first call: it is stored and claimed, its journal and its session
# are read, its begin is recorded, the session advances. After its last call: its end, and its result.
BEFORE, AFTER = 6, 2
# For each call: a model's answer; the begin of a tool's call (none if it is idempotent), its result.
MODEL, TOOL = 1, 2


class Database:
    """A queue with so many places to be served; tells when each transaction is done."""

    def __init__(self, fleet: Fleet) -> None:
        figures = fleet.figures
        looks = fleet.workers / fleet.databases * figures.idle_transactions_a_second
        looks *= MEASURED_POLL / fleet.poll
        # What polls and heartbeats take, which mostly read; what is left is never quite nothing.
        self.idle_share = min(looks / figures.reads_a_second, 0.999)
        self._seconds = fleet.channels / figures.writes_a_second / (1 - self.idle_share)
        self._free = [0.0] * fleet.channels
        self.busy = 0.0

    def done_at(self, now: float) -> float:
        """Take a transaction; they come in the order of time."""
        end = max(now, self._free[0]) + self._seconds
        heapreplace(self._free, end)
        self.busy += (1 - self.idle_share) * self._seconds / len(self._free)
        return end

    def stop_until(self, time: float) -> None:
        self._free = [max(free, time) for free in self._free]
        heapify(self._free)


@dataclass(slots=True)
class Run:
    """One run: what is left of it, where it is, and what it waits for."""

    came: float
    database: int
    steps: deque[str]
    zone: int = -1
    ticket: int = 0
    """Of what it waits for: an older one is void."""


@dataclass
class Outcome:
    """What came of a fleet."""

    fleet: Fleet
    seconds: list[float]
    """Of each run that ended, from its start to its end."""
    came: int
    busiest: float
    """The share of its time that the busiest database was at work."""
    waiting: list[tuple[float, int]]
    """How many runs were at work or waited, over time."""
    taken_over: int

    def percentile(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return (
            ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("inf")
        )

    @property
    def is_saturated(self) -> bool:
        """Whether more comes than goes: the queue grows as long as the peak lasts."""
        settled = [waiting for time, waiting in self.waiting if time > self.fleet.seconds / 3]
        first, last = settled[0], settled[-1]
        return last > first * 1.5 + 50


class Simulation:
    """One peak of a fleet's day, event by event."""

    def __init__(self, fleet: Fleet, seed: int = 1) -> None:
        self._fleet = fleet
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = count()
        self._databases = [Database(fleet) for _ in range(fleet.databases)]
        self._free = [fleet.workers * fleet.slots // fleet.zones] * fleet.zones
        self._queue: deque[Run] = deque()
        self._at_work: set[int] = set()
        self._runs: list[Run] = []
        self._outcome = Outcome(fleet, [], 0, 0.0, [], 0)
        sizes = [1 / rank for rank in range(1, fleet.projects + 1)]
        self._shares = [0.0] * fleet.databases
        for size in sizes:  # the next project to the database that has least
            least = min(range(fleet.databases), key=self._shares.__getitem__)
            self._shares[least] += size

    def run(self) -> Outcome:
        """Simulate it to its end."""
        self._at(0.0, self._arrive)
        self._at(0.0, self._look)
        if self._fleet.lost_at is not None:
            self._at(self._fleet.lost_at, self._lose_a_zone)
        while self._events and self._events[0][0] < self._fleet.seconds:
            time, _, work = heappop(self._events)
            work(time)
        busy = max(d.busy / self._fleet.seconds + d.idle_share for d in self._databases)
        self._outcome.busiest = min(busy, 1.0)
        return self._outcome

    def _at(self, time: float, work: Callable[[float], None]) -> None:
        heappush(self._events, (time, next(self._numbers), work))

    def _look(self, now: float) -> None:
        waiting = len(self._queue) + len(self._at_work)
        self._outcome.waiting.append((now, waiting))
        self._at(now + 1.0, self._look)

    def _arrive(self, now: float) -> None:
        self._at(now + self._random.expovariate(self._fleet.runs_a_second), self._arrive)
        database = self._random.choices(range(self._fleet.databases), self._shares)[0]
        run = Run(now, database, deque(self._steps()))
        self._outcome.came += 1
        self._runs.append(run)
        # Half a poll goes by on the mean before a worker sees it.
        self._at(now + self._random.uniform(0, self._fleet.poll), lambda t: self._take(t, run))

    def _steps(self) -> Iterator[str]:
        yield from ["database"] * BEFORE
        more = self._fleet.tool_rounds / (1 + self._fleet.tool_rounds)
        while self._random.random() < more:
            yield from ["model", *["database"] * MODEL, "database", "tool", "database"]
        yield from ["model", *["database"] * (MODEL + AFTER)]

    def _take(self, now: float, run: Run) -> None:
        zone = max(range(self._fleet.zones), key=self._free.__getitem__)
        if self._free[zone] <= 0:
            self._queue.append(run)
            return
        self._free[zone] -= 1
        run.zone = zone
        self._at_work.add(id(run))
        self._go_on(now, run)

    def _go_on(self, now: float, run: Run) -> None:
        if not run.steps:
            self._end(now, run)
            return
        run.ticket = next(self._numbers)
        ticket = run.ticket
        match run.steps[0]:
            case "database":
                time = self._databases[run.database].done_at(now)
            case "model":
                time = now + self._drawn(self._fleet.model_median, self._fleet.model_p95)
            case _:
                time = now + self._drawn(self._fleet.tool_median, self._fleet.tool_p95)

        def done(at: float) -> None:
            if run.ticket == ticket:  # else its worker died meanwhile
                run.steps.popleft()
                self._go_on(at, run)

        self._at(time, done)

    def _drawn(self, median: float, p95: float) -> float:
        return self._random.lognormvariate(log(median), log(p95 / median) / 1.645)

    def _end(self, now: float, run: Run) -> None:
        self._outcome.seconds.append(now - run.came)
        self._at_work.discard(id(run))
        self._free[run.zone] += 1
        run.zone = -1
        if self._queue and max(self._free) > 0:
            self._take(now, self._queue.popleft())

    def _lose_a_zone(self, now: float) -> None:
        """A third of the workers is gone: the others see it when heartbeats are missed."""
        lost = 0
        self._free[lost] = -(10**9)
        for run in self._runs:
            if run.zone == lost:
                run.ticket = -1
                run.zone = -1
                self._at_work.discard(id(run))
                self._outcome.taken_over += 1
                self._at(now + self._fleet.takeover, partial(self._take, run=run))
        if self._fleet.database_is_lost:
            for database in self._databases:
                database.stop_until(now + self._fleet.failover)


def simulate(fleet: Fleet, **changes: Any) -> Outcome:
    return Simulation(replace(fleet, **changes)).run()


# - what is asked -

WORKERS = (10, 100, 1_000)
LOADS = (125_000, 250_000, 500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000)
PARTITIONS = (1, 4, 16)


def by_workers(fleet: Fleet, loads: Sequence[float]) -> dict[str, list[Outcome]]:
    """One database, and more of everything else."""
    fleets = {f"{workers} workers": replace(fleet, workers=workers) for workers in WORKERS}
    fleets["1000, look each 5 s"] = replace(fleet, workers=1_000, poll=5.0)
    return {
        name: [simulate(each, conversations_a_day=load) for load in loads]
        for name, each in fleets.items()
    }


def by_partitions(fleet: Fleet, loads: Sequence[float]) -> dict[str, list[Outcome]]:
    """A thousand workers, and projects divided among databases."""
    return {
        f"{databases} databases": [
            simulate(fleet, workers=1_000, databases=databases, conversations_a_day=load)
            for load in loads
        ]
        for databases in PARTITIONS
    }


def lost_zones(fleet: Fleet) -> dict[str, Outcome]:
    """A million conversations a day, and a zone of three that is lost at the peak."""
    whole = replace(fleet, workers=100, seconds=240.0)
    return {
        "nothing is lost": simulate(whole),
        "a zone of workers": simulate(whole, lost_at=60.0),
        "a zone with the database": simulate(whole, lost_at=60.0, database_is_lost=True),
    }


# - what is told -


def table(title: str, found: dict[str, list[Outcome]]) -> Iterator[str]:
    """Write the seconds that 95 of 100 runs need at most, and how busy the database is."""
    yield f"{title}: p95 of a run in seconds (share of the busiest database's time)"
    loads = [outcome.fleet.conversations_a_day for outcome in next(iter(found.values()))]
    yield f"{'conversations a day':<22}" + "".join(f"{load:>15,.0f}" for load in loads)
    for name, outcomes in found.items():
        yield f"{name:<22}" + "".join(f"{_told(outcome):>15}" for outcome in outcomes)


def _told(outcome: Outcome) -> str:
    if outcome.is_saturated:
        return f"- ({outcome.busiest:.0%})"
    return f"{outcome.percentile(0.95):.1f} ({outcome.busiest:.0%})"


def zones_table(found: dict[str, Outcome]) -> Iterator[str]:
    yield "What is lost at the peak, 100 workers: p50, p95, p99 of a run in seconds; taken over"
    for name, outcome in found.items():
        numbers = [outcome.percentile(share) for share in (0.5, 0.95, 0.99)]
        told = "".join(f"{number:>8.1f}" for number in numbers)
        yield f"{name:<28}{told}{outcome.taken_over:>8}"


def plot(
    workers: dict[str, list[Outcome]],
    partitions: dict[str, list[Outcome]],
    zones: dict[str, Outcome],
) -> str:
    """Draw three panels."""
    busy = "Share of the database's time, by conversations a day"
    return lines.svg(
        [
            lines.Panel(f"One database: {busy[0].lower()}{busy[1:]}", _busy(workers), percent=True),
            lines.Panel(
                "1,000 workers, projects divided: share of the busiest database's time",
                _busy(partitions),
                percent=True,
            ),
            lines.Panel(
                "A zone is lost after 60 s: runs that are at work or wait, by seconds",
                {name: outcome.waiting for name, outcome in zones.items()},
                is_log=False,
            ),
        ]
    )


def _busy(found: dict[str, list[Outcome]]) -> dict[str, list[tuple[float, float]]]:
    return {
        name: [(o.fleet.conversations_a_day, o.busiest * 100) for o in outcomes]
        for name, outcomes in found.items()
    }


def read_figures(path: Path) -> Figures:
    """Read what was measured; what the file lacks is as in FIGURES."""
    if not path.exists():
        return FIGURES
    rows = {row["what"]: row["median"] for row in json.loads(path.read_text())["targets"]}
    return replace(FIGURES, **{NAMES[what]: rows[what] for what in NAMES.keys() & rows.keys()})


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulate_fleet", description=__doc__
    )
    parser.add_argument("--figures", type=Path, default=RESULTS / "benchmarks.json", metavar="FILE")
    parser.add_argument("--svg", type=Path, default=RESULTS / "fleet.svg", metavar="FILE")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each peak")
    options = parser.parse_args()
    fleet = Fleet(figures=read_figures(options.figures), seconds=options.seconds)
    print(f"{fleet.figures}\n")
    workers, partitions = by_workers(fleet, LOADS), by_partitions(fleet, LOADS)
    zones = lost_zones(fleet)
    for text in (table("One database", workers), table("1,000 workers", partitions)):
        print("\n".join(text), end="\n\n")
    print("\n".join(zones_table(zones)))
    options.svg.parent.mkdir(parents=True, exist_ok=True)
    options.svg.write_text(plot(workers, partitions, zones))


if __name__ == "__main__":
    main()
