"""DBOS, as durable runs use it: its tables, its client, and its private names in one place.

Workflows are carried out by our own workers, so a program may use DBOS itself in the same process
and the same database.
"""

import asyncio
import json
import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from secrets import token_hex
from typing import Any

import sqlalchemy as sa
from dbos import DBOSClient, Serializer

from pathors_agent.errors import ProviderError, RunFailed, StoreError, TransportError, error_text
from pathors_agent.messages import Message
from pathors_agent.stores.base import PROBE_CHARACTERS
from pathors_agent.stores.database import read_url, shown
from pathors_agent.stores.errors import as_store_errors

# The owner of our workflows; other programs may keep workflows in the same database.
APPLICATION = "pathors-agent"
SCHEMA = "dbos"

# A reachable database answers within milliseconds.
CONNECT_SECONDS = 10
# A check that takes longer is a failed one: probes wait a few seconds for it.
CHECK_SECONDS = 5
_CHECK_MS = CHECK_SECONDS * 1000

# PostgreSQL ends a session that leaves a transaction open for so long, and releases its locks: its
# program may be paused.
IDLE_MS = 60_000
_SET_UP = "pathors_agent"

# A worker records many runs at once.
WORKER_CONNECTIONS = 20

_COLUMNS = [
    f"{table}.c.{column}"
    for table, columns in {
        "operation_outputs": "function_id function_name output workflow_uuid",
        "workflow_input": "inputs workflow_uuid",
        "workflow_output": "output workflow_uuid",
        "workflow_status": "application_version completed_at created_at delay_until_epoch_ms"
        " executor_id name output owner_xid priority queue_name queue_partition_key rate_limited"
        " recovery_attempts started_at_epoch_ms status updated_at workflow_uuid",
    }.items()
    for column in columns.split()
]

PRIVATE_NAMES = (
    "_error:DBOSWorkflowConflictIDError",
    "_error:DBOSWorkflowIDInUseError",
    "_migration:get_migration_versions",
    "_migration:get_sqlite_migration_versions",
    "_schemas:SCHEMA_PLACEHOLDER",
    "_schemas.system_database:SystemSchema.metadata_obj.tables",
    *(f"_schemas.system_database:SystemSchema.{column}" for column in _COLUMNS),
    "_sys_db:SystemDatabase._now_ms_sql",
    "_sys_db:SystemDatabase.record_operation_result",
    "_sys_db:SystemDatabase.run_migrations",
    "_sys_db:SystemDatabase.update_last_fired_at",
    "_sys_db:SystemDatabase.update_workflow_outcome",
)
"""All undocumented names of DBOS that are used here: modules of `dbos`, and attributes."""


def private(name: str) -> Any:
    """Return a private object of DBOS; raise `StoreError` if the installed version lacks it."""
    module, _, path = name.partition(":")
    try:
        found: Any = import_module(f"dbos.{module}")
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError):
        raise _unfit(f"dbos.{module}.{path}") from None
    return found


def _unfit(name: str) -> StoreError:
    return StoreError(
        f"The installed dbos {version('dbos')} has no {name}, which durable runs need: install the"
        " version that this version of pathors-agent was made for (pip install"
        " 'pathors-agent[durable]')."
    )


for _name in PRIVATE_NAMES:
    private(_name)

IDInUse: type[Exception] = private("_error:DBOSWorkflowIDInUseError")
LostOwnership: type[Exception] = private("_error:DBOSWorkflowConflictIDError")
_TABLES: Any = private("_schemas.system_database:SystemSchema")
PLACEHOLDER: str = private("_schemas:SCHEMA_PLACEHOLDER")
STATUS: sa.Table = _TABLES.workflow_status
INPUT: sa.Table = _TABLES.workflow_input
OUTPUT: sa.Table = _TABLES.workflow_output
STEPS: sa.Table = _TABLES.operation_outputs


