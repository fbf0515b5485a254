"""Perform one tool call of a run: bind it, run it inside its hooks, and pass on its reports."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, TypeVar, cast

import anyio

from pathors_agent.agents.control import RunControl
from pathors_agent.agents.hooks import (
    Arguments,
    AsyncNextTool,
    NextTool,
    awaited,
    layered,
    name_of,
    with_hooks,
)
from pathors_agent.agents.perform.bound import call_tool, call_tool_async, failure_message
from pathors_agent.agents.perform.tasks import LoopTask, Report
from pathors_agent.agents.perform.tool_thread import ToolThread
from pathors_agent.agents.setup import Journal, RunSetup
from pathors_agent.concurrency.event_loops import RunCancelled
from pathors_agent.core.run import CallTool, Run
from pathors_agent.errors import LimitReached, ToolError
from pathors_agent.messages import Content, ContentPart, ToolMessage
from pathors_agent.telemetry.events import bound_logger
from pathors_agent.telemetry.facts import call_facts
from pathors_agent.telemetry.spans import NOTHING
from pathors_agent.tools.registry import BoundCall, not_awaited
from pathors_agent.tools.results import result_message
from pathors_agent.tools.signature import ToolContext, ToolLog
from pathors_agent.wire.deltas import ToolProgressDelta

# A tool that reports faster than its caller reads waits for the caller.
MAX_WAITING_REPORTS = 16

T = TypeVar("T")

ReportT = TypeVar("ReportT")

ReportDelta = Callable[[ToolProgressDelta], Awaitable[None]]


# - a call of a run -


def perform(
    run: Run,
    effect: CallTool,
    setup: RunSetup,
    thread: ToolThread,
    control: RunControl,
    hooked: BoundCall | None = None,
) -> Generator[ToolProgressDelta, None, ToolMessage]:
    """Perform a call from blocking code; yield what its tool reports, and return its result.

    `hooked` is the bound call that its hooks have passed on.
    """
    bound = hooked or _bind(run, effect, setup)
    if not isinstance(bound, BoundCall):
        return bound
    if setup.hooks.tool and hooked is None:
        call = partial(perform, run, effect, setup, thread, control)
        return (yield from _in_hooks(run, effect, setup, control, bound, call))
    operation = setup.telemetry.begin_tool(effect.key, bound.call, bound.tool.description)
    limits = {"seconds": run.limits.tool_seconds, "left": control.left()}
    begin, cancellation = partial(run.begin, effect), control.cancellation
    if not bound.tool.reports:
        with setup.counting() if setup.budgets else NOTHING:
            result = call_tool(
                bound, thread, operation, **limits, begin=begin, cancellation=cancellation
            )
        return _with_notes(result, effect, setup)

    async def work(report: ReportDelta) -> ToolMessage:
        reported = _reporter(effect, report)
        with setup.counting():  # the tool may run an agent
            return await call_tool_async(bound, operation, **limits, report=reported, begin=begin)

    try:
        for item in thread.items(with_reports(work), cancellation):
            if isinstance(item, ToolMessage):
                return _with_notes(item, effect, setup)
            yield item
    except BaseException as error:
        # A value that the tool returned while it was stopped counts.
        if operation.message is None:
            raise
        message = _with_notes(operation.message, effect, setup)
        if isinstance(error, RunCancelled | LimitReached):
            return message
        control.record(message)
        raise
    raise AssertionError("unreachable")  # the result comes last


async def perform_async(
    run: Run,
    effect: CallTool,
    setup: RunSetup,
    *,
    report: ReportDelta | None = None,
    queued: float | None = None,
    left: float | None = None,
    journal: Journal | None = None,
    hooked: BoundCall | None = None,
) -> ToolMessage:
    """Perform a call from async code, and return its result.

    `queued` is the time when the call began to wait for a free place, if it had to. `left` is the
    most seconds that the call may take. `journal` replaces the run's journal. `hooked` is the bound
    call that its hooks have passed on.
    """
    bound = hooked or _bind(run, effect, setup)
    if not isinstance(bound, BoundCall):
        return bound
    journal = None if hooked else journal or setup.journal
    if journal and (known := await journal.begin(run, effect, bound)):
        setup.report_answered(effect, known)
        return known
    if setup.hooks.tool and hooked is None:
        call = partial(perform_async, run, effect, setup, report=report, queued=queued, left=left)
        message = await _in_hooks_async(run, effect, setup, bound, call)
    else:
        called = call_tool_async(
            bound,
            setup.telemetry.begin_tool(
                effect.key, bound.call, bound.tool.description, queued=queued
            ),
            seconds=run.limits.tool_seconds,
            left=left,
            report=None if report is None else _reporter(effect, report),
            begin=partial(run.begin, effect),
        )
        if bound.tool.reports or setup.budgets:  # a tool that runs an agent reports its deltas
            with setup.counting():
                result = await called
        else:
            result = await called
        message = _with_notes(result, effect, setup)
    if journal:
        await journal.end(message)
    return message


def _bind(run: Run, effect: CallTool, setup: RunSetup) -> BoundCall | ToolMessage:
    """Bind a call of a run, or return the result of a call that must not run."""
    setup.telemetry.raise_stop()  # before the call is reported as begun
    call, answers = effect.call, setup.answers
    bound: BoundCall | ToolMessage
    if refusal := effect.verdict.refusal:
        bound = ToolMessage(tool_call_id=call.id, content=refusal, outcome="not_run")
    elif answers and call.name == answers.final_tool:
        bound = answers.take(call)
    else:
        bound = setup.tools.bind(
            setup.approvals.as_approved(call),
            setup.context,
            session_id=run.conversation.session_id,
            key=run.call_key(effect),
        )
    if not isinstance(bound, BoundCall):
        setup.report_answered(effect, bound)
        return bound
    bound = setup.approvals.resumed(bound)
    # A tool that runs an agent shares the run's limit of tokens.
    limited = getattr(bound.tool.function, "limited", None)
    if limited is None or (left := run.tokens_left) is None:
        return bound
    return BoundCall(bound.call, replace(bound.tool, function=limited(left)), bound.kwargs)


# - hooks -


class _HookedCall:
    """A bound call inside its hooks, and whether its tool was run."""

    def __init__(self, run: Run, effect: CallTool, setup: RunSetup, bound: BoundCall) -> None:
        self.bound = bound
        self.is_run = False
        self._hidden = bound.tool.context_parameter
        key, session_id = run.call_key(effect), run.conversation.session_id
        log = cast(ToolLog, bound_logger(**call_facts(bound.tool.name, bound.call)))
        self.context = ToolContext(setup.context, session_id, bound.call, key, log=log)
        self.arguments = {n: value for n, value in bound.kwargs.items() if n != self._hidden}

    def with_arguments(self, arguments: Arguments) -> BoundCall:
        """Return the call with the arguments that a hook has passed to `next`."""
        self.is_run = True
        hidden = {} if self._hidden is None else {self._hidden: self.bound.kwargs[self._hidden]}
        return BoundCall(self.bound.call, self.bound.tool, {**arguments, **hidden})

    def result(self, hook: Callable[..., Any], value: object) -> ToolMessage:
        """Return the value of a hook as the result of the call."""
        if isinstance(value, ToolMessage):
            call_id = self.bound.call.id
            is_own = value.tool_call_id == call_id
            return value if is_own else value.model_copy(update={"tool_call_id": call_id})
        if value is None:
            raise TypeError(
                f"hooks=: {name_of(hook)} returned None; return the result of next(arguments), or a "
                "value for the model"
            )
        return result_message(self.bound, value)

    def layer(self, hook: Callable[..., Any], call: NextTool) -> NextTool:
        """Return `around_tool` of one hook around the call."""

        def around(arguments: Arguments) -> ToolMessage:
            try:
                value = hook(self.bound.call, dict(arguments), self.context, call)
            except ToolError as error:
                return failure_message(self.bound, error)
            return self.result(hook, not_awaited(f"hooks=: {name_of(hook)}", value))

        return around

    def layer_async(self, hook: Callable[..., Any], call: AsyncNextTool) -> AsyncNextTool:
        """Return `around_tool` of one async hook around the call."""

        async def around(arguments: Arguments) -> ToolMessage:
            try:
                value = hook(self.bound.call, dict(arguments), self.context, call)
                value = await awaited(hook, value)
            except ToolError as error:
                return failure_message(self.bound, error)
            return self.result(hook, value)

        return around


def _in_hooks(
    run: Run,
    effect: CallTool,
    setup: RunSetup,
    control: RunControl,
    bound: BoundCall,
    perform_bound: Callable[[BoundCall], Generator[ToolProgressDelta, None, ToolMessage]],
) -> Generator[ToolProgressDelta, None, ToolMessage]:
    hooked = _HookedCall(run, effect, setup, bound)

    def hooks(next_: NextTool) -> ToolMessage:
        with setup.attached():
            return layered(setup.hooks.tool, hooked.layer, next_)(hooked.arguments)

    def call(arguments: Arguments) -> Generator[ToolProgressDelta, None, ToolMessage]:
        return perform_bound(hooked.with_arguments(arguments))

    is_read = setup.streams and bound.tool.reports
    message = yield from with_hooks(hooks, call, control, is_read=is_read)
    if not hooked.is_run:
        setup.report_answered(effect, message, error="hook")
    return message


async def _in_hooks_async(
    run: Run,
    effect: CallTool,
    setup: RunSetup,
    bound: BoundCall,
    perform_bound: Callable[..., Awaitable[ToolMessage]],
) -> ToolMessage:
    hooked = _HookedCall(run, effect, setup, bound)

    async def call(arguments: Arguments) -> ToolMessage:
        return await perform_bound(hooked=hooked.with_arguments(arguments))

    with setup.attached():
        message = await layered(setup.hooks.tool, hooked.layer_async, call)(hooked.arguments)
    if not hooked.is_run:
        setup.report_answered(effect, message, error="hook")
    return message


# - reports -


def _reporter(effect: CallTool, report: ReportDelta) -> Report:
    async def reported(value: object) -> None:
        await report(ToolProgressDelta(effect.call, value))

    return reported


def _with_notes(message: ToolMessage, effect: CallTool, setup: RunSetup) -> ToolMessage:
    """Add notes for the model: a warning, or that the arguments were changed."""
    warning, note = effect.verdict.warning, setup.approvals.note(effect.call)
    if warning is None and note is None:
        return message
    added = "\n".join(filter(None, (warning, note)))
    if isinstance(message.content, str):
        content: Content = f"{message.content}\n{added}"
    else:
        content = (*message.content, ContentPart(type="text", text=added))
    return message.model_copy(update={"content": content})


async def with_reports(
    work: Callable[[Callable[[ReportT], Awaitable[None]]], Awaitable[T]],
    *,
    waiting: int = MAX_WAITING_REPORTS,
    drops: bool = False,
) -> AsyncGenerator[ReportT | T, None]:
    """Do work that reports; yield the reports as they arrive, and its value last.

    The work runs in a task of its own, because a generator must not yield inside a task group.
    Closing the generator early cancels the task and waits for its end. If more than `waiting`
    reports wait for their reader, the work waits, or with `drops` drops new reports.
    """
    send, receive = anyio.create_memory_object_stream[ReportT](waiting)

    async def report(item: ReportT) -> None:
        # The reader has left, or the work has ended.
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            if not drops:
                await send.send(item)
                return
            with suppress(anyio.WouldBlock):
                send.send_nowait(item)

    async def working() -> T:
        with send:
            return await work(report)

    task = LoopTask(working)
    task.start()
    try:
        with receive:
            async for item in receive:
                yield item
    finally:
        await task.stop(inf)
    yield task.result()
