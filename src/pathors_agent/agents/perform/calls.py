"""Perform one tool call: bind it, run its function with its retries, and write its result."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio

from pathors_agent.agents.ask import Journal, RunSetup
from pathors_agent.agents.control import RunControl
from pathors_agent.agents.hooks import (
    Arguments,
    AsyncNextTool,
    NextTool,
    awaited,
    layered,
    name_of,
    not_awaited,
    with_hooks,
)
from pathors_agent.agents.perform.tasks import (
    MAX_HUNG_CALLS,
    FunctionCall,
    LoopTask,
    Report,
    Unanswered,
    hung_calls,
    is_unfinished,
    run_in_task,
)
from pathors_agent.agents.perform.threads import (
    ToolThread,
    run_in_thread,
    run_in_thread_async,
    teller,
    thread_limit,
)
from pathors_agent.concurrency.event_loops import Cancellation, RunCancelled
from pathors_agent.core.run import CallTool, Run
from pathors_agent.errors import LimitReached, ToolError, ToolLoopError
from pathors_agent.messages import Content, ContentPart, ToolMessage
from pathors_agent.telemetry.events import bound_logger
from pathors_agent.telemetry.facts import call_facts
from pathors_agent.telemetry.runs import RunTelemetry, ToolOperation
from pathors_agent.tools.registry import BoundCall
from pathors_agent.tools.result_values import kind_name
from pathors_agent.tools.results import RunInterrupted, result_message
from pathors_agent.tools.signature import ToolContext, ToolLog
from pathors_agent.wire.deltas import ToolProgressDelta

if TYPE_CHECKING:
    from tenacity import RetryCallState

# A model can use this much of an exception's text; some texts are whole HTML pages of a server.
MAX_ERROR_CHARACTERS = 2_000

# A tool that reports faster than its caller reads waits for the caller.
MAX_WAITING_REPORTS = 16

T = TypeVar("T")
ReportT = TypeVar("ReportT")

ReportDelta = Callable[[ToolProgressDelta], Awaitable[None]]


# - a call of a run -


def perform(
    run: Run,
    effect: CallTool,
    bindings: RunSetup,
    thread: ToolThread,
    control: RunControl,
    hooked: BoundCall | None = None,
) -> Generator[ToolProgressDelta, None, ToolMessage]:
    """Perform a call from blocking code; yield what its tool reports, and return its result.

    `hooked` is the bound call that its hooks have passed on.
    """
    bound = hooked or _bind(run, effect, bindings)
    if isinstance(bound, ToolMessage):
        return bound
    if bindings.hooks.tool and hooked is None:
        call = partial(perform, run, effect, bindings, thread, control)
        return (yield from _in_hooks(run, effect, bindings, control, bound, call))
    operation = begin_tool(bindings.telemetry, effect.key, bound)
    limits = {"seconds": run.limits.tool_seconds, "left": control.left()}
    begin, cancellation = partial(run.begin, effect), control.cancellation
    if not bound.tool.reports:
        with bindings.counting() if bindings.budgets else nullcontext():
            result = call_tool(
                bound, thread, operation, **limits, begin=begin, cancellation=cancellation
            )
        return _with_notes(result, effect, bindings)

    async def work(report: ReportDelta) -> ToolMessage:
        reported = _reporter(effect, report)
        with bindings.counting():  # the tool may run an agent
            return await call_tool_async(bound, operation, **limits, report=reported, begin=begin)

    try:
        for item in thread.items(with_reports(work), cancellation):
            if isinstance(item, ToolMessage):
                return _with_notes(item, effect, bindings)
            yield item
    except BaseException as error:
        # What the tool returned while it was stopped counts.
        if operation.message is None:
            raise
        message = _with_notes(operation.message, effect, bindings)
        if isinstance(error, RunCancelled | LimitReached):
            return message
        control.record(message)
        raise
    raise AssertionError("unreachable")  # the result comes last


async def perform_async(
    run: Run,
    effect: CallTool,
    bindings: RunSetup,
    *,
    report: ReportDelta | None = None,
    queued: float | None = None,
    left: float | None = None,
    journal: Journal | None = None,
    hooked: BoundCall | None = None,
) -> ToolMessage:
    """Perform a call from async code, and return its result.

    `queued` is when the call began to wait for a free place, if it did. `left` is how many seconds
    the call may take at most. `journal` takes the place of the run's journal. `hooked` is the bound
    call that its hooks have passed on.
    """
    bound = hooked or _bind(run, effect, bindings)
    if isinstance(bound, ToolMessage):
        return bound
    journal = None if hooked else journal or bindings.journal
    if journal and (known := await journal.begin(run, effect, bound)):
        bindings.report_answered(effect, known)
        return known
    if bindings.hooks.tool and hooked is None:
        call = partial(
            perform_async, run, effect, bindings, report=report, queued=queued, left=left
        )
        message = await _in_hooks_async(run, effect, bindings, bound, call)
    else:
        # A tool that runs an agent reports the agent's deltas.
        is_counted = bound.tool.reports or bool(bindings.budgets)
        with bindings.counting() if is_counted else nullcontext():
            result = await call_tool_async(
                bound,
                begin_tool(bindings.telemetry, effect.key, bound, queued=queued),
                seconds=run.limits.tool_seconds,
                left=left,
                report=None if report is None else _reporter(effect, report),
                begin=partial(run.begin, effect),
            )
        message = _with_notes(result, effect, bindings)
    if journal:
        await journal.end(message)
    return message


def _bind(run: Run, effect: CallTool, bindings: RunSetup) -> BoundCall | ToolMessage:
    """Bind a call of a run, or return the result of a call that must not run."""
    bindings.telemetry.raise_stop()  # before the call is reported as begun
    bound = _bound(run, effect, bindings)
    if isinstance(bound, ToolMessage):
        bindings.report_answered(effect, bound)
    return bound


def _bound(run: Run, effect: CallTool, bindings: RunSetup) -> BoundCall | ToolMessage:
    if refusal := effect.verdict.refusal:
        return ToolMessage(tool_call_id=effect.call.id, content=refusal, outcome="not_run")
    answers = bindings.answers
    if answers and effect.call.name == answers.final_tool:
        return answers.take(effect.call)
    bound = bindings.tools.bind(
        bindings.approvals.as_approved(effect.call),
        bindings.context,
        session_id=run.conversation.session_id,
        key=run.call_key(effect),
    )
    return bound if isinstance(bound, ToolMessage) else _for_agent(run, bindings, bound)


def _for_agent(run: Run, bindings: RunSetup, bound: BoundCall) -> BoundCall:
    """Return a call that runs an agent with what is left of the run; any other call unchanged."""
    bound = bindings.approvals.resumed(bound)
    limited = getattr(bound.function, "limited", None)
    if limited is None or (left := run.tokens_left) is None:
        return bound
    return BoundCall(bound.call, replace(bound.tool, function=limited(left)), bound.kwargs)


# - hooks -


class _HookedCall:
    """A bound call inside its hooks, and whether its tool was run."""

    def __init__(self, run: Run, effect: CallTool, bindings: RunSetup, bound: BoundCall) -> None:
        self.bound = bound
        self.is_run = False
        self._hidden = bound.tool.context_parameter
        key, session_id = run.call_key(effect), run.conversation.session_id
        log = cast(ToolLog, bound_logger(**call_facts(bound.tool.name, bound.call)))
        self.context = ToolContext(bindings.context, session_id, bound.call, key, log=log)
        self.arguments = {n: value for n, value in bound.kwargs.items() if n != self._hidden}

    def with_arguments(self, arguments: Arguments) -> BoundCall:
        """Return the call to run with the arguments that a hook has passed on."""
        self.is_run = True
        hidden = {} if self._hidden is None else {self._hidden: self.bound.kwargs[self._hidden]}
        return BoundCall(self.bound.call, self.bound.tool, {**arguments, **hidden})

    def result(self, hook: Callable[..., Any], value: object) -> ToolMessage:
        """Return what a hook returned as the result of the call."""
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
                return _failure(self.bound, error)
            return self.result(hook, not_awaited(hook, value))

        return around

    def layer_async(self, hook: Callable[..., Any], call: AsyncNextTool) -> AsyncNextTool:
        """Return `around_tool` of one async hook around the call."""

        async def around(arguments: Arguments) -> ToolMessage:
            try:
                value = hook(self.bound.call, dict(arguments), self.context, call)
                value = await awaited(hook, value)
            except ToolError as error:
                return _failure(self.bound, error)
            return self.result(hook, value)

        return around


def _in_hooks(
    run: Run,
    effect: CallTool,
    bindings: RunSetup,
    control: RunControl,
    bound: BoundCall,
    perform_bound: Callable[[BoundCall], Generator[ToolProgressDelta, None, ToolMessage]],
) -> Generator[ToolProgressDelta, None, ToolMessage]:
    hooked = _HookedCall(run, effect, bindings, bound)

    def hooks(next_: NextTool) -> ToolMessage:
        return layered(bindings.hooks.tool, hooked.layer, next_)(hooked.arguments)

    def call(arguments: Arguments) -> Generator[ToolProgressDelta, None, ToolMessage]:
        return perform_bound(hooked.with_arguments(arguments))

    is_read = bindings.streams and bound.tool.reports
    message = yield from with_hooks(hooks, call, control, is_read=is_read)
    if not hooked.is_run:
        bindings.report_answered(effect, message, error="hook")
    return message


async def _in_hooks_async(
    run: Run,
    effect: CallTool,
    bindings: RunSetup,
    bound: BoundCall,
    perform_bound: Callable[..., Awaitable[ToolMessage]],
) -> ToolMessage:
    hooked = _HookedCall(run, effect, bindings, bound)

    async def call(arguments: Arguments) -> ToolMessage:
        return await perform_bound(hooked=hooked.with_arguments(arguments))

    message = await layered(bindings.hooks.tool, hooked.layer_async, call)(hooked.arguments)
    if not hooked.is_run:
        bindings.report_answered(effect, message, error="hook")
    return message


# - reports -


def _reporter(effect: CallTool, report: ReportDelta) -> Report:
    async def reported(value: object) -> None:
        await report(ToolProgressDelta(effect.call, value))

    return reported


def _with_notes(message: ToolMessage, effect: CallTool, bindings: RunSetup) -> ToolMessage:
    """Add what the model must know of how the call ran: a warning, or changed arguments."""
    warning, note = effect.verdict.warning, bindings.approvals.note(effect.call)
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
    """Do work that reports; yield the reports as they come, and its value last.

    The work is done in a task of its own, because nothing may be yielded inside a task group.
    Closing the generator early cancels the task, and waits for its end. When more than `waiting`
    reports wait for their reader, the work waits, too; with `drops` new reports are dropped.
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


