"""A stand-in for a model, for demonstrations and tests: no language model, only rules."""

from pathors_agent.offline.transport import AsyncOfflineTransport, OfflineTransport

__all__ = ["AsyncOfflineTransport", "OfflineTransport"]
