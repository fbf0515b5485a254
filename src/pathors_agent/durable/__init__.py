"""Durable runs: a crash loses nothing and repeats nothing, on one machine or on many."""

try:
    from pathors_agent.durable.agent import DurableAgent
except ModuleNotFoundError as error:
    if error.name in ("croniter", "dbos", "sqlalchemy"):
        error.msg = f"durable runs need {error.name}: pip install 'pathors-agent[durable]'"
    raise
from pathors_agent.durable.batch import BatchLine, read_batch, run_batch, write_batch
from pathors_agent.durable.handle import RunEvent, RunHandle
from pathors_agent.durable.run_list import RunPage, RunStatus, RunSummary
from pathors_agent.durable.schedules import Schedule
from pathors_agent.durable.tables import DoubtfulCall
from pathors_agent.durable.worker import Heartbeat
from pathors_agent.errors import BatchRefused, RunExists, RunFailed, RunNotFound

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
