"""DBOS, as durable runs use it: opened quietly, and the few parts of it that have no public name."""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSClient
from dbos._context import current_owner_xid
from dbos._error import (
    DBOSWorkflowCancelledError,
    DBOSWorkflowConflictIDError,
    DBOSWorkflowIDInUseError,
)
from dbos._schemas import SCHEMA_PLACEHOLDER
from dbos._schemas.system_database import SystemSchema

from pathors_agent.durable.records import JSONSerializer
from pathors_agent.errors import StoreError
from pathors_agent.stores.database import read_url, shown
from pathors_agent.stores.errors import as_store_errors
from pathors_agent.stores.sql import PROBE_CHARACTERS

__all__ = ["IDInUse", "LostOwnership", "connect", "launch", "owns", "reenqueue", "stop"]

# Whose workflows and queues these are, where other programs keep theirs in the same database.
APPLICATION = "pathors-agent"

# A database that runs answers within milliseconds; a machine that is gone, never.
CONNECT_SECONDS = 10
# A check that takes longer is a failed one: probes wait a few seconds for it.
CHECK_SECONDS = 5
_CHECK_MS = CHECK_SECONDS * 1000
# The engine's own choice.
_POSTGRESQL_SCHEMA = "dbos"

IDInUse = DBOSWorkflowIDInUseError
LostOwnership = (DBOSWorkflowCancelledError, DBOSWorkflowConflictIDError)

STATUS: sa.Table = SystemSchema.workflow_status
INPUT: sa.Table = SystemSchema.workflow_input
OUTPUT: sa.Table = SystemSchema.workflow_output
STEPS: sa.Table = SystemSchema.operation_outputs

Workflow = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


def sync_url(text: str) -> sa.URL:
    """Read a database's URL, for drivers that block."""
    url = read_url(text)
    return url.set(drivername="sqlite") if url.get_backend_name() == "sqlite" else url


def connect(database: str) -> DBOSClient:
    """Open a database, made ready for this version of the engine; blocks."""
    _silence()
    url = sync_url(database)
    with as_store_errors("open the durable runs", shown(url)):
        _check(url)
    text = url.render_as_string(hide_password=False)
    DBOS.migrate(text)
    return DBOSClient(
        system_database_url=text, serializer=JSONSerializer(), application_name=APPLICATION
    )


def check_writable(database: str) -> None:
    """Raise `StoreError` unless a workflow could be stored now; blocks, and leaves no trace.

    It opens a connection of its own: an open one does not notice a file that was removed, replaced
    or made read-only. SQLite gets a cache of one page, so that what is written needs room on the
    disk before the transaction is rolled back.
    """
    url = sync_url(database)
    is_sqlite = url.get_backend_name() == "sqlite"
    options: dict[str, Any] = {"connect_args": {"connect_timeout": CHECK_SECONDS}}
    if is_sqlite:
        options = {"creator": partial(_open_file, url.database or "")}
    schemas = {SCHEMA_PLACEHOLDER: None if is_sqlite else _POSTGRESQL_SCHEMA}
    engine = sa.create_engine(url, poolclass=sa.NullPool, **options)
    engine = engine.execution_options(schema_translate_map=schemas)
    with (
        as_store_errors("store a durable run", shown(url)),
        engine.connect() as connection,
    ):
        bound = (
            "PRAGMA cache_size = 1" if is_sqlite else f"SET LOCAL statement_timeout = {_CHECK_MS}"
        )
        connection.execute(sa.text(bound))
        _try_workflow(connection)
        connection.rollback()


def _try_workflow(connection: sa.Connection) -> None:
    """Write a workflow, and read every table that one needs."""
    connection.execute(
        sa.insert(SystemSchema.workflow_status).values(
            workflow_uuid=f"check-{token_hex(8)}",
            status="CANCELLED",
            created_at=0,
            updated_at=0,
            inputs="x" * PROBE_CHARACTERS,
        )
    )
    for table in SystemSchema.metadata_obj.tables.values():
        connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1))


def _open_file(path: str) -> sqlite3.Connection:
    """Open a database's file; make none if it is absent."""
    address = path if path.startswith("file:") else f"{Path(path).absolute().as_uri()}?mode=rw"
    return sqlite3.connect(address, uri=True, timeout=CHECK_SECONDS)


def _silence() -> None:
    """Keep the engine's log from the terminal; whoever wants it adds a handler to it."""
    log = logging.getLogger("dbos")
    if not log.handlers:
        log.addHandler(logging.NullHandler())
        log.propagate = False


def _check(url: sa.URL) -> None:
    """Raise where the database cannot be reached: the engine itself would try for ever."""
    if url.get_backend_name() == "sqlite":
        _make_file(Path(url.database or ""))
        return
    engine = sa.create_engine(
        url, connect_args={"connect_timeout": CONNECT_SECONDS}, poolclass=sa.NullPool
    )
    with engine.connect():
        pass


def _make_file(path: Path) -> None:
    with suppress(OSError):  # SQLite says it; what people say to a model is nobody else's
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def launch(
    workflow: Workflow, *, name: str, database: str, version: str, worker: str, queue: str
) -> Workflow:
    """Start the engine in this process; its workflows run on the event loop that is running.

    Gives the workflow as the engine knows it.
    """
    if worker_of_this_process():
        raise StoreError(
            "This process runs durable agents already: one engine is all that DBOS allows."
        )
    DBOS(
        config={
            "name": APPLICATION,
            "system_database_url": sync_url(database).render_as_string(hide_password=False),
            "application_version": version,
            "executor_id": worker,
            "serializer": JSONSerializer(),
            "enable_otlp": False,
            "run_migrations": False,
            # Nothing is waited for through it here; a stop waits for one turn of it.
            "notification_listener_polling_interval_sec": 0.1,
        }
    )
    started: Workflow = DBOS.workflow(name=name)(workflow)
    DBOS.listen_queues([queue])
    DBOS.launch()
    return started


def worker_of_this_process() -> str | None:
    """Name the worker that runs in this process."""
    from dbos._dbos import _dbos_global_instance

    return None if _dbos_global_instance is None else DBOS.executor_id


async def stop(*, seconds: int) -> None:
    """Stop the engine; running workflows have so long to end."""
    loop = asyncio.get_running_loop()
    # The engine has made its own threads the loop's, and ends them: the loop needs others.
    threads = ThreadPoolExecutor(thread_name_prefix="asyncio")
    destroy = partial(DBOS.destroy, destroy_registry=True, workflow_completion_timeout_sec=seconds)
    await loop.run_in_executor(threads, destroy)
    loop.set_default_executor(threads)


def owns(client: DBOSClient, segment: str) -> bool:
    """Tell whether the execution that asks still owns its workflow."""
    return client._sys_db.get_workflow_owner(segment) == current_owner_xid(segment)


def reenqueue(client: DBOSClient, segment: str, *, worker: str, queue: str) -> bool:
    """Give a running workflow back to its queue if it is still this worker's.

    From then on nothing that the worker records for it is taken.
    """
    return client._sys_db.reenqueue_for_recovery(segment, [worker], queue)


def sql(client: DBOSClient) -> sa.Engine:
    """The connections of a client."""
    return client._sys_db.engine
