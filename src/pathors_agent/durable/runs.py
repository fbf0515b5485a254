"""Read and extend runs in the database: their segments, status and results."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any, Generic, ParamSpec, TypeVar

import sqlalchemy as sa
from dbos import DBOSClient, EnqueueOptions, WorkflowStatus

from pathors_agent.agents.agent import AsyncAgent
from pathors_agent.agents.answers import AnswerType, OutputT
from pathors_agent.agents.approvals import Approval, Decision
from pathors_agent.agents.base import load_settings
from pathors_agent.agents.result import RunResult
from pathors_agent.agents.stream import prepare_run, result_of
from pathors_agent.core.run import Run, Status
from pathors_agent.durable import engine
from pathors_agent.durable.claims import NO_PRIORITY, Bell, ended_topic, store
from pathors_agent.durable.engine import read_failure
from pathors_agent.durable.history import (
    Histories,
    apply_input,
    begin_of,
    check_key,
    new_messages,
    take,
)
from pathors_agent.durable.records import (
    Fields,
    SegmentInput,
    Step,
    is_id,
    segment_id,
    segment_number,
    workflow_name,
)
from pathors_agent.durable.run_list import (
    AT_WORK,
    ENGINE_STATUSES,
    RESUMABLE,
    RunFilter,
    RunPage,
    RunStatus,
    read_page,
)
from pathors_agent.durable.tables import Tables
from pathors_agent.errors import InvalidSetting, RunExists, RunFailed, RunNotFound
from pathors_agent.messages import Message, ToolCall
from pathors_agent.stores.database import shown
from pathors_agent.stores.errors import as_store_errors
from pathors_agent.telemetry.spans import current_headers

T = TypeVar("T")
P = ParamSpec("P")

# A run that ended with one of these statuses has recorded steps.
_WITH_STEPS = frozenset({"finished", "suspended", "limit_reached", "no_answer"})

# Ten years.
MAX_DELAY_SECONDS = 10 * 365 * 86_400.0

# How long a handle waits before it polls; each later wait is longer.
LOOK_SECONDS = 0.05
LONGEST_LOOK_SECONDS = 1.0
# How long a caller that waits for a run tolerates an unreachable database.
AWAY_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs(Generic[OutputT]):
    """The runs of one agent."""

    agent: AsyncAgent[OutputT]
    client: DBOSClient
    bell: Bell
    tables: Tables
    histories: Histories
    name: str
    """The agent's name: its runs and sessions are separate from those of other agents."""
    queue: str
    is_local: bool
    """Whether the process that opened the agent also carries out its runs, with its tools."""
    version: str
    context: object
    is_client: bool = False
    """Whether the tools are unknown here, and the queue and version come from workers."""

    async def enqueue(
        self,
        number: int,
        segment_input: SegmentInput,
        *,
        priority: int | None = None,
        delay: float | None = None,
    ) -> None:
        """Store a segment for a worker; raise `IDInUse` if it is already stored."""
        options: EnqueueOptions = {
            "workflow_name": workflow_name(self.name),
            "queue_name": self.queue,
            "queue_partition_key": segment_input.session,
            "workflow_id": segment_id(self.name, segment_input.run, number),
            "workflow_id_reuse_policy": "reject",
            "app_version": self.version,
        }
        options["priority"] = NO_PRIORITY if priority is None else priority
        if delay is not None:
            options["delay_seconds"] = delay
        segment_input = replace(segment_input, trace=current_headers())
        dumped = segment_input.dump()
        await self.in_thread("store a durable run", store, self.client, options, dumped)
        self.bell.ring(self.queue)

    async def start(
        self,
        segment_input: SegmentInput,
        *,
        priority: int | None = None,
        delay: float | None = None,
    ) -> bool:
        """Store a run's first segment; return False if the run exists already."""
        try:
            await self.enqueue(1, segment_input, priority=priority, delay=delay)
            return True
        except engine.IDInUse:
            [row, *_] = await self.segments(segment_input.run)
            held = input_of(row)
            asked = (segment_input.session, segment_input.messages, segment_input.context)
            if (held.session, held.messages, held.context) != asked:
                raise RunExists(
                    f"there is a run {segment_input.run!r} with another prompt, session or context"
                ) from None
            return False

    async def segments(self, run: str, *, patiently: bool = False) -> Sequence[WorkflowStatus]:
        """Return the segments of a run, in order; raise `RunNotFound` if there is no such run."""
        if patiently:
            return await self.patiently(partial(self._segments, run))
        with self._store_errors("read a durable run"):
            return await self._segments(run)

    async def in_thread(
        self, doing: str, function: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> T:
        """Call a function that uses the database; `doing` completes "could not" in its errors."""
        with self._store_errors(doing):
            return await asyncio.to_thread(function, *args, **options)

    def _store_errors(self, doing: str) -> AbstractContextManager[None]:
        return as_store_errors(doing, shown(engine.sql(self.client).url))

    async def _segments(self, run: str) -> Sequence[WorkflowStatus]:
        if not is_id(run):
            raise RunNotFound(f"there is no run {run!r:.80}")
        count = await asyncio.to_thread(self.tables.count_segments, self.name, run)
        ids = [segment_id(self.name, run, number) for number in range(1, count + 1)]
        found = await self.client.list_workflows_async(workflow_ids=ids) if ids else []
        if not found:  # also if it was deleted between the two reads
            raise RunNotFound(f"there is no run {run!r}")
        return sorted(found, key=lambda row: segment_number(row.workflow_id))

    def of(self, row: WorkflowStatus) -> "Runs[OutputT]":
        """Return the runs for the continuation of a run that another program may carry out.

        A client leaves a run in its queue, for the version of the code with which it was stored.
        """
        if not self.is_client:
            return self
        return replace(
            self, queue=row.queue_name or self.queue, version=row.app_version or self.version
        )

    def _context(self, segment_input: SegmentInput) -> object:
        return self.context if segment_input.context is None else segment_input.context

    async def settled(self, run: str) -> Sequence[WorkflowStatus]:
        """Wait until a run is neither queued nor running; return its segments."""
        pause = LOOK_SECONDS
        with self.bell.listen(ended_topic(segment_id(self.name, run, 1))) as ended:
            while True:
                ended.clear()
                segments = await self.segments(run, patiently=True)
                if status_of(segments[-1]) not in AT_WORK:
                    return segments
                with suppress(TimeoutError):  # another process may carry the run out
                    async with asyncio.timeout(pause):
                        await ended.wait()
                pause = min(pause * 2, LONGEST_LOOK_SECONDS)

    async def patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        """Read for a caller that waits: read again while the database is away, up to a limit.

        Workers continue when the database is back, and so does their caller.
        """
        deadline, pause = monotonic() + AWAY_SECONDS, LOOK_SECONDS
        with self._store_errors("read a durable run"):
            while True:
                try:
                    return await read()
                except (sa.exc.OperationalError, sa.exc.InterfaceError):
                    if monotonic() >= deadline:
                        raise
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_LOOK_SECONDS)

    async def page(self, wanted: RunFilter, *, limit: int, offset: int = 0) -> RunPage:
        """Return runs, the last started or continued first."""
        doing = "list durable runs"
        read = partial(read_page, self.client, wanted, limit=limit, offset=offset)
        return await self.in_thread(doing, read)

    async def go_on(
        self,
        run: str,
        *,
        messages: Sequence[Message] = (),
        decisions: Sequence[Decision] = (),
        resumes: bool = False,
    ) -> None:
        """Start a run's next segment. The id is a primary key, so the first of two callers wins.

        With `resumes`, raise `RunExists` unless the run has stopped and waits for no person.
        """
        while True:
            segments = await (self.segments(run) if resumes else self.settled(run))
            if resumes:
                await self._check_resumable(run, segments)
            segment_input = next_input(segments, messages=messages, decisions=decisions)
            with self._store_errors("read a durable run"):
                if status_of(segments[-1]) == "failed":
                    segment_input = await self._with_untaken(segment_input, segments[-1])
                await self._rehearse(segment_input, segments[-1])
            try:
                return await self.of(segments[-1]).enqueue(len(segments) + 1, segment_input)
            except engine.IDInUse:
                continue

    async def _check_resumable(self, run: str, segments: Sequence[WorkflowStatus]) -> None:
        status = status_of(segments[-1])
        if status in RESUMABLE:
            return
        if status == "suspended":
            # A waiting call needs no decision any more if its tool has changed or is gone.
            result = await self.result(segments)
            tools = (call.name in self.agent.tools for call in result.open_calls)
            if result.status is Status.RUNNING and (self.is_local or all(tools)):
                return
            raise RunExists(
                f"run {run!r} is suspended: approve, deny or answer its open calls, or cancel it"
            )
        raise RunExists(f"run {run!r} is {status}: only a run that failed can be resumed")

    async def _with_untaken(
        self, segment_input: SegmentInput, last: WorkflowStatus
    ) -> SegmentInput:
        """Add the input of the last segment to the history if it failed before it began."""
        steps = await asyncio.to_thread(self.tables.recorded, [last.workflow_id])
        if begin_of(steps[last.workflow_id]) is not None:
            return segment_input
        untaken = input_of(last)
        return replace(
            segment_input,
            messages=(*untaken.messages, *segment_input.messages),
            decisions=(*untaken.decisions, *segment_input.decisions),
        )

    async def _rehearse(self, segment_input: SegmentInput, last: WorkflowStatus) -> None:
        """Raise the error that this input would cause with the present history."""
        found = await asyncio.to_thread(self.tables.last_segment, self.name, segment_input.session)
        segment, token = found or (None, None)
        recorded = await self.histories.read(self.name, segment_input.session, segment, token=token)
        conversation = recorded.conversation(segment_input)
        _, _, setup = prepare_run(self.agent, conversation, context=self._context(segment_input))
        foreign = {each.digest for each in self._foreign(last, conversation.open_calls)}
        decisions = tuple(each for each in segment_input.decisions if each.digest not in foreign)
        apply_input(conversation, setup, replace(segment_input, decisions=decisions))

    async def approvals(self, run: str) -> Sequence[Approval]:
        """Return the calls of a run that wait for approval; their tools may be unknown here."""
        segments = await self.settled(run)
        result = await self.result(segments)
        if self.is_client:  # the result has them already
            return result.approvals
        return [*result.approvals, *self._foreign(segments[-1], result.open_calls)]

    def _foreign(self, last: WorkflowStatus, open_calls: Iterable[ToolCall]) -> Iterator[Approval]:
        """Return the approvals that a worker recorded, for tools that only the worker has."""
        if self.is_local:
            return
        recorded: list[list[str]] = [*(last.output or {}).get("waiting", ())]
        for call in open_calls:
            # Agents side by side may have calls with equal ids, which are in call order.
            found = next((each for each in recorded if each[:2] == [call.id, call.name]), None)
            if found is not None:
                recorded.remove(found)
                if call.name not in self.agent.tools:
                    yield Approval(call, found[2])

    async def cancel(self, run: str) -> None:
        """Cancel a run permanently, and answer its open calls as cancelled."""
        while True:
            segments = await self.segments(run)
            last, status = segments[-1], status_of(segments[-1])
            if input_of(last).closes:  # another caller has cancelled the run
                return None
            if status in AT_WORK:
                with self._store_errors("cancel a durable run"):
                    await self.client.cancel_workflow_async(last.workflow_id)
                continue  # the segment may have ended before
            if status not in ("suspended", "cancelled"):
                return None
            closing = next_input(segments, closes=True)
            with suppress(engine.IDInUse):  # another caller has continued or cancelled the run
                return await self.of(last).enqueue(len(segments) + 1, closing)

    async def result(self, segments: Sequence[WorkflowStatus]) -> RunResult[OutputT]:
        """Return the result of a run; raise `RunFailed` if an error stopped it."""
        ids = [row.workflow_id for row in segments]
        steps = await self.patiently(partial(asyncio.to_thread, self.tables.recorded, ids))
        # A segment that failed before it began has not used its input.
        begin = next(filter(None, (begin_of(steps[segment]) for segment in ids)), {})
        segment_input = input_of(segments[0])
        if not begin and status_of(segments[-1]) in _WITH_STEPS:
            raise RunNotFound(f"run {segment_input.run!r} was deleted")
        session, previous = segment_input.session, begin.get("previous")
        recorded = await self.patiently(lambda: self.histories.read(self.name, session, previous))
        conversation = recorded.conversation(segment_input)
        run, baseline, setup = prepare_run(
            self.agent,
            conversation,
            context=self._context(segment_input),
            settings=load_settings(segment_input.settings),
        )
        for step in (step for segment in ids for step in steps[segment]):
            for message in new_messages(step):
                take(message, run)
        output: Fields = segments[-1].output or {}
        run.stopped_at = output.get("limit")
        _raise_failure(segments[-1], conversation.messages)
        if setup.answers is not None:
            await _check_answer(setup.answers, run, steps[ids[-1]])
        result: RunResult[OutputT] = result_of(run, baseline, setup)
        return self._as_recorded(result, segments[-1]) if self.is_client else result

    def _as_recorded(self, result: RunResult[OutputT], last: WorkflowStatus) -> RunResult[OutputT]:
        """Return a result with the status that the worker recorded: it knows the tools."""
        status = status_of(last)
        if status not in {*Status}:
            return result
        approvals = tuple(self._foreign(last, result.open_calls))
        return replace(result, status=Status(status), approvals=approvals)

    async def steps(self, segment: str) -> Sequence[Mapping[str, Any]]:
        """Return the steps that a segment has recorded so far, with their times."""
        found: Sequence[Mapping[str, Any]] = await self.client.list_workflow_steps_async(segment)
        return found


