"""What happened in a run, in order: its model and tool calls as bars, as text or as a page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from dbos import WorkflowStatus

from pathors_agent.durable.history import BEGIN, STARTED, Step
from pathors_agent.durable.runs import AT_WORK, Runs, status_of

# A bar that took no time is still to be seen: so many hundredths of the page.
_NARROWEST = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One call: times are in milliseconds since 1970, `end` is None while it runs.

    `notes` say what was out of the ordinary: in doubt, run again, taken over from another worker.
    """

    effect: str
    label: str
    start: int
    end: int | None
    outcome: str
    worker: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A run's bars."""

    run: str
    status: str
    bars: tuple[Bar, ...]


async def read_timeline(runs: Runs[Any], run: str) -> Timeline:
    """Read what a run recorded."""
    segments = await runs.segments(run)
    bars: list[Bar] = []
    for row in segments:
        bars += _Reader(row).bars(await runs.steps(row.workflow_id))
    return Timeline(run=run, status=status_of(segments[-1]), bars=tuple(bars))


class _Reader:
    def __init__(self, row: WorkflowStatus) -> None:
        self._is_open = status_of(row) in AT_WORK
        self._names: dict[str, str] = {}  # effect -> tool
        self._begun: dict[str, Step] = {}
        self._worker = ""

    def bars(self, steps: Sequence[Step]) -> Iterator[Bar]:
        for step in steps:
            name, output = step["function_name"], step["output"]
            if not isinstance(output, dict):
                continue
            if name.endswith(STARTED):
                self._begun[name.removesuffix(STARTED)] = step
            elif name == BEGIN:
                self._worker = output.get("by", "")
            else:
                yield self._bar(name, step, output)
        for name, step in self._begun.items():
            outcome = "running" if self._is_open else "open"
            yield self._made(name, step["completed_at_epoch_ms"], None, outcome, step["output"])

    def _bar(self, name: str, step: Step, output: dict[str, Any]) -> Bar:
        message = output.get("message", {})
        turn = name.rpartition("/")[2]
        for place, call in enumerate(message.get("tool_calls") or ()):
            self._names[f"tool/{turn}/{place}"] = call["function"]["name"]
        begun = self._begun.pop(name, step)
        start = begun["completed_at_epoch_ms" if begun is not step else "started_at_epoch_ms"]
        outcome = message.get("outcome", "value") if "message" in output else "failed"
        return self._made(name, start, step["completed_at_epoch_ms"], outcome, output, begun)

    def _made(
        self,
        name: str,
        start: int,
        end: int | None,
        outcome: str,
        output: dict[str, Any],
        begun: Step | None = None,
    ) -> Bar:
        worker = output.get("by", self._worker)
        first = (begun or {}).get("output") or {}
        notes = []
        if "doubt" in output:
            notes.append("in doubt" if outcome == "unknown" else "in doubt, reconciled")
        if output.get("again"):
            notes.append("run again")
        if worker != self._worker or first.get("by", worker) != worker:
            notes.append("taken over")
        self._worker = worker
        label = self._names.get(name, name.partition("/")[0])
        return Bar(
            effect=name,
            label=label,
            start=start,
            end=end,
            outcome=outcome,
            worker=worker,
            notes=tuple(notes),
        )


def as_text(timeline: Timeline) -> Iterator[str]:
    """Write a timeline as lines."""
    yield f"{timeline.run}  {timeline.status}"
    for bar in timeline.bars:
        took = "..." if bar.end is None else f"{bar.end - bar.start} ms"
        notes = f"  ({', '.join(bar.notes)})" if bar.notes else ""
        yield f"  {bar.effect:<12} {bar.label:<20} {bar.outcome:<10} {took:>10}{notes}"


def as_html(timeline: Timeline) -> str:
    """Write a timeline as one page that needs nothing else."""
    start = min((bar.start for bar in timeline.bars), default=0)
    end = max((bar.end or bar.start for bar in timeline.bars), default=start)
    rows = "\n".join(_row(bar, start, max(end - start, 1)) for bar in timeline.bars)
    workers = ", ".join(sorted({bar.worker for bar in timeline.bars}))
    return _PAGE.format(
        run=escape(timeline.run),
        status=escape(timeline.status),
        seconds=f"{(end - start) / 1000:.1f}",
        workers=escape(workers),
        rows=rows,
    )


def _row(bar: Bar, start: int, whole: int) -> str:
    left = 100 * (bar.start - start) / whole
    took = (bar.end or start + whole) - bar.start
    width = min(max(100 * took / whole, _NARROWEST), 100 - min(left, 100 - _NARROWEST))
    kind = "model" if bar.effect.startswith("model") else "tool"
    outcome = bar.outcome if bar.outcome in _OUTCOMES else "failed"
    said = "" if bar.end is None else f"{took} ms"
    notes = "".join(f"<em>{escape(note)}</em>" for note in bar.notes)
    return (
        f"<tr><th>{escape(bar.label)}<small>{escape(bar.effect)}</small></th><td>"
        f'<div class="{kind} {outcome}" style="margin-left:{left:.2f}%;width:{width:.2f}%"></div>'
        f"</td><td>{escape(bar.outcome)}{notes}</td><td>{said}</td></tr>"
    )


_OUTCOMES = frozenset(
    {"value", "error", "timeout", "cancelled", "not_run", "unknown", "running", "open", "failed"}
)

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Run {run}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }}
h1 {{ font-size: 1.2em; overflow-wrap: anywhere }}
table {{ border-collapse: collapse; width: 100% }}
th {{ text-align: left; font-weight: 500; width: 14em; padding: 2px 1em 2px 0 }}
th small {{ display: block; color: #777; font-weight: 400 }}
td:nth-child(2) {{ background: linear-gradient(90deg, #eee 1px, transparent 1px) 0 0 / 10% 100% }}
td {{ padding: 2px 1em 2px 0; white-space: nowrap }}
td:nth-child(2) {{ width: 60%; padding: 0 }}
td:nth-child(3) {{ padding-left: 1em }}
td:last-child {{ text-align: right; font-variant-numeric: tabular-nums }}
div {{ height: 1.2em; border-radius: 2px; background: #3a9a5b }}
.model {{ background: #4a78c9 }}
.error, .timeout, .failed {{ background: #c94a4a }}
.unknown {{ background: repeating-linear-gradient(45deg, #d98e1f 0 6px, #f3c77d 6px 12px) }}
.cancelled, .not_run {{ background: #999 }}
.running, .open {{ background: repeating-linear-gradient(90deg, #888 0 4px, #ddd 4px 8px) }}
em {{ font-style: normal; background: #fdeccb; border-radius: 3px; padding: 0 .4em; margin-left: .5em }}
</style>
<h1>Run {run}</h1>
<p>{status}, {seconds} s; workers: {workers}</p>
<table>
{rows}
</table>
</html>
"""
