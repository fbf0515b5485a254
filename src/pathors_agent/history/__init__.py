"""Load, store and trim histories. Pure."""

from typing import TYPE_CHECKING

from pathors_agent.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathors_agent.history.loading import GivenConversation, Prompt
    from pathors_agent.history.trim import AsyncHistory, History, HistoryTail, estimate_tokens
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "history.loading": ("GivenConversation", "Prompt"),
            "history.trim": ("AsyncHistory", "History", "HistoryTail", "estimate_tokens"),
        },
    )

__all__ = [
    "AsyncHistory",
    "GivenConversation",
    "History",
    "HistoryTail",
    "Prompt",
    "estimate_tokens",
]
