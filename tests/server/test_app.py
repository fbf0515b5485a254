"""The app around the endpoints: mounted elsewhere, its keys, its store away, its bugs told."""

import hashlib
import hmac
import logging
import re
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from live_server import live, on_loop, project
from pathors_agent import AsyncAgent
from pathors_agent.errors import SessionConflict, StoreError
from pathors_agent.offline import AsyncOfflineTransport
from pathors_agent.server import Project, ServerSettings, create_app, make_key
from pathors_agent.server.http.keys import KNOWN_SECONDS
from pathors_agent.stores import (
    Lease,
    MemoryStore,
    OpenedSession,
    RequestId,
    Session,
    SQLSessions,
    SQLStore,
    Store,
    StoredKey,
)
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, answer
from pathors_agent.transports.base import AsyncResponse, AsyncTransport, Request

pytestmark = pytest.mark.filterwarnings("error")

# Only a test that hangs waits so long.
LONG = 60.0


# - keys -


def test_key_is_32_random_bytes_in_base62_and_stored_as_a_digest() -> None:
    text, stored = make_key("demo", name="laptop")
    other, _ = make_key("demo")

    assert re.fullmatch(r"sk_[0-9A-Za-z]{43}", text)
    assert text != other
    assert stored.digest == hashlib.sha256(text.encode()).hexdigest()
    assert (stored.prefix, stored.last_four) == (text[:7], text[-4:])
    assert stored.name == "laptop"
    assert text not in repr(stored)
    assert stored.digest not in repr(stored)


def test_revoked_key_is_refused_within_a_second() -> None:
    assert KNOWN_SECONDS <= 1
    with live(project("one")) as server:
        assert server.complete("Hi").status_code == 200
        (key,) = on_loop(server.app, server.store.keys("demo"))
        assert on_loop(server.app, server.store.revoke_key("demo", key.id))

        async def until_refused() -> None:
            with anyio.fail_after(LONG):
                while server.client.get("/sessions").status_code == 200:
                    await anyio.lowlevel.checkpoint()

        anyio.run(until_refused)
        assert server.client.get("/sessions").status_code == 401


