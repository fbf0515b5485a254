"""Measure, and say what was found: `python -m benchmarks`; `make bench` sets up the peers first."""

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from time import monotonic

from benchmarks import plot, report
from benchmarks.results import Measured, Settings

RESULTS = Path(__file__).parent / "results"

# A module each, with `run(settings) -> Measured`; a new one is added here.
SECTIONS = (
    "stream_path",
    "litellm_peer",
    "partial_arguments",
    "outgoing",
    "growth",
    "round_trip",
    "loopback",
    "server",
    "server_turns",
    "served_peers",
    "durable",
    "imports",
    "installs",
)


def main() -> None:
    options = _options()
    settings = Settings.of(quick=options.quick)
    measured = Measured()
    started = monotonic()
    for name in options.only or SECTIONS:
        measured += _section(name)(settings)
        # After each section, so that a section that fails loses only itself.
        found = report.document(measured, quick=options.quick)
        report.write_json(options.json, found)
    caption = f"{found['date'][:10]}, Python {found['python']}"
    if measured.costs:
        openai = found["versions"]["openai"] or "not installed"
        note = f"{caption}, openai {openai}, mocked HTTP"
        plot.write(options.svg, plot.EVENTS, measured.costs, note)
    if measured.turns:
        note = f"{caption}, a model that answers at once"
        plot.write(options.turns_svg, plot.TURNS, measured.turns, note)
    print(report.table(measured, quick=options.quick))
    print(f"\nMeasured in {(monotonic() - started) / 60:.1f} minutes.")


def _section(name: str) -> Callable[[Settings], Measured]:
    run: Callable[[Settings], Measured] = import_module(f"benchmarks.{name}").run
    return run


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round: does it work?")
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, metavar="NAME", help=", ".join(SECTIONS)
    )
    parser.add_argument("--json", type=Path, default=RESULTS / "benchmarks.json", metavar="FILE")
    parser.add_argument("--svg", type=Path, default=RESULTS / "benchmarks.svg", metavar="FILE")
    parser.add_argument("--turns-svg", type=Path, default=RESULTS / "turns.svg", metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
