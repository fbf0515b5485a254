"""Run the calls of one answer: one after another, or side by side with their results in order."""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from pathors_agent.dispatch import ToolThread, call_tool, call_tool_async
from pathors_agent.message_builder import ToolProgressDelta
from pathors_agent.messages import Content, ContentPart, ToolMessage
from pathors_agent.model_call import Bindings, Clock
from pathors_agent.run import CallTool, Effect, Run
from pathors_agent.tool_tasks import LoopTask, in_trio_task
from pathors_agent.tools import BoundCall, ToolRegistry

# A tool that reports faster than its caller reads waits for it.
MAX_WAITING_REPORTS = 16

ReportDelta = Callable[[ToolProgressDelta], Awaitable[None]]


def _bind(run: Run, effect: CallTool, bindings: Bindings) -> BoundCall | ToolMessage:
    if refusal := effect.verdict.refusal:
        return ToolMessage(tool_call_id=effect.call.id, content=refusal, outcome="not_run")
    answers = bindings.answers
    if answers and effect.call.name == answers.final_tool:
        return answers.take(effect.call)
    conversation = run.conversation
    return bindings.tools.bind(
        bindings.approvals.as_approved(effect.call),
        bindings.context,
        session_id=conversation.session_id,
        key=f"{conversation.id}/{effect.key}",
    )


def call_one(run: Run, effect: CallTool, bindings: Bindings, thread: ToolThread) -> ToolMessage:
    """Run one call from blocking code."""
    bound = _bind(run, effect, bindings)
    if not isinstance(bound, BoundCall):
        return bound
    return _with_notes(call_tool(bound, thread, seconds=run.limits.tool_seconds), effect, bindings)


async def _call_async(
    run: Run, effect: CallTool, bindings: Bindings, report: ReportDelta | None
) -> ToolMessage:
    bound = _bind(run, effect, bindings)
    if not isinstance(bound, BoundCall):
        return bound

    async def said(value: object) -> None:
        if report is not None:
            await report(ToolProgressDelta(effect.call, value))

    message = await call_tool_async(bound, seconds=run.limits.tool_seconds, report=said)
    return _with_notes(message, effect, bindings)


def _with_notes(message: ToolMessage, effect: CallTool, bindings: Bindings) -> ToolMessage:
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


def side_by_side(effects: Sequence[Effect], tools: ToolRegistry) -> Iterator[list[CallTool]]:
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
    run: Run, batch: Sequence[CallTool], bindings: Bindings, clock: Clock
) -> ToolMessage | None:
    """Run a batch that needs no group around it, for groups are dear; None for any other.

    That is one call of an async tool on asyncio, in a run without a limit of time: such a tool has
    a task of its own, which is cancelled and waited for where the call is.
    """
    [effect, *others] = batch
    tools, name = bindings.tools, effect.call.name
    if others or clock.left() is not None or in_trio_task():
        return None
    if name in tools and (tools[name].reports or not tools[name].is_async):
        return None
    task = asyncio.current_task()
    if task is None or task.cancelling():
        return None
    await checkpoint_if_cancelled()
    message = await _call_async(run, effect, bindings, None)
    run.record(message)
    # A call that gives its result all the same keeps a cancellation to itself.
    if task.cancelling():
        await checkpoint_if_cancelled()
        raise asyncio.CancelledError
    return message


async def batch_items(
    run: Run, batch: Sequence[CallTool], bindings: Bindings, clock: Clock
) -> AsyncGenerator[ToolProgressDelta | ToolMessage, None]:
    """Run a batch; give what its tools report while they run, then its results in call order.

    The batch runs in a task of its own while reports are given out, for nothing may be yielded
    inside a task group; whoever leaves early cancels it, and waits for its end.
    """
    if not any(
        e.call.name in bindings.tools and bindings.tools[e.call.name].reports for e in batch
    ):
        for message in await _call_batch(run, batch, bindings, clock):
            yield message
        return
    send, receive = anyio.create_memory_object_stream[ToolProgressDelta](MAX_WAITING_REPORTS)

    async def report(delta: ToolProgressDelta) -> None:
        with suppress(anyio.BrokenResourceError):  # nobody listens any more
            await send.send(delta)

    async def work() -> list[ToolMessage]:
        with send:
            return await _call_batch(run, batch, bindings, clock, report)

    task = LoopTask(work)
    task.start()
    try:
        with receive:
            async for delta in receive:
                yield delta
    finally:
        await task.stop(math.inf)
    for message in task.result():
        yield message


async def _call_batch(
    run: Run,
    effects: Sequence[CallTool],
    bindings: Bindings,
    clock: Clock,
    report: ReportDelta | None = None,
) -> list[ToolMessage]:
    """Run calls side by side; record each result the moment it is there; give them in order."""
    results: dict[str, ToolMessage | None] = {}  # None: begun
    interrupts: list[BaseException] = []
    places = anyio.Semaphore(run.limits.max_concurrency)

    async def call(effect: CallTool) -> None:
        try:
            async with places:
                results[effect.call.id] = None
                message = await _call_async(run, effect, bindings, report)
                # No checkpoint may come between a result and its record: what was done is known.
                run.record(message)
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
    with anyio.move_on_after(clock.left()) as in_time:
        async with anyio.create_task_group() as tasks:
            for effect in effects:
                tasks.start_soon(call, effect)
    if interrupts:
        raise interrupts[0]
    if in_time.cancelled_caught:
        return _stopped(run, effects, results)
    done = [message for e in effects if (message := results.get(e.call.id)) is not None]
    if len(done) < len(effects):
        # asyncio's groups drop a cancellation that a tool let through, meant for another task.
        raise anyio.get_cancelled_exc_class()
    # On trio a group whose tasks all came to their ends does not tell that it was cancelled.
    await checkpoint_if_cancelled()
    return done


def _stopped(
    run: Run, effects: Sequence[CallTool], results: dict[str, ToolMessage | None]
) -> list[ToolMessage]:
    """Give the results of a batch whose time was up; calls that had begun are not to run again."""
    messages = []
    for call_id in (effect.call.id for effect in effects if effect.call.id in results):
        message = results[call_id]
        if message is None:
            text = "Stopped: the time for this run is over; how far it came is not known."
            message = ToolMessage(tool_call_id=call_id, content=text, outcome="timeout")
            run.record(message)
        messages.append(message)
    return messages
