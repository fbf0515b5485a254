"""Open runs and perform their effects: a short loop for blocking code, and one for async code.

Async code runs the calls of an answer side by side, and records their results in call order.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from time import monotonic
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from pathors_agent.agents.approvals import Decision
from pathors_agent.agents.ask import ModelCall, ask, ask_async, ask_in_hooks
from pathors_agent.agents.base import AgentBase, RunSettings
from pathors_agent.agents.control import AddMessage, RunControl
from pathors_agent.agents.perform.calls import ReportDelta, perform, perform_async, with_reports
from pathors_agent.agents.perform.tool_thread import ToolThread
from pathors_agent.agents.setup import RunSetup
from pathors_agent.agents.stream import AsyncRunStream, RunStream, open_run, prepare_run
from pathors_agent.concurrency.event_loops import in_trio_task
from pathors_agent.core.run import CallModel, CallTool, Effect, GiveFeedback, Run
from pathors_agent.errors import LimitReached, TransportError
from pathors_agent.history.loading import GivenConversation, Prompt
from pathors_agent.messages import AssistantMessage, Message, ToolMessage, UserMessage
from pathors_agent.tools.registry import AsyncToolChoice, ToolChoice, ToolRegistry, Tools
from pathors_agent.transports.base import AsyncTransport, Transport, close_pieces
from pathors_agent.wire.deltas import Delta, ToolProgressDelta


def open_stream(
    agent: AgentBase,
    transport: Transport,
    thread: ToolThread,
    prompt: Prompt | None,
    conversation: GivenConversation | None,
    session_id: str | None,
    context: object,
    decisions: Iterable[Decision],
    tools: Tools | ToolChoice | None,
    settings: RunSettings,
    *,
    streams: bool,
) -> RunStream[Any]:
    """Return the stream of a run, for blocking code."""
    run, baseline, setup = prepare_run(
        agent,
        conversation,
        session_id=session_id,
        context=context,
        tools=tools,
        settings=settings,
        streams=streams,
    )
    if run.conversation.open_calls:
        setup.choose_tools(run)
    control = RunControl(run, setup.budgets)
    open_run(setup, run, control, prompt, session_id, decisions)
    items = drive(run, transport, setup, control, thread)
    return RunStream(run, baseline, setup, control, items)


def open_async_stream(
    agent: AgentBase,
    transport: AsyncTransport,
    prompt: Prompt | None,
    conversation: GivenConversation | None,
    session_id: str | None,
    context: object,
    decisions: Iterable[Decision],
    tools: Tools | AsyncToolChoice | None,
    settings: RunSettings,
    *,
    streams: bool,
) -> AsyncRunStream[Any]:
    """Return the stream of a run, for async code."""
    run, baseline, setup = prepare_run(
        agent,
        conversation,
        session_id=session_id,
        context=context,
        tools=tools,
        settings=settings,
        streams=streams,
    )
    control = RunControl(run, setup.budgets)
    items = drive_async(run, transport, setup, control)
    if setup.choice is None or not run.conversation.open_calls:
        open_run(setup, run, control, prompt, session_id, decisions)
        return AsyncRunStream(run, baseline, setup, control, items)

    async def open_with_its_tools() -> None:
        await setup.choose_tools_async(run)
        open_run(setup, run, control, prompt, session_id, decisions)

    return AsyncRunStream(run, baseline, setup, control, items, open_with_its_tools)


def drive(
    run: Run, transport: Transport, setup: RunSetup, control: RunControl, thread: ToolThread
) -> Generator[Delta | Message, None, None]:
    """Perform the run's effects one after another; yield deltas and messages.

    Async tools run on `thread`.
    """
    run.notes_begun_calls = True
    with setup.telemetry.follow(run), control:
        control.close_abandoned()
        while effects := control.effects():
            for effect in effects:
                control.left()
                message: AssistantMessage | ToolMessage | UserMessage
                match effect:
                    case CallModel():
                        setup.begin_turn(run)
                        if setup.hooks.model:
                            message = yield from ask_in_hooks(
                                run, effect, setup, control, transport
                            )
                        else:
                            call = ModelCall(run, effect.key, setup, control)
                            message = yield from ask(call, effect, transport)
                    case CallTool():
                        message = yield from perform(run, effect, setup, thread, control)
                    case GiveFeedback() | AddMessage():
                        message = effect.message
                yield control.record(message)


async def drive_async(  # noqa: C901, PLR0912, PLR0915  (a generator inside would slow down each delta)
    run: Run, transport: AsyncTransport, setup: RunSetup, control: RunControl
) -> AsyncGenerator[Delta | Message | list[Delta], None]:
    """Perform the run's effects, a batch of tool calls at once; yield deltas and messages.

    With `control.yields_lists` the deltas of one read of an answer are yielded as a list. Nothing is
    yielded inside a task group or cancel scope.
    """
    run.notes_begun_calls = True
    with setup.telemetry.follow(run), control:
        await control.close_abandoned_async()
        is_checked = setup.answers is not None and setup.answers.is_async
        while effects := (
            await _checked_effects(run, setup, control) if is_checked else control.effects()
        ):
            match effects[0]:
                case CallModel() as effect:
                    if setup.choice is not None or setup.instruct is not None:
                        with control.interruptible():
                            await setup.begin_turn_async(run)
                    if setup.hooks.model:
                        control.cancels_task = False
                        asked = _hooked_items(run, effect, setup, control, transport)
                        async with aclosing(asked) as items:
                            async for item in items:
                                yield item
                        control.cancels_task = True
                        continue
                    if not setup.streams:
                        yield control.record(
                            await ask_async(run, effect, setup, control, transport)
                        )
                        continue
                    with ModelCall(run, effect.key, setup, control) as call:
                        try:
                            async with await call.send_async(effect, transport) as response:
                                if not call.is_good(response):
                                    raise await call.refusal_async(response)
                                pieces = call.pieces(response)
                                # A stream is open for long.
                                del effects, effect, response
                                try:
                                    async for data in pieces:
                                        if call.first is None:
                                            call.first = monotonic()
                                        deltas = call.stream.feed(data)
                                        if not control.yields_lists:
                                            for delta in deltas:
                                                yield delta
                                        elif deltas:
                                            yield deltas
                                        del data, deltas
                                        if call.stream.ended:
                                            break
                                finally:
                                    await close_pieces(pieces)
                        except TransportError as error:
                            call.break_off(error)
                        control.check()
                        for delta in call.stream.close():
                            yield delta
                        answer = call.finish()
                    yield control.record(answer)
                case CallTool():
                    calls = [effect for effect in effects if isinstance(effect, CallTool)]
                    batches = side_by_side(calls, setup.tools) if len(calls) > 1 else [calls]
                    for batch in batches:
                        if (result := await call_alone(run, batch, setup, control)) is not None:
                            yield result
                            continue
                        control.cancels_task = False
                        async with aclosing(batch_items(run, batch, setup, control)) as items:
                            async for item in items:
                                yield item
                        control.cancels_task = True
                case GiveFeedback() | AddMessage() as effect:
                    yield control.record(effect.message)


async def _hooked_items(
    run: Run, effect: CallModel, setup: RunSetup, control: RunControl, transport: AsyncTransport
) -> AsyncGenerator[Delta | Message | list[Delta], None]:
    """Call the model inside its hooks; yield the deltas, and the recorded answer."""

    async def work(report: Callable[[list[Delta]], Awaitable[None]]) -> AssistantMessage:
        return await ask_async(run, effect, setup, control, transport, report)

    async with aclosing(with_reports(work)) as items:
        async for item in items:
            if isinstance(item, AssistantMessage):
                yield control.record(item)
            elif control.yields_lists:
                yield item
            else:
                for delta in item:
                    yield delta


async def _checked_effects(
    run: Run, setup: RunSetup, control: RunControl
) -> Sequence[Effect | AddMessage]:
    """Await the output function for the last answer, and return the pending effects."""
    assert setup.answers is not None
    with anyio.move_on_after(control.left()) as in_time, control.interruptible(), setup.attached():
        await setup.answers.check(run.conversation.messages)
    if in_time.cancelled_caught:
        raise LimitReached("seconds")
    return control.effects()


# - batches of calls -


def side_by_side(effects: Iterable[CallTool], tools: ToolRegistry) -> list[list[CallTool]]:
    """Split calls, in order, into batches that may run at once; a sequential tool runs alone."""
    batches: list[list[CallTool]] = []
    is_closed = True
    for effect in effects:
        tool = tools.get(effect.call.name)
        is_sequential = tool is not None and tool.sequential
        if is_closed or is_sequential:
            batches.append([effect])
        else:
            batches[-1].append(effect)
        is_closed = is_sequential
    return batches


async def call_alone(
    run: Run, batch: Sequence[CallTool], setup: RunSetup, control: RunControl
) -> ToolMessage | None:
    """Run a batch that needs no task group, or return None if it needs one: groups are slow.

    A single call of an async tool on asyncio, in a run without a time limit, needs none: it has a
    task of its own, which is cancelled and awaited where the call is.
    """
    [effect, *others] = batch
    if others or control.left() is not None or in_trio_task():
        return None
    tool = setup.tools.get(effect.call.name)
    if tool is not None and (tool.reports or not tool.is_async):
        return None
    task = asyncio.current_task()
    if task is None or task.cancelling():
        return None
    await checkpoint_if_cancelled()
    message = await perform_async(run, effect, setup)
    control.record(message)
    # A call that returns a result although it was cancelled has swallowed the cancellation.
    if task.cancelling():
        raise asyncio.CancelledError
    return message


async def batch_items(
    run: Run, batch: Sequence[CallTool], setup: RunSetup, control: RunControl
) -> AsyncGenerator[ToolProgressDelta | ToolMessage, None]:
    """Run a batch; yield what its tools report while they run, then its results in call order."""
    tools = [setup.tools.get(effect.call.name) for effect in batch]
    if not any(tool is not None and tool.reports for tool in tools):
        for message in await _call_batch(run, batch, setup, control):
            yield message
        return

    async def work(report: ReportDelta) -> list[ToolMessage]:
        return await _call_batch(run, batch, setup, control, report)

    async with aclosing(with_reports(work)) as items:
        async for item in items:
            if not isinstance(item, list):
                yield item
                continue
            for message in item:
                yield message


async def _call_batch(
    run: Run,
    effects: Sequence[CallTool],
    setup: RunSetup,
    control: RunControl,
    report: ReportDelta | None = None,
) -> list[ToolMessage]:
    """Run calls side by side and record each result at once; return the results in call order."""
    results: dict[str, ToolMessage | None] = {}  # None for a call that runs
    interrupts: list[BaseException] = []
    places = anyio.Semaphore(run.limits.max_concurrency)

    async def call(effect: CallTool) -> None:
        queued = None if places.value else monotonic()
        try:
            async with places:
                results[effect.call.id] = None
                message = await perform_async(run, effect, setup, report=report, queued=queued)
                # No checkpoint may come between a result and its record, or the result could be lost.
                control.record(message)
                results[effect.call.id] = message
        except anyio.get_cancelled_exc_class():
            raise
        # KeyboardInterrupt and SystemExit are carried out of the group by hand: the group would wrap
        # them, and raised in a task they stop asyncio's loop.
        except BaseException as error:  # noqa: BLE001
            interrupts.append(error)
            tasks.cancel_scope.cancel()

    # A single call has a group as well: a group waits for a worker thread even if asyncio cancels the
    # task itself, as `asyncio.timeout` does.
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
    # On trio a group whose tasks have all ended does not raise that it was cancelled.
    await checkpoint_if_cancelled()
    return done


@asynccontextmanager
async def _group(interrupts: list[BaseException]) -> AsyncIterator[TaskGroup]:
    """Open a task group that adds interrupts to a list instead of raising them."""
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    # On trio Ctrl-C may reach the task that waits here; the group wraps it.
    except BaseExceptionGroup as group:
        interrupts += _interrupts(group)
        if not interrupts:
            raise


def _interrupts(group: BaseExceptionGroup) -> list[BaseException]:
    """Return the exceptions that are neither failures nor cancellations."""
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
    """Return the results of a batch whose time is up; calls that have begun must not run again."""
    messages = []
    for call_id in (effect.call.id for effect in effects if effect.call.id in results):
        message = results[call_id]
        if message is None:
            text = "Stopped: the time for this run is over; how far it came is not known."
            message = ToolMessage(tool_call_id=call_id, content=text, outcome="timeout")
            control.record(message)
        messages.append(message)
    return messages
