"""A turn that is stopped in the middle: its tool cleans up, and its session stays as it was."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from live_server import PATIENCE_SECONDS, live
from pathors_agent import Tool
from pathors_agent.server import Project, ServerSettings
from pathors_agent.stores import MemoryStore, SQLStore, Store
from pathors_agent.testing import AsyncScriptedTransport, calls


class Room:
    """A tool that holds a room, and gives it back while it is being stopped."""

    def __init__(self) -> None:
        self.is_held, self.is_free = threading.Event(), threading.Event()
        self.cancelled = 0

    async def hold(self) -> str:
        """Hold the room."""
        self.is_held.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            for _ in range(20):
                await asyncio.sleep(0)
            self.is_free.set()
            raise
        raise AssertionError("unreachable")


def room_project(room: Room) -> Project:
    called = AsyncScriptedTransport(calls(("hold", {})))
    return Project(id="demo", transport=called, tools=[Tool.from_function(room.hold)])


def test_tool_of_a_turn_whose_client_leaves_is_cancelled_once_and_cleans_up() -> None:
    room = Room()
    with live(room_project(room)) as server:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        with server.client.stream("POST", "/chat/completions", json=body):
            assert room.is_held.wait(PATIENCE_SECONDS)
        assert room.is_free.wait(PATIENCE_SECONDS)

    assert room.cancelled == 1


def test_tool_of_a_turn_that_takes_too_long_is_cancelled_once_and_cleans_up() -> None:
    room = Room()
    with live(room_project(room), settings=ServerSettings(turn_seconds=0.5)) as server:
        answer = server.complete("Hi")

    assert answer.status_code == 504
    assert room.is_free.is_set()
    assert room.cancelled == 1


class Gate:
    """A tool that begins, and ends when it is let go."""

    def __init__(self) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    async def wait(self) -> str:
        """Wait."""
        self.has_begun.set()
        await asyncio.to_thread(self.may_end.wait, PATIENCE_SECONDS)
        return "secret result"


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_session_that_is_deleted_during_its_first_turn_stores_nothing(
    kind: str, tmp_path: Path
) -> None:
    store: Store = MemoryStore() if kind == "memory" else SQLStore(f"sqlite:///{tmp_path}/s.db")
    gate = Gate()
    model = AsyncScriptedTransport(calls(("wait", {})), "secret answer", "Hello again.")
    project = Project(id="demo", transport=model, tools=[Tool.from_function(gate.wait)])
    with live(project, store=store) as server, ThreadPoolExecutor(1) as beside:
        turn = beside.submit(server.complete, "secret question", session="first")
        assert gate.has_begun.wait(PATIENCE_SECONDS)
        ended = server.client.request("DELETE", "/sessions", json={"session_id": "first"})
        gate.may_end.set()
        answer = turn.result(PATIENCE_SECONDS)
        found = server.client.get("/sessions/first")
        listed = server.client.get("/sessions").json()["pagination"]["total"]

        assert ended.json()["success"] is True
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "session_ended"
        assert answer.headers["x-should-retry"] == "false"
        assert "secret" not in answer.text
        assert (found.status_code, listed) == (404, 0)


def test_turn_whose_session_is_deleted_ends_before_its_tool_does() -> None:
    room = Room()
    with (
        live(room_project(room), settings=ServerSettings(lease_seconds=0.3)) as server,
        ThreadPoolExecutor(1) as beside,
    ):
        turn = beside.submit(server.complete, "Hi", session="first")
        assert room.is_held.wait(PATIENCE_SECONDS)
        server.client.request("DELETE", "/sessions", json={"session_id": "first"})
        answer = turn.result(PATIENCE_SECONDS)

        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "session_ended")
        assert room.cancelled == 1
        assert server.client.get("/sessions/first").status_code == 404
