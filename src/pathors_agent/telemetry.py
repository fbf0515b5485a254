"""Tell what the library does, as structlog events: names, ids, counts, seconds; never contents.

Where structlog is configured, events go its way. Elsewhere they go to the standard logger
`pathors_agent`, which is silent until somebody listens.
"""

import logging

import structlog

_LOGGER = logging.getLogger("pathors_agent")
_LOGGER.addHandler(logging.NullHandler())


def emit(event: str, **fields: object) -> None:
    """Log one event at level INFO."""
    if structlog.is_configured():
        structlog.get_logger("pathors_agent").info(event, **fields)
    elif _LOGGER.isEnabledFor(logging.INFO):
        text = " ".join(f"{name}={value!r}" for name, value in fields.items())
        _LOGGER.info("%s %s", event, text, extra={"event": event, "fields": fields})