async def _check_answer(answers: AnswerType[Any], run: Run, steps: Iterable[Step]) -> None:
    """Await an async output function for the answer of a run, if its worker got a value from it."""
    outputs = {step["function_name"]: step["output"] for step in steps}
    for place, text in enumerate(answers.unchecked(run.conversation.messages)):
        check = outputs.get(check_key(run, place), {})
        if check.get("refused") is not None:
            answers.note_check(text, check["refused"])
        elif "limit" not in check:  # otherwise its time was over
            await answers.check_text(text)


def next_input(
    segments: Sequence[WorkflowStatus],
    *,
    messages: Sequence[Message] = (),
    decisions: Sequence[Decision] = (),
    closes: bool = False,
) -> SegmentInput:
    """Return the input of a run's next segment."""
    return replace(
        input_of(segments[-1]), messages=tuple(messages), decisions=tuple(decisions), closes=closes
    )


def input_of(row: WorkflowStatus) -> SegmentInput:
    """Read the input of a segment."""
    assert row.input is not None
    return SegmentInput.load(row.input["args"][0])


def status_of(row: WorkflowStatus) -> RunStatus:
    """Return the status of a segment."""
    if row.status in ENGINE_STATUSES:
        return ENGINE_STATUSES[row.status]
    output: Fields = row.output or {}
    status: RunStatus = output.get("status", "failed")
    return status


