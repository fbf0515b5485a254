"""Run the calls of one answer: one after another, or side by side with their results in order."""

import asyncio
import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from time import monotonic
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from pathors_agent.agents.ask import Bindings
from pathors_agent.agents.control import RunControl, Said
from pathors_agent.agents.perform.dispatch import ToolThread, call_tool, call_tool_async
from pathors_agent.agents.perform.functions import Report
from pathors_agent.agents.perform.tasks import LoopTask
from pathors_agent.concurrency.event_loops import in_trio_task
from pathors_agent.core.run import CallTool, Effect, Run
from pathors_agent.messages import Content, ContentPart, ToolMessage
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.wire.deltas import ToolProgressDelta

# A tool that reports faster than its caller reads waits for it.
MAX_WAITING_REPORTS = 16

T = TypeVar("T")

ReportDelta = Callable[[ToolProgressDelta], Awaitable[None]]


def bind(run: Run, effect: CallTool, bindings: Bindings) -> BoundCall | ToolMessage:
    """Bind a call for this run, under its key; what keeps it from running is its result."""
    bindings.telemetry.raise_stop()  # before anything says that the call begins
    bound = _bound(run, effect, bindings)
    if isinstance(bound, ToolMessage):
        bindings.report_answered(effect, bound)
    return bound


def _bound(run: Run, effect: CallTool, bindings: Bindings) -> BoundCall | ToolMessage:
    if refusal := effect.verdict.refusal:
        return ToolMessage(tool_call_id=effect.call.id, content=refusal, outcome="not_run")
    answers = bindings.answers
    if answers and effect.call.name == answers.final_tool:
        return answers.take(effect.call)
    return bindings.tools.bind(
        bindings.approvals.as_approved(effect.call),
        bindings.context,
        session_id=run.conversation.session_id,
        key=run.call_key(effect),
    )


def call_one(
    run: Run, effect: CallTool, bindings: Bindings, thread: ToolThread, control: RunControl
) -> Generator[ToolProgressDelta, None, ToolMessage]:
    """Run one call from blocking code; give what its tool reports, and return its result."""
    bound = bind(run, effect, bindings)
    if not isinstance(bound, BoundCall):
        return bound
    operation = bindings.telemetry.begin_tool(effect.key, bound)
    limits = {"seconds": run.limits.tool_seconds, "left": control.left()}
    begin, cancellation = partial(run.begin, effect), control.cancellation
    if not bound.tool.reports:
        result = call_tool(
            bound, thread, operation, **limits, begin=begin, cancellation=cancellation
        )
        return with_notes(result, effect, bindings)

    async def work(report: ReportDelta) -> ToolMessage:
        said = _reported(effect, report)
        return await call_tool_async(bound, operation, **limits, report=said, begin=begin)

    for item in thread.items(_with_reports(work), cancellation):
        if isinstance(item, ToolMessage):
            return with_notes(item, effect, bindings)
        yield item
    raise AssertionError("unreachable")  # the result comes last


async def _call_async(
    run: Run,
    effect: CallTool,
    bindings: Bindings,
    report: ReportDelta | None,
    queued: float | None = None,
) -> ToolMessage:
    bound = bind(run, effect, bindings)
    if not isinstance(bound, BoundCall):
        return bound
    journal = bindings.journal
    if journal and (known := await journal.begin(run, effect, bound)):
        bindings.report_answered(effect, known)
        return known
    said = None if report is None else _reported(effect, report)
    operation = bindings.telemetry.begin_tool(effect.key, bound, queued=queued)
    seconds = run.limits.tool_seconds
    begin = partial(run.begin, effect)
    result = await call_tool_async(bound, operation, seconds=seconds, report=said, begin=begin)
    message = with_notes(result, effect, bindings)
    if journal:
        await journal.end(message)
    return message


def _reported(effect: CallTool, report: ReportDelta) -> Report:
    async def said(value: object) -> None:
        await report(ToolProgressDelta(effect.call, value))

    return said


def with_notes(message: ToolMessage, effect: CallTool, bindings: Bindings) -> ToolMessage:
    """Add to a result what the model is to be told of how the call was run."""
    notes = [effect.verdict.warning, bindings.approvals.note(effect.call)]
    said = "\n".join(filter(None, notes))
    if not said:
        return message
    if isinstance(message.content, str):
        content: Content = f"{message.content}\n{said}"
    else:
        content = (*message.content, ContentPart(type="text", text=said))
    return message.model_copy(update={"content": content})


def side_by_side(effects: Sequence[Effect | Said], tools: ToolRegistry) -> Iterator[list[CallTool]]:
    """Split calls, in order, into batches that may run at once; a sequential tool runs alone."""
    batch: list[CallTool] = []
    for effect in effects:
        assert isinstance(effect, CallTool)
        name = effect.call.name
        if name in tools and tools[name].sequential:
            yield from filter(None, [batch, [effect]])
            batch = []
        else:
            batch.append(effect)
    yield from filter(None, [batch])


