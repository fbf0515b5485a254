"""Run a bound call: its function with its timeout and retries, in a thread, a task or a process.

After a crash, settle the calls in doubt: run them again, or find out what they did.
"""

import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio

from pathors_agent.agents.perform.child import text_of_error
from pathors_agent.agents.perform.tasks import (
    MAX_HUNG_CALLS,
    FunctionCall,
    Report,
    Unanswered,
    hung_calls,
    is_unfinished,
    run_in_task,
)
from pathors_agent.agents.perform.threads import (
    run_in_thread,
    run_in_thread_async,
    teller,
    thread_limit,
)
from pathors_agent.agents.perform.tool_thread import ToolThread
from pathors_agent.concurrency.event_loops import Cancellation, RunCancelled
from pathors_agent.core.run import CallTool, Run
from pathors_agent.errors import ToolError, ToolLoopError
from pathors_agent.json_text import whole_characters
from pathors_agent.messages import ToolMessage
from pathors_agent.telemetry.events import bound_logger
from pathors_agent.telemetry.facts import call_facts
from pathors_agent.telemetry.runs import RunTelemetry, ToolOperation
from pathors_agent.tools.registry import BoundCall
from pathors_agent.tools.result_values import kind_name
from pathors_agent.tools.results import PartsError, RunInterrupted, result_message
from pathors_agent.tools.signature import ToolContext, ToolLog
from pathors_agent.tools.tool import NOT_HAPPENED, Happened

if TYPE_CHECKING:
    from tenacity import RetryCallState

# A model can use this much of an exception's text; some texts are whole HTML pages of a server.
MAX_ERROR_CHARACTERS = 2_000


def _do_nothing() -> None:
    pass


def _unobserved(bound: BoundCall) -> ToolOperation:
    """Return the operation of a call that is part of no run."""
    return RunTelemetry().begin_tool("", bound.call, bound.tool.description)


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
    with operation or _unobserved(bound) as observed:
        if hung_calls(bound.function) >= MAX_HUNG_CALLS:
            observed.message = _too_many_hung(bound)
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
        # A tool is its author's code: the model reads any exception that it raises. Only
        # BaseExceptions (cancellation, KeyboardInterrupt, SystemExit) reach the caller.
        except Exception as error:  # noqa: BLE001
            observed.error, observed.message = kind_name(error), failure_message(bound, error)
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

    A generator's values go to `report`, except the last, which is the result. `seconds` is the
    timeout of a tool without one of its own, and `left` how many seconds the call may take at most.
    A cancellation cancels an async tool and kills a process; a thread cannot be stopped. A value
    that a tool returns soon after a cancellation counts, so that the history records what happened.
    A tool that continues to run is abandoned, with the outcome "unknown". `begin` is called right
    before the tool begins.
    """
    with operation or _unobserved(bound) as observed:
        if hung_calls(bound.function) >= MAX_HUNG_CALLS:
            observed.message = _too_many_hung(bound)
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
            observed.error, observed.message = kind_name(error), failure_message(bound, error)
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
    if bound.tool.is_async:
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
    if bound.tool.is_async:
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
    """Return tenacity's settings: a wait ends before the remaining time does."""
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


def _too_many_hung(bound: BoundCall) -> ToolMessage:
    text = (
        f"Not run: {MAX_HUNG_CALLS} calls of {bound.tool.name} were not finished in time and have "
        "not returned yet; do without it for now."
    )
    return ToolMessage(tool_call_id=bound.call.id, content=text, outcome="not_run")


def failure_message(bound: BoundCall, error: Exception) -> ToolMessage:
    """Return the result of a call that failed."""
    if isinstance(error, PartsError):
        return result_message(bound, error.parts).model_copy(update={"outcome": "error"})
    text, kind = whole_characters(text_of_error(error)), kind_name(error)
    named = text if isinstance(error, ToolError) else f"{kind}: {text}"
    return ToolMessage(
        tool_call_id=bound.call.id,
        content=(named if text.strip() else kind)[:MAX_ERROR_CHARACTERS],
        outcome=error.outcome if isinstance(error, Unanswered) else "error",
        ends_tool=isinstance(error, ToolError) and not error.retryable,
    )


# - calls in doubt: begun by a process that died before their results were recorded -


async def settle(
    run: Run, effect: CallTool, bound: BoundCall, context: object
) -> ToolMessage | None:
    """Return the result of a call in doubt, or None if it may run again.

    `context` is the caller's value, which the tool gets as `ToolContext.context`.
    """
    if bound.tool.idempotent:
        return None
    unknown = unknown_result(bound.call.id, bound.tool.name)
    if bound.tool.reconcile is None:
        return unknown
    session_id, key = run.conversation.session_id, run.call_key(effect)
    tool_context: ToolContext[Any] = ToolContext(context, session_id, bound.call, key)
    hidden = bound.tool.context_parameter
    arguments = {name: value for name, value in bound.kwargs.items() if name != hidden}
    try:
        found = bound.tool.reconcile(tool_context, arguments)
        if inspect.isawaitable(found):
            found = await found
        if found is NOT_HAPPENED:
            return None
        if isinstance(found, Happened):
            return result_message(bound, found.value)
    except (Exception, SystemExit, KeyboardInterrupt):  # noqa: BLE001  (of the author's function)
        return unknown
    return unknown


def unknown_result(call_id: str, tool: str) -> ToolMessage:
    """Return the result of a call that began and whose end is unknown."""
    text = (
        f"Outcome unknown: the program stopped while {tool} ran, and it is not known"
        " whether it was carried out. It was not run again. Do not repeat it before you have"
        " found out, or tell the user."
    )
    return ToolMessage(tool_call_id=call_id, content=text, outcome="unknown")
