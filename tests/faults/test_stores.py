"""What becomes of a database, before the whole server: 503 while it lasts, then all is well."""

import resource
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from command_line import bearer, serving, until
from live_server import Live, events, live, on_loop
from pathors_agent import tool
from pathors_agent.core.conversation import Conversation
from pathors_agent.server import Project, create_app
from pathors_agent.stores import SQLStore
from pathors_agent.stores.database import Connection
from pathors_agent.testing import AsyncScriptedTransport, calls
from pathors_agent.wire.messages import read_message
from postgres import find_programs, restartable_server

pytestmark = pytest.mark.slow

LONG = 50.0
UNAVAILABLE = "Sessions cannot be read or written now"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


def project(*script: Any, tools: Any = ()) -> Project:
    return Project(id="demo", transport=AsyncScriptedTransport(*script, then="Fine."), tools=tools)


def check_unavailable(answer: httpx2.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["type"] == "unavailable_error"


def said(server: Live, session: str = "s1") -> list[str]:
    """What the session holds: whole turns, or the test fails."""
    stored = [read_message(message) for message in server.stored(session)]
    assert Conversation(stored).open_calls == ()
    assert stored[-1].role == "assistant"
    return [message.text for message in stored if message.role == "user"]


# - locked, read-only, damaged: the file of SQLite -


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def read_only(file: Path) -> Iterator[None]:
    """Let SQLite refuse to write, as it does on a disk that is mounted read-only."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        for table in TABLES:
            other.execute(
                f"CREATE TRIGGER no_{table} BEFORE INSERT ON {table}"
                " BEGIN SELECT RAISE(ABORT, 'canary'); END"
            )
        yield
        for table in TABLES:
            other.execute(f"DROP TRIGGER no_{table}")


TABLES = ("pathors_leases", "pathors_messages", "pathors_sessions")


@contextmanager
def without_messages(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("ALTER TABLE pathors_messages RENAME TO elsewhere")
        yield
        other.execute("ALTER TABLE elsewhere RENAME TO pathors_messages")


@pytest.mark.parametrize("fault", [locked, read_only, without_messages])
def test_turn_is_refused_while_the_file_cannot_be_written_and_taken_afterwards(
    fault: Any, file: Path
) -> None:
    store = SQLStore(f"sqlite:///{file}", timeout=0.2)
    with live(project(), store=store) as server:
        server.complete("before", session="s1")
        with fault(file):
            for stream in (False, True):
                check_unavailable(server.complete("meanwhile", session="s1", stream=stream))
        assert server.complete("after", session="s1").status_code == 200
        assert said(server) == ["before", "after"]


def test_turn_whose_end_cannot_be_stored_is_refused_and_its_repeat_runs_no_tool_again(
    file: Path,
) -> None:
    runs: list[str] = []
    begun, may_end = threading.Event(), threading.Event()

    @tool
    def work(what: str) -> str:
        """Work."""
        runs.append(what)
        begun.set()
        assert may_end.wait(LONG)
        return "worked"

    asked = calls(("work", {"what": "x"}))
    store = SQLStore(f"sqlite:///{file}", timeout=0.2)
    with live(project(asked, "One.", tools=[work]), store=store) as server:
        answers: list[httpx2.Response] = []
        named = {"Idempotency-Key": "k1"}

        def ask() -> None:
            answers.append(server.complete("go", session="s1", headers=named))

        asking = threading.Thread(target=ask)
        asking.start()
        assert begun.wait(LONG)
        with locked(file):
            may_end.set()
            asking.join(LONG)
            check_unavailable(answers[0])
        # The request is not forgotten as long as the file is locked: its time has to be over.
        on_loop(server.app, forget_time(store))
        assert server.client.get("/sessions/s1").status_code == 404
        again = [server.complete("go", session="s1", headers=named) for _ in range(2)]

        assert [answer.status_code for answer in again] == [200, 200]
        assert again[0].content == again[1].content
        assert said(server) == ["go"]
        # The call was begun, and what it gave could not be kept: it is not made again.
        assert runs == ["x"]


async def forget_time(store: SQLStore) -> None:
    """Let what was held by the turn that failed be over."""

    def pass_time(connection: Connection) -> None:
        for table in ("pathors_leases", "pathors_requests"):
            connection.execute(f"UPDATE {table} SET until = 0")

    await store._database.run("write", "pass the time", pass_time)


def test_file_on_a_disk_mounted_read_only_is_read_and_not_written(file: Path) -> None:
    with live(project(), store=SQLStore(f"sqlite:///{file}")) as server:
        server.complete("before", session="s1")
        key = server.key
    read_only_store = SQLStore(f"sqlite:///file:{file}?mode=ro&uri=true", timeout=LONG)
    with reopened(read_only_store, key) as server:
        assert said(server) == ["before"]
        check_unavailable(server.complete("meanwhile", session="s1"))
        assert server.client.get(f"{server.url}/readyz").status_code == 503


@contextmanager
def reopened(store: SQLStore, key: str) -> Iterator[Live]:
    """Serve from a store that has a key already."""
    with live(project(), store=store, key=key) as server:
        yield server


def test_damaged_pages_are_a_503_and_sessions_on_others_are_served(file: Path) -> None:
    with live(project(), store=SQLStore(f"sqlite:///{file}")) as server:
        for number in range(60):
            server.complete("x" * 2000, session=f"s{number}")
        key = server.key
    content = file.read_bytes()
    somewhere = content.index(b"x" * 1000, len(content) // 2)
    place = somewhere & ~4095  # the start of its page
    file.write_bytes(content[:place] + b"\xff" * 4096 + content[place + 4096 :])

    with reopened(SQLStore(f"sqlite:///{file}"), key) as server:
        statuses = {f"s{n}": server.client.get(f"/sessions/s{n}") for n in range(60)}
        damaged = [answer for answer in statuses.values() if answer.status_code != 200]
        assert 1 <= len(damaged) <= 4
        for answer in damaged:
            check_unavailable(answer)
        assert server.complete("new", session="new").status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_server_on_tables_of_a_newer_version_takes_nothing(file: Path) -> None:
    async with SQLStore(f"sqlite:///{file}"):
        pass
    with closing(sqlite3.connect(file)) as other:
        other.execute("UPDATE pathors_schema SET version = 99")
        other.commit()
    app = create_app([project()], SQLStore(f"sqlite:///{file}"))
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app), base_url="http://here", headers=bearer("sk_x")
    ) as client:
        for path in ("/readyz", "/v1/projects/demo/sessions"):
            check_unavailable(await client.get(path))


def test_turns_continue_after_the_clock_was_set_back_an_hour(file: Path) -> None:
    store = SQLStore(f"sqlite:///{file}", timeout=LONG)
    with live(project(), store=store) as server:
        named = {"Idempotency-Key": "k1"}
        first = server.complete("before", session="s1", headers=named)
        with closing(sqlite3.connect(file)) as other:
            # A holder that died just then, too.
            other.execute(
                "INSERT INTO pathors_leases (project, session_id, holder, until, span)"
                " SELECT 'demo', 's1', 'dead', max(updated_at) + 30000, 30000 FROM pathors_sessions"
            )
            for table, column in TIMES:
                other.execute(f"UPDATE {table} SET {column} = {column} + 3600000")
            other.commit()

        after = server.complete("after", session="s1")
        repeated = server.complete("before", session="s1", headers=named)
        shown = server.client.get("/sessions/s1").json()

        assert after.status_code == 200
        assert repeated.content == first.content
        assert said(server) == ["before", "after"]
        assert shown["updatedAt"] >= shown["createdAt"]


TIMES = (
    ("pathors_sessions", "created_at"),
    ("pathors_sessions", "updated_at"),
    ("pathors_leases", "until"),
    ("pathors_requests", "until"),
    ("pathors_keys", "created_at"),
)

# - a disk that is full -


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux's")
def test_full_disk_refuses_turns_and_loses_none(file: Path) -> None:
    url = f"sqlite:///{file}"
    with serving(url) as server:
        key, pid = server.key("demo"), server.process.pid
        taken: list[str] = []

        def ask(text: str) -> int:
            answer = server.ask(text, key=key, session="s1")
            if answer.status == 200 and "[DONE]" in answer.body:
                taken.append(text)
                return 200
            assert answer.status == 503 or '"error"' in answer.body, answer
            return 503

        assert ask("before") == 200
        size = max(path.stat().st_size for path in file.parent.iterdir())
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 30_000, -1))
        statuses = [ask(f"{number} " + "y" * 3000) for number in range(30)]
        assert statuses.count(503) >= 10
        assert server.get("/readyz").status == 503
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        until(lambda: ask("after") == 200)
        assert server.get("/readyz").status == 200
        path = "/v1/projects/demo/sessions/s1"
        stored = httpx2.get(server.url + path, headers=bearer(key)).json()["data"]["messages"]

    messages = [read_message(message) for message in stored]
    assert Conversation(messages).open_calls == ()
    assert [m.text for m in messages if m.role == "user"] == taken
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# - a database that is stopped and started -


@dataclass
class Asked:
    """Requests made side by side, and what was answered."""

    server: Live
    statuses: dict[str, int]
    lock: threading.Lock

    def turns(self, session: str, count: int) -> None:
        for number in range(count):
            text, stream = f"{session}/{number}", number % 2 == 1
            answer = self.server.complete(text, session=session, stream=stream)
            with self.lock:
                self.statuses[text] = status_of(answer, stream=stream)


def status_of(answer: httpx2.Response, *, stream: bool) -> int:
    """Return the status, or the status in the event of an error in a stream."""
    if answer.status_code == 503:
        check_unavailable(answer)
    elif stream and events(answer.text)[-1] != "[DONE]":
        assert events(answer.text)[-1]["error"]["message"] == UNAVAILABLE
        return 503
    return answer.status_code


def test_postgresql_is_stopped_and_started_in_the_middle_of_turns() -> None:
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL's programs are not installed")
    begun, may_end = threading.Semaphore(0), threading.Event()

    @tool
    def work(what: str) -> str:
        """Work."""
        begun.release()
        assert may_end.wait(LONG)
        return "worked"

    script = [calls(("work", {"what": "x"}))] * 4
    with restartable_server(programs) as database:
        store = SQLStore(database.server.url(), timeout=LONG)
        with live(project(*script, tools=[work]), store=store) as server:
            asked = Asked(server, {}, threading.Lock())
            tasks = [threading.Thread(target=asked.turns, args=(f"s{n}", 3)) for n in range(4)]
            for task in tasks:
                task.start()
            for _ in tasks:
                assert begun.acquire(timeout=LONG)
            # Four turns are in their tools.
            database.stop()
            may_end.set()
            for task in tasks:
                task.join(LONG)
            away = dict(asked.statuses)
            assert server.client.get(f"{server.url}/readyz").status_code == 503
            assert server.client.get(f"{server.url}/healthz").status_code == 200
            database.start()
            until(lambda: server.client.get(f"{server.url}/readyz").status_code == 200)
            for number in range(4):
                asked.turns(f"s{number}", 3)
            stored = {f"s{n}": said(server, f"s{n}") for n in range(4)}

    assert set(away.values()) == {503}
    assert len(away) == 12
    # Each turn that was answered is there, once and whole, and nothing else.
    assert set(asked.statuses.values()) == {200}
    assert stored == {f"s{n}": [f"s{n}/{number}" for number in range(3)] for n in range(4)}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_store_that_could_not_be_opened_is_opened_when_it_is_there(file: Path) -> None:
    app = create_app([project()], SQLStore(f"sqlite:///{file.parent}/later/sessions.db"))
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
        statuses = [(await client.get(path)).status_code for path in ("/readyz", "/healthz")]
        (file.parent / "later").mkdir()
        statuses += [(await client.get(path)).status_code for path in ("/readyz", "/healthz")]
    await app.state.runtime.stop()

    assert statuses == [503, 200, 200, 200]
