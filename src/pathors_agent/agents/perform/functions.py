"""Follow calls of functions that cannot be stopped, and count those that nobody waits for."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Literal

from pathors_agent.errors import ToolError
from pathors_agent.messages import Outcome

# Four of one tool that never returned: the fifth would not either.
MAX_HUNG_CALLS = 4

Report = Callable[[object], Awaitable[None]]
"""Takes what a tool says before its result."""

# A run that is stopped is to be over within a second, whatever its tools do.
STOP_SECONDS = 0.5

_Identity = tuple[int, int]

_HUNG: Counter[_Identity] = Counter()
_LOCK = threading.Lock()


class Unanswered(ToolError):
    """Raised inside a tool whose call was begun elsewhere, and gave no result."""

    def __init__(self, text: str, *, outcome: Literal["timeout", "unknown"]) -> None:
        super().__init__(text)
        self.outcome: Outcome = outcome


def out_of_time(seconds: float, fate: str) -> Unanswered:
    """Make the error for a call that was not finished in time; say what became of it."""
    return Unanswered(f"Not finished after {seconds:g} s; {fate}.", outcome="timeout")


def left_alone() -> Unanswered:
    """Make the error for a call that goes on although its run was stopped."""
    fate = "it goes on by itself, and its result will not be known"
    return Unanswered(f"The run was stopped while it ran; {fate}.", outcome="unknown")


# What stops a task or a generator. A tool that raises it unasked (something that it waited for was
# cancelled) stops nothing but itself.
STOPS = (asyncio.CancelledError, GeneratorExit)


def stopped_within(error: BaseException) -> ToolError:
    """Make the error for a call that ended as if it were stopped, which its run did not do."""
    return ToolError(f"{type(error).__name__}: it was stopped, and not by its run.")


def call_function(function: Callable[[], object]) -> object:
    """Call a sync function; its own cancellation does not stop the run."""
    try:
        return function()
    except STOPS as error:
        raise stopped_within(error) from error


class FunctionCall:
    """One call of a tool's function: hung from when it is abandoned until it returns."""

    def __init__(
        self, function: Callable[..., Any], kwargs: dict[str, Any], report: Report | None = None
    ) -> None:
        self._function = function
        self._run: Callable[[], object] = partial(function, **kwargs)
        self._report = report
        self._state: Literal["new", "running", "hung", "ended"] = "new"

    def run(self) -> object:
        """Run a sync function; one that was abandoned before is not begun."""
        if not self._begin():
            return None
        try:
            return call_function(self._run)
        finally:
            self._end()

    def rest(self, value: object) -> "FunctionCall":
        """Return the call that awaits what a sync function returned."""
        rest = FunctionCall(self._function, {}, self._report)
        rest._run = lambda: value
        return rest

    async def run_async(self) -> object:
        """Run an async function, as `run`."""
        if not self._begin():
            return None
        try:
            value = self._run()
            if isinstance(value, AsyncGenerator):
                return await self._last(value)
            return await value if isinstance(value, Awaitable) else value
        finally:
            self._end()

    async def _last(self, values: AsyncGenerator[object, None]) -> object:
        """Report each value of a generator when the next has come; give the last."""
        last: object = None
        is_first = True
        async with aclosing(values):
            async for value in values:
                if self._report is not None and not is_first:
                    await self._report(last)
                last, is_first = value, False
        return last

    def abandon(self) -> None:
        """Wait for it no more; without effect on a call that has ended."""
        with _LOCK:
            if self._state == "running":
                self._state = "hung"
                _HUNG[_identity(self._function)] += 1
            elif self._state == "new":
                self._state = "ended"

    def _begin(self) -> bool:
        with _LOCK:
            if self._state == "new":
                self._state = "running"
            return self._state == "running"

    def _end(self) -> None:
        with _LOCK:
            if self._state == "hung":
                identity = _identity(self._function)
                _HUNG[identity] -= 1
                if not _HUNG[identity]:
                    del _HUNG[identity]
            self._state = "ended"


def is_unfinished(value: object) -> bool:
    """Whether a sync function returned something to await: it wraps an async one."""
    return isinstance(value, Awaitable | AsyncGenerator)


def hung_calls(function: Callable[..., Any]) -> int:
    """Count the calls of a function that nobody waits for and that have not returned."""
    return _HUNG[_identity(function)] if _HUNG else 0


def _identity(function: Callable[..., Any]) -> _Identity:
    # A bound method is made anew each time that it is read; functions need not be hashable. A
    # call that is counted holds its function, so that its ids stay its own.
    owner = getattr(function, "__self__", None)
    return id(owner), id(getattr(function, "__func__", function))