# - a bound call -


def begin_tool(
    telemetry: RunTelemetry, key: str, bound: BoundCall, *, queued: float | None = None
) -> ToolOperation:
    """Begin to observe a bound call."""
    tool = bound.tool
    return telemetry.begin_tool(
        key, bound.call, name=tool.name, description=tool.description, queued=queued
    )


def _do_nothing() -> None:
    pass


def call_tool(
    bound: BoundCall,
    thread: ToolThread,
    operation: ToolOperation | None = None,
    *,
    seconds: float | None = None,
    left: float | None = None,
    begin: Callable[[], None] = _do_nothing,
    cancellation: Cancellation | None = None,
) -> ToolMessage:
    """Run a bound call from blocking code; an async tool runs on `thread`.

    `operation` observes the call; without one it is part of no run. `seconds` is the timeout of a
    tool without one of its own, and `left` how many seconds the call may take at most. Neither
    applies to a sync tool without a `timeout`: it runs in the caller's thread, where nothing can
    stop it. `begin` is called right before the tool begins. `cancellation` stops the tool as its
    timeout would; then `RunCancelled` is raised.
    """
    with operation or begin_tool(RunTelemetry(), "", bound) as observed:
        observed.message = _refusal(bound)
        if observed.message is not None:
            return observed.message
        try:
            cancellation = cancellation or Cancellation()
            begin()
            run = partial(_run, bound, thread, seconds, cancellation=cancellation)
            if bound.tool.retries is None:
                value = run(left)
            else:
                value = _retried(observed, bound, left, run, cancellation)
            observed.message = result_message(bound, value)
        except ToolLoopError:
            raise
        # A tool is its author's code: whatever it raises is for the model to read. Only
        # BaseExceptions (cancellation, KeyboardInterrupt, SystemExit) reach the caller.
        except Exception as error:  # noqa: BLE001
            observed.error, observed.message = kind_name(error), _failure(bound, error)
            observed.is_fault = not isinstance(error, ToolError)
        return observed.message


