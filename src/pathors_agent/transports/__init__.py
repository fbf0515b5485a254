"""Carry requests to models: over HTTP, around one another, into this process."""

from typing import TYPE_CHECKING

from pathors_agent.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathors_agent.transports.logged import AsyncLoggingTransport, LoggingTransport
else:
    __getattr__, __dir__ = lazy_names(
        __name__, {"transports.logged": ("AsyncLoggingTransport", "LoggingTransport")}
    )

__all__ = ["AsyncLoggingTransport", "LoggingTransport"]
