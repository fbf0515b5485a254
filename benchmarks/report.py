"""What a run of the benchmarks prints and writes."""

import json
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.results import Measured, Row

PACKAGES = (
    "pathors-agent",
    "httpx-sse",
    "httpx2",
    "langchain-openai",
    "msgspec",
    "openai",
    "openai-agents",
    "pydantic",
    "pydantic-ai-slim",
    "pydantic-core",
)


# What an earlier state of the library took, by what was measured: the column `before`.
BEFORE = Path(__file__).parent / "before.json"


def table(measured: Measured, *, quick: bool) -> str:
    """Write everything as plain text."""
    note = ["", "One small round: it shows that everything runs, not how fast."] if quick else []
    rows = _rows(measured.rows, quick=quick)
    versions = _versions(measured)
    return "\n".join([*rows, *_costs(measured), *versions, *_skipped(measured), *note])


def document(measured: Measured, *, quick: bool) -> dict[str, Any]:
    """Give everything as what JSON can hold."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: _version(name) for name in PACKAGES} | measured.versions,
        "quick": quick,
        "targets": [_row_as_object(row, quick=quick) for row in measured.rows],
        "microseconds_per_event": [
            {"case": c.case, "contender": c.contender, "cpu": c.microseconds}
            for c in measured.costs
        ],
        "microseconds_per_turn": {c.contender: c.microseconds for c in measured.turns},
        "skipped": measured.skipped,
    }


def write_json(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def _rows(rows: list[Row], *, quick: bool) -> Iterator[str]:
    width = max((len(row.what) for row in rows), default=0)
    before = json.loads(BEFORE.read_text())["medians"]
    yield f"{'':4} {'what':{width}} {'median':>9} {'quartiles':>17} {'target':>9} {'before':>9}"
    for row in rows:
        first, third = row.quartiles
        spread = f"{_number(first)} - {_number(third)}"
        earlier = _number(before[row.what]) if row.what in before else ""
        numbers = f"{_number(row.median):>9} {spread:>17} {_goal(row):>9} {earlier:>9}"
        yield f"{row.target:4} {row.what:{width}} {numbers}  {_verdict(row, quick=quick)}".rstrip()


def _costs(measured: Measured) -> Iterator[str]:
    contenders = list(dict.fromkeys(cost.contender for cost in measured.costs))
    by_place = {(cost.case, cost.contender): cost.microseconds for cost in measured.costs}
    cases = list(dict.fromkeys(cost.case for cost in measured.costs))
    if not cases:
        return
    width = max(len(name) for name in contenders)
    heads = " ".join(f"{case:>25}" for case in cases)
    yield ""
    yield "Microseconds of CPU per event:"
    yield f"{'':{width}} {heads}"
    for contender in contenders:
        found = (by_place.get((case, contender)) for case in cases)
        cells = " ".join(f"{'-' if n is None else _number(n):>25}" for n in found)
        yield f"{contender:{width}} {cells}"


def _versions(measured: Measured) -> Iterator[str]:
    found = {name: _version(name) for name in PACKAGES} | measured.versions
    names = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    yield ""
    yield f"Python {platform.python_version()}, {os.cpu_count()} cores; {names}"


def _skipped(measured: Measured) -> Iterator[str]:
    if measured.skipped:
        yield ""
    for reason in dict.fromkeys(measured.skipped):
        yield f"left out: {reason}"


def _number(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    return f"{'>=' if row.at_least else '<='} {_number(row.goal)}"


def _verdict(row: Row, *, quick: bool) -> str:
    if quick:
        return ""
    return {True: "reached", False: "MISSED", None: ""}[row.reached]


def _row_as_object(row: Row, *, quick: bool) -> dict[str, Any]:
    return {
        "target": row.target,
        "what": row.what,
        "median": row.median,
        "quartiles": row.quartiles,
        "rounds": len(row.values),
        "goal": row.goal,
        "at_least": row.at_least,
        "reached": None if quick else row.reached,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