def _raise_failure(row: WorkflowStatus, messages: tuple[Message, ...]) -> None:
    match status_of(row):
        case "cancelled":
            raise RunFailed("the run was cancelled", kind="cancelled", messages=messages)
        case "failed" if row.output and "failure" in row.output:
            raise read_failure(row.output["failure"], messages)
        case "failed":
            kind = row.status if row.error is None else type(row.error).__name__
            text = f"the run stopped in the engine: {row.error or row.status}"
            raise RunFailed(text, kind=kind, messages=messages)
        case "queued" | "running" | "suspended" | "limit_reached" | "no_answer" | "finished":
            pass


def start_delay(delay: float | None, at: datetime | None) -> float | None:
    """Return how many seconds a run waits before it starts, or None."""
    if not isinstance(at, datetime | None):
        raise InvalidSetting(f"at must be a datetime with a time zone, not {at!r}")
    if not isinstance(delay, int | float | None):
        raise InvalidSetting(f"delay must be a number of seconds, not {delay!r}")
    if at is None:
        if delay is not None and not 0 <= delay <= MAX_DELAY_SECONDS:
            raise InvalidSetting(f"delay must be 0 to {MAX_DELAY_SECONDS:g} seconds, not {delay!r}")
        return delay
    if delay is not None:
        raise InvalidSetting("a run starts after delay= seconds or at= a time: pass one of the two")
    if at.tzinfo is None:
        raise InvalidSetting("at needs a time zone, as datetime.now(UTC) has one")
    seconds = (at - datetime.now(UTC)).total_seconds()
    if seconds > MAX_DELAY_SECONDS:
        raise InvalidSetting(f"at must be within ten years, not {at.isoformat()}")
    return max(seconds, 0.0)
