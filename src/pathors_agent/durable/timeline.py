"""The timeline of a durable run: its model and tool calls in order, as text or as a page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dbos import WorkflowStatus

from pathors_agent.durable.history import BEGIN, STARTED
from pathors_agent.durable.records import Step
from pathors_agent.durable.run_list import AT_WORK
from pathors_agent.durable.runs import Runs, status_of
from pathors_agent.telemetry.timeline import Chart, TimedCall, duration, page


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A run's calls, in seconds since 1970, and the workers that made them.

    Notes mark unusual events: in doubt, run again, taken over from another worker.
    """

    run: str
    status: str
    calls: tuple[TimedCall, ...]
    workers: tuple[str, ...] = ()


async def read_timeline(runs: Runs[Any], run: str) -> Timeline:
    """Read what a run recorded."""
    segments = await runs.segments(run)
    calls: list[TimedCall] = []
    workers: set[str] = set()
    names: dict[str, str] = {}
    for row in segments:
        steps = await runs.steps(row.workflow_id)
        places = {
            step["function_name"].removesuffix(STARTED): place for place, step in enumerate(steps)
        }
        # In the order in which steps ended, which shows the workers one after another.
        read = _TimelineReader(row, workers, names).calls(sorted(steps, key=_end))
        calls += sorted(read, key=lambda call: places[call.key])
    return Timeline(
        run=run, status=status_of(segments[-1]), calls=tuple(calls), workers=tuple(sorted(workers))
    )


def _end(step: Step) -> int:
    return int(step["completed_at_epoch_ms"])


class _TimelineReader:
    def __init__(self, row: WorkflowStatus, workers: set[str], names: dict[str, str]) -> None:
        self._workers = workers
        self._is_open = status_of(row) in AT_WORK
        self._names = names  # of tools, by effect; an earlier segment may have the answer
        self._begun: dict[str, Step] = {}
        self._worker = ""

    def calls(self, steps: Sequence[Step]) -> Iterator[TimedCall]:
        for step in steps:
            name, output = step["function_name"], step["output"]
            if not isinstance(output, dict):
                continue
            if name.endswith(STARTED):
                self._begun[name.removesuffix(STARTED)] = step
            elif name == BEGIN:
                self._worker = output.get("by", "")
            else:
                yield self._call(name, step, output)
        for name, step in self._begun.items():
            outcome = "running" if self._is_open else "open"
            yield self._made(name, step["completed_at_epoch_ms"], None, outcome, step["output"])

    def _call(self, name: str, step: Step, output: dict[str, Any]) -> TimedCall:
        message = output.get("message", {})
        turn = name.rpartition("/")[2]
        for place, call in enumerate(message.get("tool_calls") or ()):
            self._names[f"tool/{turn}/{place}"] = call["function"]["name"]
        begun = self._begun.pop(name, step)
        start = begun["completed_at_epoch_ms" if begun is not step else "started_at_epoch_ms"]
        outcome = message.get("outcome", "value") if "message" in output else _check_outcome(output)
        return self._made(name, start, step["completed_at_epoch_ms"], outcome, output, begun)

    def _made(
        self,
        name: str,
        start: int,
        end: int | None,
        outcome: str,
        output: dict[str, Any],
        begun: Step | None = None,
    ) -> TimedCall:
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
        self._workers.add(worker)
        kind = name.partition("/")[0]
        return TimedCall(
            kind=kind,
            name=self._names.get(name, kind),
            key=name,
            start=start / 1000,
            end=None if end is None else end / 1000,
            outcome=outcome,
            notes=tuple(notes),
        )


def _check_outcome(output: dict[str, Any]) -> str:
    """Return the outcome of a step without a message: a check of an answer, or a failure."""
    if "refused" not in output:
        return "failed"
    return "value" if output["refused"] is None else "error"


def as_text(timeline: Timeline) -> Iterator[str]:
    """Write a timeline as lines."""
    yield f"{timeline.run}  {timeline.status}"
    for call in timeline.calls:
        took = "..." if call.seconds is None else duration(call.seconds)
        notes = f"  ({', '.join(call.notes)})" if call.notes else ""
        yield f"  {call.key:<12} {call.name:<20} {call.outcome:<10} {took:>12}{notes}"


def as_json(timeline: Timeline) -> dict[str, object]:
    """Return a timeline for JSON, with times as datetimes."""
    return {
        "workers": timeline.workers,
        "calls": [
            {
                "kind": call.kind,
                "name": call.name,
                "key": call.key,
                "outcome": call.outcome,
                "started_at": datetime.fromtimestamp(call.start, UTC),
                "ended_at": None if call.end is None else datetime.fromtimestamp(call.end, UTC),
                "seconds": call.seconds,
                "notes": call.notes,
            }
            for call in timeline.calls
        ],
    }


def as_html(timeline: Timeline) -> str:
    """Write a timeline as one self-contained page."""
    said = f"{timeline.status}; workers: {', '.join(timeline.workers)}"
    return page(Chart(f"Run {timeline.run}", said, timeline.calls))
