"""One way to break the source: a text in a file, what stands there instead, and who must notice."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A rule, broken in one place.

    `breaks` are the promises and rules that it breaks, as "promise 7" or "rule 3"; `old` stands in
    `file`, below `src/pathors_agent`, exactly once. The `tests`, named below `tests`, must fail
    once it is `new`.
    """

    says: str
    breaks: tuple[str, ...]
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def mutant(says: str, breaks: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    """Write a mutant down; `breaks` are words with commas between."""
    return Mutant(says, tuple(breaks.split(", ")), file, old, new, tests)


def quirk(folder: str) -> str:
    """Name the test of one case of `tests/conformance/quirks`."""
    name = "test_quirk_is_read_as_expected_however_it_is_cut"
    return f"conformance/test_streams.py::{name}[{folder}]"
