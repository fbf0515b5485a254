"""What was measured: rows with a target, and costs for the table and the plot."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One number that was measured once a round, and what it should be.

    `goal` is the most that it may be, or with `at_least` the least; None is no target.
    """

    target: str
    what: str
    values: Sequence[float]
    goal: float | None = None
    at_least: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, third

    @property
    def reached(self) -> bool | None:
        if self.goal is None:
            return None
        return self.median >= self.goal if self.at_least else self.median <= self.goal


@dataclass(frozen=True)
class Cost:
    """Microseconds of CPU that a contender took for one event of a stream, or one turn."""

    case: str
    contender: str
    microseconds: float


@dataclass
class Measured:
    """What a section measured, and what it could not."""

    rows: list[Row] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    """Of the events of streams."""
    turns: list[Cost] = field(default_factory=list)
    """Of served turns."""
    skipped: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    """Of what was measured in another environment."""

    def __iadd__(self, other: "Measured") -> "Measured":
        self.rows += other.rows
        self.costs += other.costs
        self.turns += other.turns
        self.skipped += other.skipped
        self.versions |= other.versions
        return self


@dataclass(frozen=True)
class Settings:
    """How much to measure."""

    quick: bool = False
    rounds: int = 9
    rounds_of_fast: int = 41
    """Of bouts that take milliseconds: more rounds cost nothing there."""
    rounds_of_slow: int = 4
    """Of bouts that take seconds: they hardly differ, and a run of all has ten minutes."""
    rounds_of_held: int = 3
    """Of processes that hold streams open."""
    chunks: int = 2_000

    @classmethod
    def of(cls, *, quick: bool) -> "Settings":
        if not quick:
            return cls()
        return cls(quick=True, rounds=1, rounds_of_fast=1, rounds_of_slow=1, chunks=100)
