"""A part of a prompt, and which of its words are used up."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pathors_agent.offline.words import words


@dataclass(frozen=True, slots=True)
class Found:
    """A place in a sentence: the match of a pattern, or its group `value` where it has one."""

    match: re.Match[str] = field(repr=False)
    start: int
    end: int

    @property
    def text(self) -> str:
        """What stands there."""
        return self.match.string[self.start : self.end]

    @property
    def before(self) -> str:
        """What stands before it."""
        return self.match.string[: self.start]

    @property
    def after(self) -> str:
        """What stands after it."""
        return self.match.string[self.end :]


class Sentence:
    """A text from which arguments are taken, each place once.

    `tool_stems` are the words of the tool's name, which are no values; `last_number` is what
    "that" stands for in arithmetic.
    """

    def __init__(
        self,
        text: str,
        *,
        tool_stems: frozenset[str] = frozenset(),
        last_number: str | None = None,
    ) -> None:
        self.text = text
        self.tool_stems = tool_stems
        self.last_number = last_number
        self._taken: list[tuple[int, int]] = []

    def find(self, pattern: re.Pattern[str]) -> Iterator[Found]:
        """Find the places of a pattern that are not used up."""
        group = "value" if "value" in pattern.groupindex else 0
        for match in pattern.finditer(self.text):
            start, end = match.span(group)
            if not any(start < taken_end and taken < end for taken, taken_end in self._taken):
                yield Found(match, start, end)

    def take(self, found: Found) -> str:
        """Use up a place; give its text."""
        self._taken.append((found.start, found.end))
        return found.text

    def take_all(self) -> None:
        """Use up everything."""
        self._taken.append((0, len(self.text)))

    def unused(self) -> str:
        """Give the text with what is used up blanked out."""
        rest = self.text
        for start, end in self._taken:
            rest = rest[:start] + "\0" * (end - start) + rest[end:]
        return rest

    def unused_words(self) -> list[str]:
        """Give the words that say something and are not used up."""
        return words(self.unused())
