"""Stores for the sessions, keys and answers of a server."""

from typing import TYPE_CHECKING

from pathors_agent.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathors_agent.stores.base import ANSWER_HOURS, MAX_SEARCH_BYTES, Store
    from pathors_agent.stores.memory import MemoryStore
    from pathors_agent.stores.session_store import LoadedSession, OpenSession, SessionStore
    from pathors_agent.stores.sql import SQLStore
    from pathors_agent.stores.sql_session_store import SQLSessions
    from pathors_agent.stores.texts import Variables, data_text, message_text
    from pathors_agent.stores.values import (
        Lease,
        Omitted,
        OpenedSession,
        Page,
        RequestId,
        RequestRecord,
        Session,
        SessionSummary,
        StoredKey,
        TurnNote,
        now,
    )
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "stores.base": ("ANSWER_HOURS", "MAX_SEARCH_BYTES", "Store"),
            "stores.memory": ("MemoryStore",),
            "stores.session_store": ("LoadedSession", "OpenSession", "SessionStore"),
            "stores.sql": ("SQLStore",),
            "stores.sql_session_store": ("SQLSessions",),
            "stores.texts": ("Variables", "data_text", "message_text"),
            "stores.values": (
                "Lease",
                "Omitted",
                "OpenedSession",
                "Page",
                "RequestId",
                "RequestRecord",
                "Session",
                "SessionSummary",
                "StoredKey",
                "TurnNote",
                "now",
            ),
        },
        extra="sql",
    )

__all__ = [
    "ANSWER_HOURS",
    "MAX_SEARCH_BYTES",
    "Lease",
    "LoadedSession",
    "MemoryStore",
    "Omitted",
    "OpenSession",
    "OpenedSession",
    "Page",
    "RequestId",
    "RequestRecord",
    "SQLSessions",
    "SQLStore",
    "Session",
    "SessionStore",
    "SessionSummary",
    "Store",
    "StoredKey",
    "TurnNote",
    "Variables",
    "data_text",
    "message_text",
    "now",
]