def connect(database: str) -> DBOSClient:
    """Open a database and migrate its engine's tables. Blocks."""
    _silence()
    url = read_url(database)
    with as_store_errors("open the durable runs", shown(url)):
        _check(url)
    client = _client(url)
    try:
        client._sys_db.run_migrations()
    except BaseException:
        client.destroy()
        raise
    return client


def connect_worker(database: str) -> DBOSClient:
    """Open a migrated database for a worker, which handles lost connections by itself. Blocks."""
    return _client(
        read_url(database),
        retry_connection_errors=False,
        system_database_pool_size=WORKER_CONNECTIONS,
    )


async def opened(connect: Callable[[str], DBOSClient], database: str) -> DBOSClient:
    """Connect in a thread; close a client that comes after its caller was cancelled."""
    connecting = asyncio.get_running_loop().run_in_executor(None, connect, database)
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        connecting.add_done_callback(_destroy)
        raise


def _destroy(connected: "asyncio.Future[DBOSClient]") -> None:
    if not connected.cancelled() and connected.exception() is None:
        connected.result().destroy()


def check_writable(database: str) -> None:
    """Raise `StoreError` unless a workflow could be stored now; blocks, and leaves no trace.

    It opens a connection of its own: an open one does not notice a file that was removed, replaced
    or made read-only. SQLite gets a cache of one page, so that a write needs room on the
    disk before the transaction is rolled back.
    """
    url = read_url(database)
    is_sqlite = url.get_backend_name() == "sqlite"
    options: dict[str, Any] = {"connect_args": {"connect_timeout": CHECK_SECONDS}}
    if is_sqlite:
        options = {"creator": partial(_open_file, url.database or "")}
    schemas = {PLACEHOLDER: None if is_sqlite else SCHEMA}
    engine = sa.create_engine(url, poolclass=sa.NullPool, **options)
    engine = engine.execution_options(schema_translate_map=schemas)
    with as_store_errors("store a durable run", shown(url)), engine.connect() as connection:
        bound = (
            "PRAGMA cache_size = 1" if is_sqlite else f"SET LOCAL statement_timeout = {_CHECK_MS}"
        )
        connection.execute(sa.text(bound))
        _try_workflow(connection)
        connection.rollback()


def _try_workflow(connection: sa.Connection) -> None:
    """Write a workflow, and read every table that one needs."""
    connection.execute(
        sa.insert(STATUS).values(
            workflow_uuid=f"check-{token_hex(8)}",
            status="CANCELLED",
            created_at=0,
            updated_at=0,
            inputs="x" * PROBE_CHARACTERS,
        )
    )
    for table in _TABLES.metadata_obj.tables.values():
        connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1))


def _open_file(path: str) -> sqlite3.Connection:
    """Open the file of a database; raise if it does not exist."""
    address = path if path.startswith("file:") else f"{Path(path).absolute().as_uri()}?mode=rw"
    return sqlite3.connect(address, uri=True, timeout=CHECK_SECONDS)


def _client(url: sa.URL, **options: Any) -> DBOSClient:
    client = DBOSClient(
        system_database_url=url.render_as_string(hide_password=False),
        serializer=JSONSerializer(),
        application_name=APPLICATION,
        sys_db_idle_transaction_timeout_sec=0,  # see `_set_up`
        **options,
    )
    if not isinstance(getattr(getattr(client, "_sys_db", None), "engine", None), sa.Engine):
        client.destroy()
        raise _unfit("DBOSClient._sys_db.engine")
    sql(client).hide_parameters = True  # errors would quote what users write
    if url.get_backend_name() == "postgresql":
        sa.event.listen(sql(client), "checkout", _set_up)
    return client


