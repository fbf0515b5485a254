"""Time contenders so that a noisy machine matters little.

All of a bout's contenders run in one process, once per round and in shuffled order; what counts
is CPU time, and the ratio of two contenders in the same round. Every result is checked.
"""

import gc
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import process_time
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Clocked(Generic[T]):
    """A result of a contender that knows better which of its CPU seconds count."""

    result: T
    seconds: float


Contender = Callable[[], T | Clocked[T]]
"""One run of what is timed; what must be ready before it is made ready by `prepare`."""


class WrongResult(AssertionError):
    """A contender does not do what the others do: its time would mean nothing."""


@dataclass(frozen=True)
class Timings:
    """CPU seconds of every contender in every round."""

    seconds: Mapping[str, Sequence[float]]

    def ratio(self, one: str, other: str, *, minus: str | None = None) -> list[float]:
        """Give `one` (less `minus`) as a multiple of `other`, round by round."""
        less = self.seconds[minus] if minus else [0.0] * len(self.seconds[one])
        pairs = zip(self.seconds[one], less, self.seconds[other], strict=True)
        return [(a - b) / c for a, b, c in pairs]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def __contains__(self, name: str) -> bool:
        return name in self.seconds


def measure(
    bout: str,
    contenders: Mapping[str, Contender[T]],
    *,
    rounds: int,
    check: Callable[[T], bool],
    prepare: Callable[[], object] = lambda: None,
) -> Timings:
    """Run the contenders so many rounds, after one that warms them up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for name, run in contenders.items():
        say(f"{bout}: trying {name}")
        prepare()
        _checked(bout, name, run(), check)
    gc.collect()
    gc.freeze()  # what was imported and prepared is not gone through again in every collection
    for number in range(1, rounds + 1):
        say(f"{bout}: round {number} of {rounds}")
        for name in random.sample(list(contenders), len(contenders)):
            prepare()
            seconds[name].append(_time(bout, name, contenders[name], check))
    gc.unfreeze()
    say("")
    return Timings(seconds)


def _time(bout: str, name: str, run: Contender[T], check: Callable[[T], bool]) -> float:
    gc.collect()
    started = process_time()
    result = run()
    ended = process_time()
    _checked(bout, name, result, check)
    return result.seconds if isinstance(result, Clocked) else ended - started


def _checked(bout: str, name: str, got: T | Clocked[T], check: Callable[[T], bool]) -> None:
    result = got.result if isinstance(got, Clocked) else got
    if not check(result):
        raise WrongResult(f"{bout}: {name} gave something else: {str(result)[:300]}")


def say(progress: str) -> None:
    """Show where the run is, where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{progress[:100]}", end="", file=sys.stderr, flush=True)
