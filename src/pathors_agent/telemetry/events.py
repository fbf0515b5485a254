"""Tell what the library does, as structlog events: names, ids, counts, seconds; never contents.

Where structlog is configured, events go its way. Elsewhere they go to the standard logger
`pathors_agent`, which is silent until somebody listens.
"""

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pathors_agent.tools.signature import ToolLog

if TYPE_CHECKING:
    from types import ModuleType

_LOGGER = logging.getLogger("pathors_agent")
_LOGGER.addHandler(logging.NullHandler())


def _configured_structlog() -> "ModuleType | None":
    """Give structlog where the program configured it; its import takes longer than ours."""
    if "structlog" not in sys.modules:
        return None
    import structlog

    return structlog if structlog.is_configured() else None


def is_heard() -> bool:
    """Whether somebody listens: to gather what nobody reads is for nothing."""
    return _configured_structlog() is not None or _LOGGER.isEnabledFor(logging.INFO)


def emit(event: str, **fields: object) -> None:
    """Log one event at level INFO."""
    if structlog := _configured_structlog():
        structlog.get_logger("pathors_agent").info(event, **fields)
    elif _LOGGER.isEnabledFor(logging.INFO):
        text = " ".join(f"{name}={value!r}" for name, value in fields.items())
        _LOGGER.info("%s %s", event, text, extra={"event": event, "fields": fields})


def bound_logger(**fields: object) -> ToolLog:
    """Give a logger whose events go where the library's go, with these fields in each."""
    import structlog

    if structlog.is_configured():
        logger: ToolLog = structlog.get_logger("pathors_agent").bind(**fields)
    else:
        logger = structlog.wrap_logger(_LOGGER, processors=[_as_record]).bind(**fields)
    return logger


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