async def call_tool_async(
    bound: BoundCall,
    operation: ToolOperation | None = None,
    *,
    seconds: float | None = None,
    left: float | None = None,
    report: Report | None = None,
    begin: Callable[[], None] = _do_nothing,
) -> ToolMessage:
    """Run a bound call on the event loop; a sync tool runs in a worker thread.

    A generator's values go to `report`, except the last, which is the result. `seconds` is
    the timeout of a tool without one of its own, and `left` how many seconds the call may take at
    most. A cancellation cancels an async tool and kills a process; a thread cannot be stopped. A
    value that a tool returns soon after a cancellation counts, so that the history records what
    happened. A tool that goes on is abandoned, with the outcome "unknown". `begin` is called right
    before the tool begins.
    """
    with operation or begin_tool(RunTelemetry(), "", bound) as observed:
        observed.message = _refusal(bound)
        if observed.message is not None:
            return observed.message
        try:
            if bound.tool.retries is None:
                value = await _run_async(bound, seconds, left, report=report, begin=begin)
            else:
                run = partial(_run_async, bound, seconds, report=report, begin=begin)
                value = await _retried_async(observed, bound, left, run)
            observed.message = result_message(bound, value)
        except RunInterrupted as error:
            observed.message = result_message(bound, error.value)
        except Exception as error:  # noqa: BLE001  (as in call_tool)
            observed.error, observed.message = kind_name(error), _failure(bound, error)
            observed.is_fault = not isinstance(error, ToolError)
        return observed.message


