"""Run a bound call; whatever becomes of it is a `ToolMessage`."""

import functools
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal, Self

import anyio
import anyio.from_thread
import anyio.to_thread

from pathors_agent.errors import ToolError
from pathors_agent.messages import Outcome, ToolMessage
from pathors_agent.results import result_message
from pathors_agent.telemetry import emit
from pathors_agent.tools import BoundCall

# What a model can use of an exception's text; a server's page of HTML is more.
MAX_ERROR_CHARACTERS = 2_000


class Unanswered(ToolError):
    """Raised inside a tool whose call was begun elsewhere, and gave no result."""

    def __init__(self, text: str, *, outcome: Literal["timeout", "unknown"]) -> None:
        super().__init__(text)
        self.outcome: Outcome = outcome


class ToolThread:
    """Where blocking code runs async tools: an event loop in a thread of its own.

    It is started by the first async tool and stopped when the `with` block ends, so that it works
    inside a running event loop (a notebook) as in a plain script.
    """

    def __init__(self) -> None:
        self._exits = ExitStack()
        self._portal: anyio.from_thread.BlockingPortal | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._portal = None
        self._exits.__exit__(*exception)

    def run(self, function: Callable[..., Any], kwargs: dict[str, Any]) -> object:
        """Run an async function to its end, from blocking code."""
        if self._portal is None:
            self._portal = self._exits.enter_context(anyio.from_thread.start_blocking_portal())
        result: object = self._portal.call(functools.partial(function, **kwargs))
        return result


def call_tool(bound: BoundCall, thread: ToolThread) -> ToolMessage:
    """Run a bound call from blocking code; an async tool runs on `thread`."""
    started = time.monotonic()
    try:
        if bound.is_async:
            value = thread.run(bound.function, bound.kwargs)
        else:
            value = bound.function(**bound.kwargs)
        message = result_message(bound, value)
    # A tool is anybody's code: whatever it raises is something for the model to read. Only
    # BaseExceptions (cancellation, KeyboardInterrupt, SystemExit) pass: they are for the caller.
    except Exception as error:  # noqa: BLE001
        message = _failure(bound, error)
    _tell(bound, message, started)
    return message


async def call_tool_async(bound: BoundCall) -> ToolMessage:
    """Run a bound call on the event loop; a sync tool runs in a worker thread.

    A thread cannot be stopped: cancellation waits for a sync tool to return, and its result is
    kept, so that the history says what was done.
    """
    started = time.monotonic()
    try:
        if bound.is_async:
            value = await bound.function(**bound.kwargs)
        else:
            call = functools.partial(bound.function, **bound.kwargs)
            value = await anyio.to_thread.run_sync(call)
        message = result_message(bound, value)
    except Exception as error:  # noqa: BLE001  (as in call_tool)
        message = _failure(bound, error)
    _tell(bound, message, started)
    return message


def _failure(bound: BoundCall, error: Exception) -> ToolMessage:
    said = _text_of(error)
    text = said if isinstance(error, ToolError) else f"{type(error).__name__}: {said}"
    outcome = error.outcome if isinstance(error, Unanswered) else "error"
    return ToolMessage(
        tool_call_id=bound.call.id, content=text[:MAX_ERROR_CHARACTERS], outcome=outcome
    )


def _text_of(error: Exception) -> str:
    try:
        return _sendable(str(error))
    except Exception as second:  # noqa: BLE001  (an exception's own __str__ may raise)
        return f"(its text could not be read: {type(second).__name__})"


def _sendable(text: str) -> str:
    return text if text.isascii() else text.encode(errors="replace").decode()


def _tell(bound: BoundCall, message: ToolMessage, started: float) -> None:
    emit(
        "tool_called",
        tool=bound.tool.name,
        call_id=bound.call.id,
        outcome=message.outcome,
        seconds=round(time.monotonic() - started, 6),
    )
