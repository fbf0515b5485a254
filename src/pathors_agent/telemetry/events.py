"""Log what the library does, as structlog events: names, ids, counts, seconds; never contents.

If the program has configured structlog, events go there. Otherwise they go to the standard logger
`pathors_agent`, which is silent until a handler and a level are set.
"""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pathors_agent.telemetry.guard import observe, observe_async
from pathors_agent.tools.signature import ToolLog

if TYPE_CHECKING:
    from types import ModuleType

LOG = "the log"
"""The log's name in the guard's reports."""

_LOGGER = logging.getLogger("pathors_agent")
_LOGGER.addHandler(logging.NullHandler())

# Fields of every event of one request; a dict, so that fields that are known later reach all tasks.
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
    """Return structlog if the program configured it; its import takes longer than ours."""
    if "structlog" not in sys.modules:
        return None
    import structlog

    return structlog if structlog.is_configured() else None


def is_heard() -> bool:
    """Return True if events go anywhere; facts are not gathered otherwise."""
    return _configured_structlog() is not None or _LOGGER.isEnabledFor(logging.INFO)


def emit(event: str, **fields: object) -> None:
    """Log one event at level INFO; what the log raises is dropped."""
    observe(LOG, write, event, fields)


def warn(event: str, **fields: object) -> None:
    """Log one event at level WARNING, as `emit`."""
    observe(LOG, write, event, fields, logging.WARNING)


@contextmanager
def shared_fields(**fields: object) -> Iterator[dict[str, object]]:
    """Add fields to every event inside the block and in the tasks that it starts.

    The dict may get more fields, with `share` too.
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
    """Log one event; raises what the log raises."""
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


def bound_logger(**fields: object) -> ToolLog:
    """Return a logger that adds these fields to each event and cannot raise."""
    import structlog

    fields = {**(_SHARED.get() or {}), **fields}
    logger = None
    if structlog.is_configured():
        logger = observe(LOG, _configured_logger(structlog).bind, **fields)
    logger = logger or structlog.wrap_logger(_LOGGER, processors=[_as_record]).bind(**fields)
    return cast(ToolLog, _GuardedLog(logger))


def _configured_logger(structlog: "ModuleType", name: str = _LOGGER.name) -> Any:
    """Return the configured logger, with methods that log before they return.

    The methods of a wrapper class like `AsyncBoundLogger` are coroutines, and blocking code cannot
    await them; the same processors and logger are then wrapped in a class without coroutines.
    """
    wrapper = structlog.get_config()["wrapper_class"]
    if not inspect.iscoroutinefunction(getattr(wrapper, "info", None)):
        return structlog.get_logger(name)
    blocking = getattr(wrapper, "_bound_logger_factory", structlog.stdlib.BoundLogger)
    return structlog.wrap_logger(None, wrapper_class=blocking, logger_factory_args=(name,))


class _GuardedLog:
    """A structlog logger each of whose calls goes through the guard."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._logger, name)
        if name in _REBINDING:
            return partial(self._rebound, method)
        if inspect.iscoroutinefunction(method):
            return partial(observe_async, LOG, method)
        return partial(observe, LOG, method) if callable(method) else method

    def _rebound(self, method: Callable[..., Any], *args: Any, **fields: Any) -> "_GuardedLog":
        return _GuardedLog(observe(LOG, method, *args, **fields) or self._logger)


def _as_record(
    logger: logging.Logger, method: str, event: Mapping[str, Any]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Write an event as `emit` does, for a standard logger."""
    import structlog

    if not logger.isEnabledFor(_LEVELS[method]):
        raise structlog.DropEvent
    fields = dict(event)
    name = fields.pop("event")
    text = " ".join(f"{name}={value!r}" for name, value in fields.items())
    return ("%s %s", name, text), {"extra": {"event": name, "fields": fields}}


_LEVELS = {name.lower(): level for name, level in logging.getLevelNamesMapping().items()}
