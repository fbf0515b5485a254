"""Where a server keeps sessions, keys and answers."""

from pathors_agent.stores.base import (
    ANSWER_HOURS,
    Lease,
    Page,
    RequestId,
    RequestRecord,
    Session,
    SessionSummary,
    Store,
    StoredKey,
    Variables,
    now,
)
from pathors_agent.stores.memory import MemoryStore
from pathors_agent.stores.texts import data_text

__all__ = [
    "ANSWER_HOURS",
    "Lease",
    "MemoryStore",
    "Page",
    "RequestId",
    "RequestRecord",
    "Session",
    "SessionSummary",
    "Store",
    "StoredKey",
    "Variables",
    "data_text",
    "now",
]