def _run(
    bound: BoundCall,
    thread: ToolThread,
    default: float | None,
    left: float | None,
    cancellation: Cancellation,
) -> object:
    seconds = _shorter(bound.tool.timeout or default, left)
    if bound.tool.run_in == "process":
        from pathors_agent.agents.perform.process import ToolProcess  # here: few tools need it

        process = ToolProcess(bound.tool, _arguments(bound, seconds))
        try:
            with cancellation.calls(process.stop):
                return process.run(seconds)
        except ToolError:
            if cancellation.is_set:
                raise RunCancelled from None
            raise
    if bound.is_async:
        call = _call(bound, seconds)
        return thread.run(run_in_task, call, seconds, cancellation=cancellation)
    begun = time.monotonic()
    if bound.tool.timeout is not None and seconds is not None:
        call = _call(bound, seconds)
        value = run_in_thread(call, seconds, cancellation)
    else:
        call = _call(bound, None)
        value = call.run()
    if is_unfinished(value):
        run = partial(run_in_task, whole=seconds)
        rest, left = call.rest(value), _remaining(seconds, begun)
        return thread.run(run, rest, left, cancellation=cancellation)
    return value


async def _run_async(
    bound: BoundCall,
    default: float | None,
    left: float | None,
    report: Report | None,
    begin: Callable[[], None],
) -> object:
    seconds = _shorter(bound.tool.timeout or default, left)
    if bound.is_async:
        begin()
        return await run_in_task(_call(bound, seconds, report), seconds)
    # The timeout begins when the call has a thread.
    async with thread_limit():
        begin()
        begun = time.monotonic()
        if bound.tool.run_in == "process":
            from pathors_agent.agents.perform.process import ToolProcess, run_in_process

            process = ToolProcess(bound.tool, _arguments(bound, seconds))
            return await run_in_process(process, seconds)
        call = _call(bound, seconds, report)
        call.tell = None if report is None else teller(report)
        value = await run_in_thread_async(call, seconds)
    if is_unfinished(value):
        return await run_in_task(call.rest(value), _remaining(seconds, begun), whole=seconds)
    return value


def _remaining(seconds: float | None, begun: float) -> float | None:
    return None if seconds is None else max(seconds - (time.monotonic() - begun), 0)