def _set_up(connection: Any, record: Any, _proxy: object) -> None:
    """Set a new connection up: without prepared statements, and bounded between statements.

    A pooler may run each transaction in another session, which other programs use next. So nothing
    is set in a session of a pooler.
    """
    if _SET_UP in record.info:
        return
    record.info[_SET_UP] = True
    connection.prepare_threshold = None
    if not is_pooled(connection):
        connection.execute(f"SET idle_in_transaction_session_timeout = {IDLE_MS}")
    connection.commit()


def is_pooled(connection: Any) -> bool:
    """Return whether a pooler answers, which may share a server's session among its clients."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row is None or row[0] != connection.info.backend_pid


def _silence() -> None:
    """Keep the engine's log off the terminal; a program may add a handler to it."""
    log = logging.getLogger("dbos")
    if not log.handlers:
        log.addHandler(logging.NullHandler())
        log.propagate = False


def _check(url: sa.URL) -> None:
    """Raise if the database cannot be reached, or if a newer DBOS made its tables."""
    if url.get_backend_name() == "sqlite":
        _make_file(Path(url.database or ""))
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        found, known = private("_migration:get_sqlite_migration_versions")(engine)
    else:
        arguments = {"connect_timeout": CONNECT_SECONDS}
        engine = sa.create_engine(url, connect_args=arguments, poolclass=sa.NullPool)
        found, known = private("_migration:get_migration_versions")(engine, SCHEMA, True)  # noqa: FBT003
    if found > known:
        raise StoreError(
            f"The tables of DBOS in the database have version {found}, and the installed dbos"
            f" {version('dbos')} knows {known}: install a newer version of dbos."
        )


def _make_file(path: Path) -> None:
    with suppress(OSError):  # SQLite reports it; the file holds what users wrote
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def sql(client: DBOSClient) -> sa.Engine:
    """Return the connections of a client."""
    return client._sys_db.engine


def now(client: DBOSClient) -> Any:
    """Return the database's clock as SQL, in milliseconds since 1970."""
    return client._sys_db._now_ms_sql()


def note_fired(client: DBOSClient, schedule: str, time: str) -> None:
    """Store the time for which a schedule started a run last. Blocks."""
    client._sys_db.update_last_fired_at(schedule, time)


def record(client: DBOSClient, step: Any, *, ended: int, owner: str) -> None:
    """Store a step; raise `LostOwnership` unless the workflow is still this owner's. Blocks."""
    client._sys_db.record_operation_result(step, completed_at_epoch_ms=ended, owner_xid=owner)


def finish(client: DBOSClient, segment: str, *, output: Any, owner: str) -> bool:
    """Store how a workflow ended; return False unless it was still this owner's. Blocks."""
    text = JSONSerializer().serialize(output)
    return client._sys_db.update_workflow_outcome(
        segment, "SUCCESS", output=text, error=None, owner_xid=owner
    )


# - values in the engine's tables -


def write_failure(error: BaseException) -> dict[str, Any]:
    """Write the failure that stopped a run."""
    retryable = error.retryable if isinstance(error, TransportError) else False
    status = error.status if isinstance(error, ProviderError) else None
    kind = type(error).__name__
    return {"kind": kind, "text": error_text(error), "retryable": retryable, "status": status}


def read_failure(fields: dict[str, Any], messages: tuple[Message, ...] = ()) -> RunFailed:
    """Read what `write_failure` wrote."""
    return RunFailed(
        f"the run stopped: {fields['kind']}: {fields['text']}",
        kind=fields["kind"],
        retryable=fields["retryable"],
        status=fields["status"],
        messages=messages,
    )


class JSONSerializer(Serializer):
    """Stores values as plain JSON: nothing that is read from the database is ever executed."""

    def serialize(self, data: Any) -> str:
        """Write a value."""
        return json.dumps(data, separators=(",", ":"))

    def deserialize(cls, serialized_data: str) -> Any:  # noqa: N805  (so named in the base class)
        """Read a value."""
        return json.loads(serialized_data)

    def name(self) -> str:
        """Name the format in the database."""
        return "pathors_json"
