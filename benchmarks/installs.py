"""T17: what an installation brings along, read from the metadata of what is installed here."""

from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from benchmarks.results import Measured, Row, Settings

NAME = "installs"

SOURCE = Path(__file__).parent.parent / "src"


def run(settings: Settings) -> Measured:
    try:
        ours, theirs = _closure("pathors-agent"), _closure("openai")
    except PackageNotFoundError as error:
        return Measured(skipped=[f"sizes of installations: {error}"])
    count = len(ours) / len(theirs)
    size = _megabytes(ours) / _megabytes(theirs)
    what = f"/ openai ({len(theirs)}, {_megabytes(theirs):.1f} MB)"
    return Measured(
        [
            Row("T17", f"distributions of the core ({len(ours)}) {what}", [count], 0.999),
            Row("T17", f"size of the core ({_megabytes(ours):.1f} MB) {what}", [size], 0.5),
        ]
    )


def _closure(name: str) -> set[NormalizedName]:
    """The names of a distribution and all that it needs here, extras left out."""
    found: set[NormalizedName] = set()
    waiting = [canonicalize_name(name)]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += _requirements(distribution(each))
    return found


def _requirements(of: Distribution) -> Iterator[NormalizedName]:
    for text in of.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


def _megabytes(names: set[NormalizedName]) -> float:
    return sum(_bytes(distribution(name)) for name in names) / 1e6


def _bytes(of: Distribution) -> int:
    """The size of its files, without what Python compiles of them."""
    if canonicalize_name(of.metadata["Name"]) == "pathors-agent":  # its files lie in src
        return sum(path.stat().st_size for path in SOURCE.rglob("*.py"))
    paths = (Path(str(file.locate())) for file in of.files or () if file.suffix != ".pyc")
    return sum(path.stat().st_size for path in paths if path.is_file())