def _shorter(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else min(one, other)


def _call(bound: BoundCall, seconds: float | None, report: Report | None = None) -> FunctionCall:
    return FunctionCall(bound.function, _arguments(bound, seconds), report)


def _arguments(bound: BoundCall, seconds: float | None) -> dict[str, Any]:
    """Return a call's arguments, with the deadline and the log in its `ToolContext`."""
    name = bound.tool.context_parameter
    if name is None:
        return bound.kwargs
    context = bound.kwargs[name]
    assert isinstance(context, ToolContext)  # set by `ToolRegistry.bind`
    deadline = None if seconds is None else time.monotonic() + seconds
    log = cast(ToolLog, bound_logger(**call_facts(bound.tool.name, bound.call)))
    return {**bound.kwargs, name: replace(context, deadline=deadline, log=log)}


# - retries -


def _retried(
    operation: ToolOperation,
    bound: BoundCall,
    left: float | None,
    run: Callable[[float | None], object],
    cancellation: Cancellation,
) -> object:
    from tenacity import Retrying  # here: few tools need it

    remaining = partial(_remaining, left, time.monotonic())
    retrying = Retrying(sleep=cancellation.sleep, **_retry_settings(operation, bound, left))
    return retrying(lambda: run(remaining()))


async def _retried_async(
    operation: ToolOperation,
    bound: BoundCall,
    left: float | None,
    run: Callable[[float | None], Awaitable[object]],
) -> object:
    from tenacity import AsyncRetrying

    remaining = partial(_remaining, left, time.monotonic())

    async def attempt() -> object:
        return await run(remaining())

    settings = _retry_settings(operation, bound, left)
    return await AsyncRetrying(sleep=anyio.sleep, **settings)(attempt)


def _retry_settings(
    operation: ToolOperation, bound: BoundCall, left: float | None
) -> dict[str, Any]:
    """Return tenacity's settings: no wait goes beyond the time that is left."""
    from tenacity import retry_if_exception, stop_after_attempt, stop_before_delay
    from tenacity.wait import wait_random_exponential

    policy = bound.tool.retries
    assert policy is not None
    stop: Any = stop_after_attempt(policy.attempts)
    if left is None and (deadline := operation.telemetry.deadline) is not None:
        left = deadline - time.monotonic()

    def is_retried(error: BaseException) -> bool:
        if hung_calls(bound.function) >= MAX_HUNG_CALLS:
            return False
        if isinstance(error, ToolError):
            return isinstance(error, Unanswered) and error.outcome == "timeout"
        return isinstance(error, policy.on)

    def note(state: "RetryCallState") -> None:
        error = state.outcome.exception() if state.outcome else None
        facts = call_facts(bound.tool.name, bound.call)
        kind = None if error is None else kind_name(error)
        operation.note("tool_retried", **facts, attempt=state.attempt_number, error=kind)

    return {
        "stop": stop if left is None else stop | stop_before_delay(left),
        "wait": wait_random_exponential(multiplier=policy.backoff, max=policy.max_wait),
        "retry": retry_if_exception(is_retried),
        "before_sleep": note,
        "reraise": True,
    }


# - results without a value -


def _refusal(bound: BoundCall) -> ToolMessage | None:
    if hung_calls(bound.function) < MAX_HUNG_CALLS:
        return None
    text = (
        f"Not run: {MAX_HUNG_CALLS} calls of {bound.tool.name} were not finished in time and have "
        "not returned yet; do without it for now."
    )
    return ToolMessage(tool_call_id=bound.call.id, content=text, outcome="not_run")


def _failure(bound: BoundCall, error: Exception) -> ToolMessage:
    text, kind = _text_of(error), kind_name(error)
    named = text if isinstance(error, ToolError) else f"{kind}: {text}"
    return ToolMessage(
        tool_call_id=bound.call.id,
        content=(named if text.strip() else kind)[:MAX_ERROR_CHARACTERS],
        outcome=error.outcome if isinstance(error, Unanswered) else "error",
        ends_tool=isinstance(error, ToolError) and not error.retryable,
    )


def _text_of(error: Exception) -> str:
    try:
        text = str(error)
        return text if text.isascii() else text.encode(errors="replace").decode()
    except Exception as second:  # noqa: BLE001  (an exception's own __str__ may raise)
        return f"(its text could not be read: {kind_name(second)})"
