"""Write the log of a server to standard error, rendered by structlog: text or JSON, a line each."""

import logging
import sys
from typing import cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger


def log_to_stderr(*, everything: bool, as_json: bool) -> None:
    """Log failures and, if a server logs them, requests; with `everything`, each event."""
    # A line stays a line: control characters in values are escaped by `repr` and by JSON.
    render: Processor = structlog.processors.JSONRenderer() if as_json else _as_text
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _add_fields,
                structlog.processors.format_exc_info,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    level = logging.INFO if everything else logging.WARNING
    for name, heard in (("pathors_agent", level), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(heard)
        logger.propagate = False
    # Reaches the handler of its parent; events are written only if the server is told to.
    logging.getLogger("pathors_agent.access").setLevel(logging.INFO)


def _add_fields(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Add the fields of an event of the library, which its record holds."""
    record = cast(logging.LogRecord, event["_record"])
    if hasattr(record, "fields"):
        return {**event, "event": record.event, **record.fields}  # type: ignore[attr-defined]  # set by `telemetry.events`
    return event


def _as_text(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """Render `2026-11-28T10:00:00.000000Z warning turn_failed name='value' ...`."""
    fields = dict(event)
    start = [fields.pop("timestamp"), fields.pop("level"), repr(str(fields.pop("event")))[1:-1]]
    return " ".join([*start, *(f"{name}={value!r}" for name, value in fields.items())])
