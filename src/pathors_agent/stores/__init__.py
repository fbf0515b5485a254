"""Stores for the sessions, keys and answers of a server."""

from typing import TYPE_CHECKING

from pathors_agent.stores.base import (
    ANSWER_HOURS,
    MAX_SEARCH_BYTES,
    Lease,
    OpenedSession,
    Page,
    RequestId,
    RequestRecord,
    Session,
    SessionSummary,
    Store,
    StoredKey,
    TurnNote,
    now,
)
from pathors_agent.stores.memory import MemoryStore
from pathors_agent.stores.texts import Variables, data_text, message_text

if TYPE_CHECKING:
    from pathors_agent.stores.sql import SQLStore

__all__ = [
    "ANSWER_HOURS",
    "MAX_SEARCH_BYTES",
    "Lease",
    "MemoryStore",
    "OpenedSession",
    "Page",
    "RequestId",
    "RequestRecord",
    "SQLStore",
    "Session",
    "SessionSummary",
    "Store",
    "StoredKey",
    "TurnNote",
    "Variables",
    "data_text",
    "message_text",
    "now",
]


def __getattr__(name: str) -> object:
    # SQLAlchemy is an extra, and takes a quarter of a second to import.
    if name != "SQLStore":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from pathors_agent.stores.sql import SQLStore
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sqlalchemy":
            raise
        raise ModuleNotFoundError(
            "SQLStore needs SQLAlchemy: pip install 'pathors-agent[server]'", name=error.name
        ) from None
    return SQLStore
