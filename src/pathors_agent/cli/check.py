"""Test an endpoint from the command line: a bar while it runs, then a table or JSON."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pathors_agent.checking.check import check_endpoint
from pathors_agent.checking.report import Finding, Report, Verdict
from pathors_agent.cli.output import write_json, write_line, write_table, write_text
from pathors_agent.transports.exchange import Timeouts
from pathors_agent.transports.http import HTTPTransport

# Exit statuses.
SOMETHING_IS_MISSING = 3
SOMETHING_IS_NOT_SEEN = 4
A_PROFILE_IS_NEEDED = 5

_TITLES = ("rule", "seen", "remark")
_MARKS = {Verdict.HOLDS: "holds", Verdict.DOES_NOT_HOLD: "no", Verdict.NOT_SEEN: "not seen"}


def check(
    url: str, *, key: str | None, model: str | None, tokens: int, seconds: float, as_json: bool
) -> int:
    """Check an endpoint, write the findings, and return the exit status."""
    timeouts = Timeouts(first_byte=seconds, between_bytes=seconds, whole=seconds)
    with HTTPTransport(url, api_key=key, timeouts=timeouts) as http, _progress() as progress:
        report = check_endpoint(
            http, model=model, tokens=tokens, seconds=seconds, progress=progress
        )
    if as_json:
        write_json({"model": model, **report.as_json()})
    else:
        _write(report)
    return _outcome(report)[0]


def _write(report: Report) -> None:
    rows = [(finding.name, _mark(finding), _remark(finding)) for finding in report.findings]
    write_table(_TITLES, rows, empty="")
    write_text("")
    write_line(f"profile={report.profile_code()}")
    write_line(_outcome(report)[1])


def _outcome(report: Report) -> tuple[int, str]:
    """Return the exit status and its meaning."""
    missing = [finding.name for finding in report.findings if finding.breaks]
    if missing:
        said = f"Agents lack what they need here, and no profile helps: {'; '.join(missing)}."
        return SOMETHING_IS_MISSING, said
    unseen = [finding.name for finding in report.findings if finding.is_open]
    if unseen:
        said = f"Not everything that agents need was seen here: {'; '.join(unseen)}."
        return SOMETHING_IS_NOT_SEEN, said
    if not report.holds:
        return A_PROFILE_IS_NEEDED, "Agents have what they need here with this profile."
    return 0, "Agents have what they need here."


def _mark(finding: Finding) -> str:
    if finding.breaks:
        return "MISSING"
    return "NOT SEEN" if finding.is_open else _MARKS[finding.verdict]


def _remark(finding: Finding) -> str:
    remedy = f"use {finding.profile}" if finding.profile else ""
    if finding.breaks:
        remedy = "no profile helps"
    return "; ".join(filter(None, [remedy, finding.detail]))


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """Show a progress bar on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")

        def show(name: str, done: int, of: int) -> None:
            bar.update(task, description=name, completed=done, total=of)

        yield show
