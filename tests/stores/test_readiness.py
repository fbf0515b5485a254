"""A store says that it is ready only if a turn could be stored now."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from live_server import live
from pathors_agent.errors import StoreError
from pathors_agent.server import Project
from pathors_agent.stores import SQLStore
from pathors_agent.testing import AsyncScriptedTransport

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


TABLES = ("keys", "sessions", "messages", "leases", "requests", "notes", "schema")


def run_sql(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement)


def rows(file: Path) -> dict[str, int]:
    with closing(sqlite3.connect(file)) as other:
        counts = {t: other.execute(f"SELECT count(*) FROM pathors_{t}").fetchone() for t in TABLES}
    return {table: count for table, (count,) in counts.items()}


async def reason(store: SQLStore) -> str:
    with pytest.raises(StoreError) as caught:
        await store.check()
    return str(caught.value)


async def test_checks_leave_nothing_behind(file: Path) -> None:
    async with SQLStore(f"sqlite:///{file}") as store:
        for _ in range(3):
            await store.check()

        assert rows(file) == dict.fromkeys(TABLES, 0) | {"schema": 1}


@pytest.mark.parametrize("table", TABLES)
async def test_store_without_one_of_its_tables_is_not_ready(file: Path, table: str) -> None:
    async with SQLStore(f"sqlite:///{file}") as store:
        await store.check()
        run_sql(file, "PRAGMA foreign_keys = OFF", f"DROP TABLE pathors_{table}")

        assert "the tables are not as this program made them" in await reason(store)


def overwrite(file: Path, start: int) -> None:
    run_sql(file, "PRAGMA wal_checkpoint(TRUNCATE)")
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(start)
        opened.write(b"\xff" * (size - start))


def replace(file: Path) -> None:
    copy = file.with_suffix(".copy")
    shutil.copy(file, copy)
    copy.replace(file)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: overwrite(file, 0), "damaged"),
        (lambda file: overwrite(file, 4096), "damaged"),
        (Path.unlink, "was removed or replaced"),
        (replace, "was removed or replaced"),
    ],
)
async def test_store_whose_file_is_damaged_or_deleted_is_not_ready(
    file: Path, damage: Callable[[Path], None], said: str
) -> None:
    async with SQLStore(f"sqlite:///{file}", timeout=60) as store:
        await store.check()
        damage(file)

        assert said in await reason(store)


async def test_store_that_another_program_holds_locked_is_not_ready(file: Path) -> None:
    async with SQLStore(f"sqlite:///{file}", timeout=0.1) as store:
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")

            assert "holds the database locked" in await reason(store)
        await store.check()


async def test_store_that_may_only_be_read_is_not_ready(file: Path) -> None:
    async with SQLStore(f"sqlite:///{file}"):
        pass
    async with SQLStore(f"sqlite:///file:{file}?mode=ro&uri=true") as store:
        assert "the database is read-only" in await reason(store)


async def test_store_is_ready_again_after_the_fault(file: Path) -> None:
    async with SQLStore(f"sqlite:///{file}") as store:
        run_sql(file, "ALTER TABLE pathors_messages RENAME TO away")
        await reason(store)
        run_sql(file, "ALTER TABLE away RENAME TO pathors_messages")

        await store.check()


def test_server_is_not_ready_while_turns_cannot_be_stored(file: Path) -> None:
    project = Project(id="demo", transport=AsyncScriptedTransport(then="Fine."))
    with live(project, store=SQLStore(f"sqlite:///{file}")) as server:

        def statuses() -> list[int]:
            probes = [f"{server.url}/readyz", f"{server.url}/healthz"]
            return [server.client.get(probe).status_code for probe in probes]

        before = statuses()
        run_sql(file, "ALTER TABLE pathors_messages RENAME TO away")
        meanwhile, turn = statuses(), server.complete("Hi").status_code
        run_sql(file, "ALTER TABLE away RENAME TO pathors_messages")
        after = statuses()

    assert [before, meanwhile, turn, after] == [[200, 200], [503, 200], 503, [200, 200]]


def hidden(file: Path) -> None:
    file.rename(file.with_suffix(".away"))


def brought_back(file: Path) -> None:
    file.with_suffix(".away").rename(file)


def renamed(table: str, to: str) -> Callable[[Path], None]:
    return lambda file: run_sql(file, f"ALTER TABLE {table} RENAME TO {to}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "repair"),
    [
        (renamed("workflow_status", "away"), renamed("away", "workflow_status")),
        (renamed("operation_outputs", "away"), renamed("away", "operation_outputs")),
        (hidden, brought_back),
    ],
    ids=["no table of turns", "no table of steps", "no file"],
)
def test_server_is_not_ready_while_the_database_of_runs_takes_no_turn(
    file: Path, damage: Callable[[Path], None], repair: Callable[[Path], None]
) -> None:
    runs = file.with_name("runs.db")
    project = Project(id="demo", transport=AsyncScriptedTransport(then="Fine."))
    store = SQLStore(f"sqlite:///{file}")
    with live(project, store=store, runs=f"sqlite:///{runs}") as server:

        def ready() -> int:
            return server.client.get(f"{server.url}/readyz").status_code

        before = ready()
        damage(runs)
        meanwhile = ready()
        repair(runs)
        after = ready()
        with closing(sqlite3.connect(runs)) as other:
            (left,) = other.execute("SELECT count(*) FROM workflow_status").fetchone()

    assert [before, meanwhile, after] == [200, 503, 200]
    assert left == 0


@pytest.mark.slow
def test_server_is_not_ready_while_its_database_of_runs_may_only_be_read(
    postgres_url: str, file: Path
) -> None:
    import psycopg

    def execute(statement: str) -> None:
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("SET default_transaction_read_only = off")
            other.execute(statement.encode())

    project = Project(id="demo", transport=AsyncScriptedTransport(then="Fine."))
    with live(project, store=SQLStore(f"sqlite:///{file}"), runs=postgres_url) as server:
        before = server.client.get(f"{server.url}/readyz").status_code
        execute("ALTER ROLE CURRENT_USER SET default_transaction_read_only = on")
        try:
            meanwhile = server.client.get(f"{server.url}/readyz").status_code
        finally:
            execute("ALTER ROLE CURRENT_USER RESET default_transaction_read_only")
        after = server.client.get(f"{server.url}/readyz").status_code

    assert [before, meanwhile, after] == [200, 503, 200]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "repair", "said"),
    [
        (
            "ALTER TABLE pathors_leases RENAME TO away",
            "ALTER TABLE away RENAME TO pathors_leases",
            "the tables are not as this program made them",
        ),
        (
            "ALTER TABLE pathors_messages RENAME TO away",
            "ALTER TABLE away RENAME TO pathors_messages",
            "the tables are not as this program made them",
        ),
        (
            "ALTER ROLE CURRENT_USER SET default_transaction_read_only = on",
            "ALTER ROLE CURRENT_USER RESET default_transaction_read_only",
            "the database is read-only",
        ),
    ],
)
async def test_store_in_postgresql_is_not_ready_while_it_takes_no_turn(
    postgres_url: str, damage: str, repair: str, said: str
) -> None:
    import psycopg

    def execute(statement: str) -> None:
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("SET default_transaction_read_only = off")
            other.execute(statement.encode())

    async with SQLStore(postgres_url) as store:
        await store.check()
    execute(damage)
    try:
        async with SQLStore(postgres_url) as store:
            assert said in await reason(store)
    finally:
        execute(repair)
    async with SQLStore(postgres_url) as store:
        await store.check()