async def call_alone(
    run: Run, batch: Sequence[CallTool], bindings: Bindings, control: RunControl
) -> ToolMessage | None:
    """Run a batch that needs no group around it, for groups are dear; None for any other.

    That is one call of an async tool on asyncio, in a run without a limit of time: such a tool has
    a task of its own, which is cancelled and waited for where the call is.
    """
    [effect, *others] = batch
    tools, name = bindings.tools, effect.call.name
    if others or control.left() is not None or in_trio_task():
        return None
    if name in tools and (tools[name].reports or not tools[name].is_async):
        return None
    task = asyncio.current_task()
    if task is None or task.cancelling():
        return None
    await checkpoint_if_cancelled()
    message = await _call_async(run, effect, bindings, None)
    control.record(message)
    # A call that gives its result all the same keeps a cancellation to itself.
    await checkpoint_if_cancelled()
    if task.cancelling():
        raise asyncio.CancelledError
    return message


async def batch_items(
    run: Run, batch: Sequence[CallTool], bindings: Bindings, control: RunControl
) -> AsyncGenerator[ToolProgressDelta | ToolMessage, None]:
    """Run a batch; give what its tools report while they run, then its results in call order."""
    if not any(
        e.call.name in bindings.tools and bindings.tools[e.call.name].reports for e in batch
    ):
        for message in await _call_batch(run, batch, bindings, control):
            yield message
        return

    async def work(report: ReportDelta) -> list[ToolMessage]:
        return await _call_batch(run, batch, bindings, control, report)

    async with aclosing(_with_reports(work)) as items:
        async for item in items:
            if not isinstance(item, list):
                yield item
                continue
            for message in item:
                yield message


async def _with_reports(
    work: Callable[[ReportDelta], Awaitable[T]],
) -> AsyncGenerator[ToolProgressDelta | T, None]:
    """Do work that reports; give the reports as they come, and last what it returns.

    It is done in a task of its own, for nothing may be yielded inside a task group; whoever
    leaves early cancels it, and waits for its end.
    """
    send, receive = anyio.create_memory_object_stream[ToolProgressDelta](MAX_WAITING_REPORTS)

    async def report(delta: ToolProgressDelta) -> None:
        with suppress(anyio.BrokenResourceError):  # nobody listens any more
            await send.send(delta)

    async def working() -> T:
        with send:
            return await work(report)

    task = LoopTask(working)
    task.start()
    try:
        with receive:
            async for delta in receive:
                yield delta
    finally:
        await task.stop(math.inf)
    yield task.result()


async def _call_batch(
    run: Run,
    effects: Sequence[CallTool],
    bindings: Bindings,
    control: RunControl,
    report: ReportDelta | None = None,
) -> list[ToolMessage]:
    """Run calls side by side; record each result the moment it is there; give them in order."""
    results: dict[str, ToolMessage | None] = {}  # None: begun
    interrupts: list[BaseException] = []
    places = anyio.Semaphore(run.limits.max_concurrency)

    async def call(effect: CallTool) -> None:
        queued = None if places.value else monotonic()
        try:
            async with places:
                results[effect.call.id] = None
                message = await _call_async(run, effect, bindings, report, queued)
                # No checkpoint may come between a result and its record: what was done is known.
                control.record(message)
                results[effect.call.id] = message
        except anyio.get_cancelled_exc_class():
            raise
        # What is no tool's failure (KeyboardInterrupt, SystemExit) is carried out of the group
        # by hand: a group would wrap it, and in a task of its own it stops asyncio's loop.
        except BaseException as error:  # noqa: BLE001
            interrupts.append(error)
            tasks.cancel_scope.cancel()

    # A single call gets its group too: a group waits for a worker thread also where asyncio
    # cancels the task itself, as `asyncio.timeout` does.
    with anyio.move_on_after(control.left()) as in_time, control.cancels(in_time):
        async with _group(interrupts) as tasks:
            for effect in effects:
                tasks.start_soon(call, effect)
    if interrupts:
        raise interrupts[0]
    if in_time.cancelled_caught:
        control.check()
        return _stopped(control, effects, results)
    done = [message for e in effects if (message := results.get(e.call.id)) is not None]
    if len(done) < len(effects):
        # asyncio's groups drop a cancellation that was meant for another task.
        raise anyio.get_cancelled_exc_class()
    # On trio a group whose tasks all came to their ends does not tell that it was cancelled.
    await checkpoint_if_cancelled()
    return done


@asynccontextmanager
async def _group(interrupts: list[BaseException]) -> AsyncIterator[TaskGroup]:
    """Make a task group that adds what interrupts it to a list, and raises none of it."""
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    # On trio Ctrl-C may reach the task that waits here, and the group wraps it.
    except BaseExceptionGroup as group:
        interrupts += _interrupts(group)
        if not interrupts:
            raise


def _interrupts(group: BaseExceptionGroup) -> list[BaseException]:
    """Find what is no failure and no cancellation."""
    found: list[BaseException] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found += _interrupts(error)
        elif not isinstance(error, (Exception, anyio.get_cancelled_exc_class())):
            found.append(error)
    return found


def _stopped(
    control: RunControl, effects: Sequence[CallTool], results: dict[str, ToolMessage | None]
) -> list[ToolMessage]:
    """Give the results of a batch whose time was up; calls that had begun are not to run again."""
    messages = []
    for call_id in (effect.call.id for effect in effects if effect.call.id in results):
        message = results[call_id]
        if message is None:
            text = "Stopped: the time for this run is over; how far it came is not known."
            message = ToolMessage(tool_call_id=call_id, content=text, outcome="timeout")
            control.record(message)
        messages.append(message)
    return messages
