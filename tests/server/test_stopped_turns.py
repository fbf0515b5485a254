"""A tool of a served turn that is stopped is cancelled once, and has time to clean up."""

import asyncio
import threading

from live_server import PATIENCE_SECONDS, live
from pathors_agent import Tool
from pathors_agent.server import Project, ServerSettings
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
