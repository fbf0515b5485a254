"""The one guard between a run and the code that observes it.

Log sinks, structlog processors, span processors, exporters, metrics and callbacks are other
people's code: disks fill up, pipes close, collectors go away. Every call of such code goes through
`observe`, which drops what it raises, so that an observer cannot end a run or lose a result.
"""

import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_REPORTED: set[tuple[str, str]] = set()


def observe(observer: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Call an observer; return None if it raises.

    Passes on only what stops the program or its thread and may strike in any code, like Ctrl-C;
    `observer` names the kind of observer in the report of a failure.
    """
    try:
        return function(*args, **kwargs)
    except BaseException as error:
        if _is_stop(error):
            raise
        with suppress(Exception):
            _report(observer, error)
        return None


async def observe_async(
    observer: str, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
) -> T | None:
    """Await an observer, as `observe`; its task may be cancelled meanwhile."""
    try:
        return await function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  (observers are other people's code)
        with suppress(Exception):
            _report(observer, error)
        return None


def _is_stop(error: BaseException) -> bool:
    """Return True if an exception is a request to stop, which was not raised by the observer."""
    if isinstance(error, Exception):
        return False
    # Greenlets are killed, and run out of time, by an exception raised where they stand.
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, KeyboardInterrupt | SystemExit) or package in ("greenlet", "gevent")


def _report(observer: str, error: BaseException) -> None:
    """Write one line to stderr for each kind of failure, as `logging` does for its handlers.

    The error's text is left out: it may quote what was observed.
    """
    kind = observer, type(error).__qualname__
    if kind in _REPORTED or not logging.raiseExceptions or sys.stderr is None:
        return
    _REPORTED.add(kind)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" in {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
    sys.stderr.write(
        f"pathors_agent: {observer} failed with {kind[1]}{where}; what it should have recorded is "
        "lost, and runs go on. Further failures of this kind are not reported.\n"
    )
