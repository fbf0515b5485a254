"""Clients that go away at each step of a request: nothing is stored, nothing goes on, nothing is held."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio
import pytest

from command_line import until
from live_server import Live, live, on_loop
from pathors_agent import AsyncHTTPTransport, tool
from pathors_agent.server import Project, ServerSettings
from pathors_agent.stores import MemoryStore
from servers import STALL, ScriptedServer, chunk, head

HEAD = head(Content_Type="text/event-stream", Transfer_Encoding="chunked")


def said(delta: dict[str, Any], reason: str | None = None) -> bytes:
    """Write a model's event."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return chunk(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())


CALL = {"index": 0, "id": "call_1", "type": "function"}
CALLED = CALL | {"function": {"name": "wait_for_ever", "arguments": "{}"}}
ANSWER = [HEAD, said({"content": "Hello!"}, "stop"), chunk(b"data: [DONE]\n\n"), chunk(b"")]

began, ended = threading.Event(), threading.Event()


@tool(timeout=None)
async def wait_for_ever() -> str:
    """Wait."""
    began.set()
    try:
        await anyio.sleep_forever()
    finally:
        ended.set()
    return "never"


class Waiting(MemoryStore):
    """A store whose methods wait when they are told to, as those of a far database do."""

    def __init__(self, *slow: str) -> None:
        super().__init__()
        self.reached = anyio.Event()
        for name in slow:
            setattr(self, name, partial(self._wait, getattr(self, name)))

    async def _wait(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if not self.reached.is_set():
            self.reached.set()
            await anyio.sleep_forever()
        return await method(*arguments, **named)


def request(server: Live, *, stream: bool = True, name: str = "k1") -> bytes:
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": stream})
    return (
        f"POST /v1/projects/demo/chat/completions HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {server.key}\r\nContent-Type: application/json\r\n"
        f"Idempotency-Key: {name}\r\nX-Session-ID: s1\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


@contextmanager
def served(
    store: MemoryStore, *scripts: Any, turns: int = 1
) -> Iterator[tuple[Live, ScriptedServer]]:
    """Serve so few turns at a time that a place which is not given back is missed."""
    upstream = ScriptedServer(*scripts)
    transport = AsyncHTTPTransport(upstream.url, api_key="")
    one = Project(id="demo", transport=transport, tools=[wait_for_ever])
    settings = ServerSettings(turns_per_key=turns, queue_length=1, lease_seconds=60.0)
    with live(one, settings=settings, store=store) as server:
        yield server, upstream
    upstream.stop()


def check_nothing_is_left(server: Live, *, stream: bool = True) -> None:
    """The same request is answered, in the session as it was: its place, lease and name are free."""
    check_answered(server, stream=stream)
    assert [message["content"] for message in server.stored("s1")] == ["Hi", "Hello!"]


def check_answered(server: Live, *, stream: bool = True) -> None:
    """The same request is answered: place, lease and name are free."""
    received = until(lambda: answer_when_free(server, request(server, stream=stream)))
    assert received.startswith(b"HTTP/1.1 200 ")


def answer_when_free(server: Live, again: bytes) -> bytes | None:
    """Send the request again; None as long as the server has not seen its client leave."""
    last = again.replace(b"\r\nHost: x\r\n", b"\r\nHost: x\r\nConnection: close\r\n")
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
        connection.sendall(last)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    return None if received.startswith(b"HTTP/1.1 409 ") else received


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_client_that_leaves_in_its_request_is_forgotten(part: float) -> None:
    with served(MemoryStore(), ANSWER) as (server, upstream):
        whole = request(server)
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(whole[: int(len(whole) * part)])

        check_nothing_is_left(server)
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("step", ["begin_request", "take_lease", "session", "save_turn"])
def test_client_that_leaves_while_the_store_works_leaves_nothing(step: str, stream: bool) -> None:
    store = Waiting(step)
    with served(store, ANSWER, ANSWER) as (server, _):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(request(server, stream=stream))
            on_loop(server.app, store.reached.wait())

        check_nothing_is_left(server, stream=stream)


FIRST = said({"role": "assistant", "content": "Hel"})


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "script",
    [[STALL], [HEAD, STALL], [HEAD, FIRST, STALL], [HEAD, said({"tool_calls": [CALLED]}), STALL]],
    ids=["head", "first delta", "next delta", "end of a call"],
)
def test_client_that_leaves_ends_the_model_call(script: list[Any], stream: bool) -> None:
    with served(MemoryStore(), script, ANSWER) as (server, upstream):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(request(server, stream=stream))
            upstream.wait_for_requests(1)
            if stream and FIRST in script:
                read_until(connection, b"Hel")

        upstream.wait_until_clients_left()
        check_nothing_is_left(server, stream=stream)


def test_client_that_leaves_ends_the_tool_that_runs_and_it_is_not_run_again() -> None:
    began.clear()
    ended.clear()
    called = [HEAD, said({"tool_calls": [CALLED]}, "tool_calls"), chunk(b"")]
    with served(MemoryStore(), called, ANSWER) as (server, _):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(request(server))
            assert began.wait(20)
            assert not ended.is_set()

        assert ended.wait(20)
        assert server.client.get("/sessions/s1").status_code == 404
        began.clear()
        check_answered(server)
        roles = [message["role"] for message in server.stored("s1")]
        assert roles == ["user", "assistant", "tool", "assistant"]
        assert server.stored("s1")[2]["content"].startswith("Outcome unknown: ")
        assert not began.is_set()


@pytest.mark.parametrize(("waits_for", "turns"), [("a place", 1), ("the session", 2)])
def test_client_that_leaves_while_it_waits_is_out_of_the_queue(waits_for: str, turns: int) -> None:
    script = [HEAD, FIRST, STALL]
    with served(MemoryStore(), script, ANSWER, turns=turns) as (server, upstream):
        with socket.create_connection(("127.0.0.1", server.port)) as running:
            running.sendall(request(server, name="other"))
            read_until(running, b"Hel")
            with socket.create_connection(("127.0.0.1", server.port)) as waiting:
                waiting.sendall(request(server))
                until(lambda: turns_of(server) == 2)
            until(lambda: turns_of(server) == 1)

        check_nothing_is_left(server)
        assert len(upstream.requests) == 2


def turns_of(server: Live) -> int:
    """How many turns run or wait, as the server counts them; asked after it answered another."""
    assert server.client.get(f"{server.url}/healthz").status_code == 200
    gates = server.app.state.runtime.services.admission._gates
    return max((gate.requests for gate in gates.values()), default=0)


def read_until(connection: socket.socket, text: bytes) -> None:
    received = b""
    while text not in received:
        piece = connection.recv(65536)
        assert piece, received
        received += piece
