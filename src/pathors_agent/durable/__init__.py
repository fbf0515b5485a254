"""Durable runs: no crash loses a recorded call or repeats it, on one machine or on many."""

from typing import TYPE_CHECKING

from pathors_agent.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathors_agent.durable.agent import DurableAgent
    from pathors_agent.durable.batch import BatchLine, read_batch, run_batch, write_batch
    from pathors_agent.durable.handle import RunEvent, RunHandle
    from pathors_agent.durable.run_list import RunPage, RunStatus, RunSummary
    from pathors_agent.durable.schedules import Schedule
    from pathors_agent.durable.tables import DoubtfulCall
    from pathors_agent.durable.worker import Heartbeat
    from pathors_agent.errors import BatchRefused, RunExists, RunFailed, RunNotFound
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "durable.agent": ("DurableAgent",),
            "durable.batch": ("BatchLine", "read_batch", "run_batch", "write_batch"),
            "durable.handle": ("RunEvent", "RunHandle"),
            "durable.run_list": ("RunPage", "RunStatus", "RunSummary"),
            "durable.schedules": ("Schedule",),
            "durable.tables": ("DoubtfulCall",),
            "durable.worker": ("Heartbeat",),
            "errors": ("BatchRefused", "RunExists", "RunFailed", "RunNotFound"),
        },
        extra="durable",
    )

__all__ = [
    "BatchLine",
    "BatchRefused",
    "DoubtfulCall",
    "DurableAgent",
    "Heartbeat",
    "RunEvent",
    "RunExists",
    "RunFailed",
    "RunHandle",
    "RunNotFound",
    "RunPage",
    "RunStatus",
    "RunSummary",
    "Schedule",
    "read_batch",
    "run_batch",
    "write_batch",
]
