"""Where choices come from: from a seed, or from whatever else chooses (Hypothesis, to shrink them).

What is simplest stands first in a list of options: who shrinks goes there.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol, TypeVar

T = TypeVar("T")


class CannotDraw(Exception):
    """Nothing can be made here; the text is the reason."""


class NeedsHypothesis(CannotDraw):
    """Only Hypothesis can make this."""


class Draws(Protocol):
    """A source of choices."""

    def choice(self, options: Sequence[T]) -> T:
        """Choose one of the options, of which the first is the simplest."""

    def integer(self, least: int, most: int) -> int:
        """Choose a number in this range, its ends among them."""

    def several(self, make: Callable[["Draws"], T], least: int, most: int) -> list[T]:
        """Make so many things."""

    def matching(self, pattern: str) -> str:
        """Make a text in which the pattern is found, or raise `CannotDraw`."""


class SeededDraws:
    """Choices from a seed: the same on every machine."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311  (chooses, and protects nothing)

    def choice(self, options: Sequence[T]) -> T:
        """Choose one of the options, each as often."""
        return options[int(self._random.random() * len(options))]

    def integer(self, least: int, most: int) -> int:
        """Choose a number, each as often."""
        return least + int(self._random.random() * (most - least + 1))

    def several(self, make: Callable[[Draws], T], least: int, most: int) -> list[T]:
        """Make so many things, fewer more often than many."""
        count = min(self.integer(least, most), self.integer(least, most))
        return [make(self) for _ in range(count)]

    def matching(self, pattern: str) -> str:
        """Refuse: to make texts of patterns takes Hypothesis."""
        raise NeedsHypothesis(f"no text can be made for the pattern {pattern!r}")


class FirstDraws:
    """The simplest choice every time."""

    def choice(self, options: Sequence[T]) -> T:
        """Take the first."""
        return options[0]

    def integer(self, least: int, most: int) -> int:
        """Take the number that is nearest to 0."""
        return min(max(0, least), most)

    def several(self, make: Callable[[Draws], T], least: int, most: int) -> list[T]:
        """Make as few as may be."""
        return [make(self) for _ in range(least)]

    def matching(self, pattern: str) -> str:
        """Refuse, as `SeededDraws` does."""
        raise NeedsHypothesis(f"no text can be made for the pattern {pattern!r}")
