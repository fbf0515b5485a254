"""Log what the library does as structlog events: names, ids, counts and seconds, never contents.

Events go to structlog if the program has configured it. Otherwise they go to the standard logger
`pathors_agent`, which is silent until the program sets a handler and a level.

Log sinks, structlog processors, span processors, exporters, metrics and callbacks are code of other
projects: disks fill up, pipes close, collectors are unreachable. Every call of such code goes
through `observe`, which drops its exceptions, so that an observer cannot end a run or lose a
result.
"""

import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

if TYPE_CHECKING:
    from types import ModuleType

P = ParamSpec("P")
T = TypeVar("T")

Facts = dict[str, Any]
"""The fields of an event, which are also the attributes of a span."""

LOG = "the log"
"""The name of the log in reports of failed observers."""

_LOGGER = logging.getLogger("pathors_agent")
_LOGGER.addHandler(logging.NullHandler())

# Fields of every event of one request. All tasks share the dict, so that later fields reach them.
_SHARED: ContextVar[dict[str, object] | None] = ContextVar("pathors_agent_events", default=None)

# Methods of structlog's loggers that return another logger.
_REBINDING = frozenset({"bind", "new", "unbind", "try_unbind"})


class ServerAddress(NamedTuple):
    """The host and port that a transport sends to."""

    address: str
    port: int | None = None


@cache
def library_version() -> str:
    """Return the installed version, or "0" when the library runs from a source tree."""
    try:
        return version("pathors-agent")
    except PackageNotFoundError:
        return "0"


def _configured_structlog() -> "ModuleType | None":
    """Return structlog if the program configured it. It is not imported otherwise."""
    if "structlog" not in sys.modules:
        return None
    import structlog

    return structlog if structlog.is_configured() else None


def is_enabled() -> bool:
    """Return True if events are logged; otherwise no facts need to be gathered."""
    return _configured_structlog() is not None or _LOGGER.isEnabledFor(logging.INFO)


# - the guard -

_REPORTED: set[tuple[str, str]] = set()


def observe(observer: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Call an observer; return None if it raises.

    Only exceptions that stop the program or its thread, such as Ctrl-C, are raised. `observer` is
    the kind of observer, for the report of a failure.
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
    """Await an observer, as `observe`; cancellation is raised."""
    try:
        return await function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  (observers are code of other projects)
        with suppress(Exception):
            _report(observer, error)
        return None


def _is_stop(error: BaseException) -> bool:
    """Return True if an exception is a request to stop that the observer did not raise itself."""
    if isinstance(error, Exception):
        return False
    # gevent kills greenlets by an exception, and uses one for timeouts.
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, KeyboardInterrupt | SystemExit) or package in ("greenlet", "gevent")


def _report(observer: str, error: BaseException) -> None:
    """Write one line to stderr for each kind of failure, as `logging` does for its handlers.

    The error's text is left out, because it may quote contents.
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
        f"pathors_agent: {observer} failed with {kind[1]}{where}; its record is lost, and runs "
        "continue. Further failures of this kind are not reported.\n"
    )


# - events -


def emit(event: str, **fields: object) -> None:
    """Log one event at level INFO; exceptions of the log are dropped."""
    observe(LOG, write, event, fields)


def warn(event: str, **fields: object) -> None:
    """Log one event at level WARNING, as `emit`."""
    observe(LOG, write, event, fields, logging.WARNING)


@contextmanager
def shared_fields(**fields: object) -> Iterator[dict[str, object]]:
    """Add fields to every event inside the block and in the tasks that it starts.

    More fields may be added to the yielded dict, or with `share`.
    """
    token = _SHARED.set(fields)
    try:
        yield fields
    finally:
        _SHARED.reset(token)


def share(**fields: object) -> None:
    """Add fields to every further event of the surrounding `shared_fields`, if there is one."""
    if (shared := _SHARED.get()) is not None:
        shared.update(fields)


def write(
    event: str,
    fields: Mapping[str, object],
    level: int = logging.INFO,
    to: logging.Logger = _LOGGER,
) -> None:
    """Log one event. Exceptions of the log are raised."""
    structlog = _configured_structlog()
    if structlog is None and not to.isEnabledFor(level):
        return
    fields = {**(_SHARED.get() or {}), **fields}
    if structlog:
        logger = _configured_logger(structlog, to.name)
        (logger.warning if level == logging.WARNING else logger.info)(event, **fields)
    else:
        text = " ".join(f"{name}={value!r}" for name, value in fields.items())
        to.log(level, "%s %s", event, text, extra={"event": event, "fields": fields})


def bound_logger(**fields: object) -> "GuardedLog":
    """Return a logger that adds these fields to each event and never raises."""
    import structlog

    fields = {**(_SHARED.get() or {}), **fields}
    logger = None
    if structlog.is_configured():
        logger = observe(LOG, _configured_logger(structlog).bind, **fields)
    logger = logger or structlog.wrap_logger(_LOGGER, processors=[_as_record]).bind(**fields)
    return GuardedLog(logger)


def _configured_logger(structlog: "ModuleType", name: str = _LOGGER.name) -> Any:
    """Return the configured logger, with blocking methods.

    The methods of a wrapper class like `AsyncBoundLogger` are coroutines, which blocking code cannot
    await; the same processors and logger are then wrapped in a class without coroutines.
    """
    wrapper = structlog.get_config()["wrapper_class"]
    if not inspect.iscoroutinefunction(getattr(wrapper, "info", None)):
        return structlog.get_logger(name)
    blocking = getattr(wrapper, "_bound_logger_factory", structlog.stdlib.BoundLogger)
    return structlog.wrap_logger(None, wrapper_class=blocking, logger_factory_args=(name,))


class GuardedLog:
    """A structlog logger whose methods never raise."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._logger, name)
        if name in _REBINDING:
            return partial(self._rebound, method)
        if inspect.iscoroutinefunction(method):
            return partial(observe_async, LOG, method)
        return partial(observe, LOG, method) if callable(method) else method

    def _rebound(self, method: Callable[..., Any], *args: Any, **fields: Any) -> "GuardedLog":
        return GuardedLog(observe(LOG, method, *args, **fields) or self._logger)


def _as_record(
    logger: logging.Logger, method: str, event: Mapping[str, Any]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Render an event as `emit` does, for a standard logger."""
    import structlog

    if not logger.isEnabledFor(_LEVELS[method]):
        raise structlog.DropEvent
    fields = dict(event)
    name = fields.pop("event")
    text = " ".join(f"{name}={value!r}" for name, value in fields.items())
    return ("%s %s", name, text), {"extra": {"event": name, "fields": fields}}


_LEVELS = {name.lower(): level for name, level in logging.getLevelNamesMapping().items()}