class Asked(MemoryStore):
    """A store that counts how often it is asked for a key, and waits for its word to answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.may_answer = anyio.Event()

    async def find_key(self, digest: str) -> StoredKey | None:
        self.asked += 1
        await self.may_answer.wait()
        return await super().find_key(digest)


def test_burst_of_requests_asks_the_store_for_its_key_once() -> None:
    async def burst() -> tuple[set[int], int]:
        store = Asked()
        text, key = make_key("demo")
        await store.add_key(key)
        app = create_app([project()], store)
        transport = httpx2.ASGITransport(app=app)
        statuses = []
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:

            async def ask() -> None:
                headers = {"Authorization": f"Bearer {text}"}
                answered = await client.get("/v1/projects/demo/sessions", headers=headers)
                statuses.append(answered.status_code)

            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                store.may_answer.set()
        await app.state.runtime.stop()
        return set(statuses), store.asked

    assert anyio.run(burst) == ({200}, 1)


class FindsAnyKey(MemoryStore):
    """A store that compares as some databases do: by the beginning, or not by case."""

    async def find_key(self, digest: str) -> StoredKey | None:
        return next(iter(self._keys.values()), None)


def test_key_is_compared_whatever_the_store_found_and_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[Any, Any]] = []
    constant_time = hmac.compare_digest

    def compare(one: Any, other: Any) -> bool:
        compared.append((one, other))
        return constant_time(one, other)

    with live(project("one"), store=FindsAnyKey()) as server:
        monkeypatch.setattr(hmac, "compare_digest", compare)
        other, _ = make_key("demo")
        digests = [hashlib.sha256(key.encode()).hexdigest() for key in (server.key, other)]

        assert server.client.get("/sessions").status_code == 200
        wrong = {"Authorization": f"Bearer {other}"}
        assert server.client.get("/sessions", headers=wrong).status_code == 401

    assert compared == [(digests[0], digests[0]), (b"demo", b"demo"), (digests[0], digests[1])]


def test_use_of_a_key_is_noted() -> None:
    with live(project()) as server:
        server.client.get("/sessions")

        (key,) = on_loop(server.app, server.store.keys("demo"))
        assert key.last_used_at is not None
        assert key.last_used_at >= key.created_at


@pytest.mark.parametrize("given", [None, ScriptedTransport("Hello."), "http://127.0.0.1:1/v1"])
def test_project_without_an_async_transport_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="transport= takes AsyncTransport, not "):
        Project(id="demo", transport=given)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("id", 5, "Project.id takes str, not int"),
        ("instructions", ["Be brief."], "Project.instructions takes str or NoneType, not list"),
        ("model", 5, "model= is an int"),
        ("options", 5, "options= is an int"),
        ("limits", 5, "limits= is an int"),
        ("history", 5, "history= is an int"),
        ("budget", 5, "budget= is an int"),
        ("tools", 5, "tools= takes a list of tools, not int"),
    ],
)
def test_setting_of_a_project_of_another_kind_is_refused(
    name: str, value: Any, wanted: str
) -> None:
    with pytest.raises(TypeError, match=wanted):
        Project(**{"id": "demo", "transport": AsyncScriptedTransport(), name: value})


@pytest.mark.parametrize("given", [None, "sqlite:///app.db", SQLSessions("sqlite:///app.db")])
def test_app_without_a_store_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="create_app takes Store, not "):
        create_app([project()], given)


def test_app_of_other_objects_than_projects_is_refused() -> None:
    agents: list[Any] = [AsyncAgent(AsyncScriptedTransport())]

    with pytest.raises(TypeError, match="create_app takes Project, not AsyncAgent"):
        create_app(agents, MemoryStore())


def test_two_projects_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="two projects have the id 'demo'"):
        create_app([project(), project()], MemoryStore())


# - mounted -


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
def test_app_works_inside_another_app_that_sends_no_lifespan_events(kind: Any) -> None:
    store = MemoryStore()
    text, key = make_key("demo")
    app = create_app([project("Hello!")], store)
    outer = kind(routes=[Mount("/agents", app)])

    async def ask() -> httpx2.Response:
        await store.add_key(key)
        transport = httpx2.ASGITransport(app=outer)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            answered = await client.post(
                "/agents/v1/projects/demo/chat/completions",
                headers={"Authorization": f"Bearer {text}"},
                json={"messages": [{"role": "user", "content": "Hi"}]},
            )
        await app.state.runtime.stop()
        return answered

    answered = anyio.run(ask)
    assert answered.json()["choices"][0]["message"]["content"] == "Hello!"


def test_app_that_was_stopped_is_started_again_by_another_loop() -> None:
    store = MemoryStore()
    app = create_app([Project(id="demo", transport=AsyncOfflineTransport())], store)
    key, stored = make_key("demo")
    anyio.run(store.add_key, stored)

    async def ask() -> int:
        transport = httpx2.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            answered = await client.post(
                "/v1/projects/demo/chat/completions",
                json={"messages": [{"role": "user", "content": "Hi"}], "session_id": "s1"},
                headers={"Authorization": f"Bearer {key}"},
            )
            return answered.status_code

    assert [anyio.run(ask), anyio.run(ask)] == [200, 200]


def test_status_405_lists_all_methods_of_an_address() -> None:
    with live(project()) as server:
        refused = server.client.put("/sessions")

        assert refused.status_code == 405
        assert refused.headers["allow"] == "DELETE, GET, HEAD, POST"


def test_older_address_is_marked_under_a_mount_too() -> None:
    app = create_app([project()], MemoryStore())
    outer = Starlette(routes=[Mount("/agents", app)])

    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=outer)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            answered = await client.get("/agents/project/demo/session/s1")
        await app.state.runtime.stop()
        return answered

    answered = anyio.run(ask)
    assert (answered.status_code, answered.headers["deprecation"]) == (401, "true")


# - what goes wrong -


class Away(MemoryStore):
    """A store whose database cannot be reached, for some of its methods."""

    def __init__(self, *methods: str) -> None:
        super().__init__()
        for name in methods:
            setattr(self, name, self._fail)

    async def _fail(self, *_: object, **__: object) -> Any:
        raise StoreError("no connection to postgresql://canary:secret@host")


@pytest.mark.parametrize(
    "method", ["find_key", "take_lease", "session", "save_turn", "begin_request"]
)
def test_unreachable_store_is_a_503_that_can_be_retried(method: str) -> None:
    store: Store = Away(method)
    with live(project("one"), store=store) as server:
        failed = server.complete("Hi", session="s1", headers={"Idempotency-Key": "k"})

        assert failed.status_code == 503
        assert failed.headers["retry-after"] == "1"
        assert "canary" not in failed.text
        if method in ("take_lease", "session", "begin_request"):
            assert server.app.state.runtime.projects["demo"].transport.requests == []
        else:
            server.app.state.runtime.projects["demo"].transport.requests.append({})


@pytest.mark.slow
def test_durable_turn_that_cannot_be_stored_is_a_503_that_can_be_sent_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = f"sqlite:///{tmp_path}/sessions.db"
    with live(project("Hello."), store=SQLStore(database), runs=database) as server:
        with sqlite3.connect(tmp_path / "sessions.db") as connection:
            connection.execute(
                "CREATE TRIGGER full BEFORE INSERT ON workflow_status"
                " BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
            )
            failed = server.complete("my canary", session="s1")
            connection.execute("DROP TRIGGER full")
        connection.close()
        again = server.complete("my canary", session="s1")

        assert (failed.status_code, failed.headers["retry-after"]) == (503, "1")
        assert "x-should-retry" not in failed.headers
        assert (again.status_code, len(server.stored("s1"))) == (200, 2)
    assert "could not store a durable turn" in caplog.text.lower()
    assert "canary" not in caplog.text


def test_readiness_fails_while_the_store_is_unreachable() -> None:
    with live(project(), store=Away("check")) as server:
        assert server.client.get(f"{server.url}/readyz").status_code == 503
        assert server.client.get(f"{server.url}/healthz").status_code == 200


class Broken(MemoryStore):
    async def session(self, project: str, session_id: str) -> Session:
        raise RuntimeError("canary text of a user")

    async def find_key(self, digest: str) -> StoredKey | None:
        return await super().find_key(digest)


def test_bug_is_logged_with_its_class_and_place_which_the_client_never_reads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pathors_agent")
    with live(project(), store=Broken()) as server:
        in_turn = server.complete("Hi")
        elsewhere = server.client.get("/sessions/s1")

    assert [in_turn.status_code, elsewhere.status_code] == [500, 500]
    assert in_turn.json() == elsewhere.json()
    assert "RuntimeError" in caplog.text
    assert "test_app.py" in caplog.text
    assert "canary" not in caplog.text


def test_stores_failure_after_the_answer_began_is_an_event() -> None:
    script = (answer("Hello, you", chunk_size=5),)
    with live(project(*script), store=Away("save_turn")) as server:
        streamed = server.complete("Hi", stream=True)

        assert streamed.status_code == 200
        assert '"type":"unavailable_error"' in streamed.text
        assert "[DONE]" not in streamed.text


class TakenOver(MemoryStore):
    """A store in which another process has taken every session over by the end of its turn."""

    forgotten = 0

    async def save_turn(self, *_: object, **__: object) -> Any:
        raise SessionConflict("another writer was first")

    async def forget_request(self, request: RequestId) -> None:
        self.forgotten += 1


class KeepsNoLease(MemoryStore):
    """A store in which another process takes every session over while its turn runs."""

    async def keep_lease(self, lease: Lease, *, seconds: float) -> bool:
        return False


class NeverAnswers(AsyncTransport):
    @asynccontextmanager
    async def send(self, request: Request) -> AsyncGenerator[AsyncResponse]:
        await anyio.sleep_forever()
        yield AsyncResponse(status=200, pieces=None)  # type: ignore[arg-type]  # never


def test_turn_whose_session_is_taken_over_ends_though_its_model_is_silent() -> None:
    settings = ServerSettings(lease_seconds=0.3)
    waiting = Project(id="demo", transport=NeverAnswers())
    with live(waiting, settings=settings, store=KeepsNoLease()) as server:
        assert server.complete("Hi", session="s1").status_code == 409


class Transactions(MemoryStore):
    """A store that records the transactions of turns."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    async def take_lease(self, *names: str, **more: Any) -> Lease | None:
        self.names.append("lease")
        return await super().take_lease(*names, **more)

    async def open_session(self, *names: str, **more: Any) -> OpenedSession | None:
        self.names.append("open")
        return await super().open_session(*names, **more)

    async def save_turn(self, *values: Any, **more: Any) -> Session:
        self.names.append("save")
        return await super().save_turn(*values, **more)

    async def drop_lease(self, lease: Lease) -> None:
        self.names.append("drop")
        await super().drop_lease(lease)


@pytest.mark.parametrize(
    ("asked", "transactions"),
    [
        ({}, ["save"]),
        ({"stream": True}, ["lease", "save"]),  # nothing is stored under a new id
        ({"session": "s1"}, ["open", "lease", "save"]),
        ({"headers": {"Idempotency-Key": "k"}}, ["open", "lease", "save"]),
    ],
)
def test_turn_takes_a_lease_only_if_another_request_can_know_its_session(
    asked: dict[str, Any], transactions: list[str]
) -> None:
    store = Transactions()
    with live(project("one"), store=store) as server:
        assert server.complete("Hi", **asked).status_code == 200

    assert [name for name in store.names if name != "drop"] == transactions


def test_request_of_a_session_that_was_taken_over_is_left_to_its_new_owner() -> None:
    store = TakenOver()
    with live(project("one"), store=store) as server:
        lost = server.complete("Hi", session="s1", headers={"Idempotency-Key": "k"})

        assert lost.status_code == 409
        assert store.forgotten == 0
