"""A stand-in for a model, for demonstrations and tests: no language model, only rules."""

from typing import TYPE_CHECKING

from pathors_agent.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathors_agent.offline.transport import AsyncOfflineTransport, OfflineTransport
else:
    __getattr__, __dir__ = lazy_names(
        __name__, {"offline.transport": ("AsyncOfflineTransport", "OfflineTransport")}
    )

__all__ = ["AsyncOfflineTransport", "OfflineTransport"]
