"""The client of endpoints that keep sessions: the session API."""

from typing import TYPE_CHECKING

from pathors_agent.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathors_agent.sessions.answers import NewSession, SessionEntry, SessionPage, SessionRecord
    from pathors_agent.sessions.client import AsyncEndpointSessions, EndpointSessions
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "sessions.answers": ("NewSession", "SessionEntry", "SessionPage", "SessionRecord"),
            "sessions.client": ("AsyncEndpointSessions", "EndpointSessions"),
        },
    )

__all__ = [
    "AsyncEndpointSessions",
    "EndpointSessions",
    "NewSession",
    "SessionEntry",
    "SessionPage",
    "SessionRecord",
]
