"""Connections: heads of every size, and clients that end their side or all of it while they wait."""

import asyncio
import itertools
import json
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.http.h11_impl import H11Protocol

import live_server
from live_server import PATIENCE_SECONDS, Live, live
from pathors_agent.server import Project
from pathors_agent.server.running import connections
from pathors_agent.server.running.connections import MAX_HEAD_BYTES
from pathors_agent.transports.base import AsyncResponse, AsyncTransport, Request

# uvicorn takes httptools and uvloop where they are installed.
EACH_PROTOCOL = pytest.mark.parametrize("http", [H11Protocol, AutoHTTPProtocol], indirect=True)


@pytest.fixture
def http(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[asyncio.Protocol]:
    """Return a protocol; servers run on the event loop that is installed with it."""
    protocol: type[asyncio.Protocol] = request.param
    if protocol is AutoHTTPProtocol and find_spec("uvloop"):
        monkeypatch.setattr(live_server, "loop_factory", import_module("uvloop").new_event_loop)
    return protocol


REPLY = b'data: {"choices": [{"delta": {"content": "Hello!"}, "finish_reason": "stop"}]}\n\n'


class Waiting(AsyncTransport):
    """A model that answers when it may, after `begun` pieces; it notes whether it was cancelled."""

    def __init__(self) -> None:
        self.asked, self.cancelled = threading.Event(), threading.Event()
        self.may_answer = threading.Event()

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncGenerator[AsyncResponse]:
        self.asked.set()
        try:
            await anyio.to_thread.run_sync(self.may_answer.wait, abandon_on_cancel=True)
        except BaseException:
            self.cancelled.set()
            raise

        async def pieces() -> AsyncGenerator[bytes]:
            yield REPLY
            yield b"data: [DONE]\n\n"

        yield AsyncResponse(status=200, pieces=pieces())


def request(server: Live, *, version: str = "1.1", **fields: Any) -> bytes:
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], **fields}).encode()
    head = (
        f"POST /v1/projects/demo/chat/completions HTTP/{version}\r\nHost: x\r\n"
        f"Authorization: Bearer {server.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@contextmanager
def asked(server: Live, model: Waiting, sent: bytes) -> Iterator[socket.socket]:
    """Hold the connection of a client whose model is asked."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS) as connection:
        connection.sendall(sent)
        assert model.asked.wait(PATIENCE_SECONDS)
        yield connection


def to_end(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


# - clients that end their side -


@EACH_PROTOCOL
@pytest.mark.parametrize("stream", [False, True])
def test_client_that_only_ended_its_side_gets_its_answer(
    http: type[asyncio.Protocol], *, stream: bool
) -> None:
    model = Waiting()
    with (
        live(Project(id="demo", transport=model), http=http) as server,
        asked(server, model, request(server, stream=stream)) as connection,
    ):
        connection.shutdown(socket.SHUT_WR)
        # The server noticed: it asks the client whether it is there.
        first = connection.recv(65536)
        model.may_answer.set()
        received = first + to_end(connection)

    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b"Hello!" in received
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") is stream
    assert not model.cancelled.is_set()


@EACH_PROTOCOL
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_client_that_left_ends_its_turn(
    http: type[asyncio.Protocol], version: str, *, stream: bool
) -> None:
    model = Waiting()
    with live(Project(id="demo", transport=model), http=http) as server:
        with asked(server, model, request(server, version=version, stream=stream)):
            pass
        try:
            assert model.cancelled.wait(PATIENCE_SECONDS)
        finally:
            model.may_answer.set()


@EACH_PROTOCOL
def test_client_that_left_a_begun_stream_ends_its_turn(http: type[asyncio.Protocol]) -> None:
    model = Begun()
    with live(Project(id="demo", transport=model), http=http) as server:
        with asked(server, model, request(server, stream=True)) as connection:
            received = b""
            while b"Hel" not in received:
                received += connection.recv(65536)
        try:
            assert model.cancelled.wait(PATIENCE_SECONDS)
        finally:
            model.may_answer.set()


@EACH_PROTOCOL
def test_client_that_ended_its_side_of_a_begun_stream_gets_the_rest(
    http: type[asyncio.Protocol],
) -> None:
    model = Begun()
    with (
        live(Project(id="demo", transport=model), http=http) as server,
        asked(server, model, request(server, stream=True)) as connection,
    ):
        received = b""
        while b"Hel" not in received:
            received += connection.recv(65536)
        connection.shutdown(socket.SHUT_WR)
        while b": ping" not in received:
            received += connection.recv(65536)
        model.may_answer.set()
        received += to_end(connection)

    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert not model.cancelled.is_set()


class Begun(Waiting):
    """A model that begins to answer, and ends its answer when it may."""

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncGenerator[AsyncResponse]:
        async def pieces() -> AsyncGenerator[bytes]:
            yield b'data: {"choices": [{"delta": {"content": "Hel"}}]}\n\n'
            self.asked.set()
            try:
                await anyio.to_thread.run_sync(self.may_answer.wait, abandon_on_cancel=True)
            except BaseException:
                self.cancelled.set()
                raise
            yield REPLY
            yield b"data: [DONE]\n\n"

        yield AsyncResponse(status=200, pieces=pieces())


# Python shares the names of so many attributes among the objects of a class. An object with more
# has a dict of its own, which takes 1.5 KB.
SHARED_NAMES = 30


@EACH_PROTOCOL
def test_limits_leave_the_attributes_of_a_connection_shared(http: type[asyncio.Protocol]) -> None:
    connections: list[asyncio.Protocol] = []

    def connection_made(self: asyncio.Protocol, transport: asyncio.BaseTransport) -> None:
        connections.append(self)
        http.connection_made(self, transport)

    noted = type("Noted", (http,), {"connection_made": connection_made})
    model = Waiting()
    with (
        live(Project(id="demo", transport=model), http=noted) as server,
        asked(server, model, request(server)),
    ):
        names = [len(vars(connection)) for connection in connections]
        model.may_answer.set()

    assert names
    assert max(names) <= SHARED_NAMES


# - heads -


def head_of(size: int) -> bytes:
    """Write the head of a request with so many bytes before the empty line."""
    begin = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Fill: "
    return begin + b"a" * (size - len(begin) - 2) + b"\r\n\r\n"


@EACH_PROTOCOL
@pytest.mark.parametrize("piece", [1_000, 20_000, 1_000_000])
@pytest.mark.parametrize(
    ("size", "status"), [(MAX_HEAD_BYTES, b"200"), (MAX_HEAD_BYTES + 1, b"431")]
)
def test_heads_are_read_up_to_the_limit(
    http: type[asyncio.Protocol], size: int, status: bytes, piece: int
) -> None:
    sent = head_of(size)
    with (
        live(Project(id="demo", transport=Waiting()), http=http) as server,
        socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS) as connection,
    ):
        for at in range(0, len(sent), piece):
            connection.sendall(sent[at : at + piece])
        received = to_end(connection)

    assert received.startswith(b"HTTP/1.1 " + status)
    if status == b"431":
        error = json.loads(received.partition(b"\r\n\r\n")[2])["error"]
        assert error["message"] == "The headers are larger than 65536 bytes"


@EACH_PROTOCOL
def test_head_without_an_end_is_refused(http: type[asyncio.Protocol]) -> None:
    with (
        live(Project(id="demo", transport=Waiting()), http=http) as server,
        socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS) as connection,
    ):
        connection.sendall(head_of(3 * MAX_HEAD_BYTES)[:-4])
        received = to_end(connection)

    assert received.startswith(b"HTTP/1.1 431 ")


# - offers of another protocol, which Java's clients make in every plain request -

OFFERS = [
    b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c\r\n",
    b"upgrade:h2c\r\nUPGRADE: websocket\r\nConnection: upgrade\r\n",
]


@EACH_PROTOCOL
@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_body_behind_an_offer_of_another_protocol_is_read(
    http: type[asyncio.Protocol], offer: bytes, *, is_chunked: bool
) -> None:
    model = Waiting()
    model.may_answer.set()
    with (
        live(Project(id="demo", transport=model), http=http) as server,
        socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS) as connection,
    ):
        head, _, body = request(server).partition(b"\r\n\r\n")
        if is_chunked:
            head = head.partition(b"\r\nContent-Length")[0] + b"\r\nTransfer-Encoding: chunked"
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        for _ in range(2):  # the second one on the same connection
            connection.sendall(head + b"\r\n" + offer + b"\r\n" + body)
            received = connection.recv(65536)
            while not received.endswith(b"}}"):
                received += connection.recv(65536)

            assert received.startswith(b"HTTP/1.1 200 OK\r\n")


class Recorder(asyncio.Protocol):
    """Stands for uvicorn's protocol: keeps what it is given, and never begins to answer."""

    def __init__(self) -> None:
        self.cycle = None
        self.received = b""

    def data_received(self, data: bytes) -> None:
        assert data, "h11 reads no bytes as the end of the connection"
        self.received += data


HEADS = st.lists(
    st.sampled_from(
        [
            b"Upgrade: h2c\r\n",
            b"UPGRADE:x\r\n",
            b"X-Upgrade: y\r\n",
            b"Up: upgrade: z\r\n",
            b"U: \r\n",
        ]
    ),
    max_size=5,
)


@given(HEADS, st.lists(st.integers(1, 200), max_size=12))
def test_offers_are_left_out_of_a_head_however_it_is_cut(
    lines: list[bytes], cuts: list[int]
) -> None:
    begin, rest = b"POST /upgrade: HTTP/1.1\r\n", b"\r\n\nupgrade: this is the body\r\n"
    sent = begin + b"".join(lines) + rest
    kept = [line for line in lines if not line.lower().startswith(b"upgrade:")]
    places = [0, *sorted({cut for cut in cuts if cut < len(sent)}), len(sent)]

    async def received() -> bytes:
        made: Any = connections.limited_protocol(Recorder)()
        made.connection_made(asyncio.Transport())
        for start, end in itertools.pairwise(places):
            made.data_received(sent[start:end])
        made.connection_lost(None)
        return bytes(made.received)

    assert asyncio.run(received()) == begin + b"".join(kept) + rest


# - bodies that nothing reads -

EARLY = [
    (b"POST /v1/projects/demo/chat/completions", b"401"),
    (b"POST /nowhere", b"404"),
    (b"GET /healthz", b"200"),
]


@contextmanager
def answered_early(server: Live, line: bytes, status: bytes) -> Iterator[socket.socket]:
    """Hold a connection whose request is answered before its body comes."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS) as connection:
        connection.sendall(line + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        received = b""
        while not received.endswith(b"}"):
            received += connection.recv(65536)
        assert received.startswith(b"HTTP/1.1 " + status)
        yield connection


@EACH_PROTOCOL
@pytest.mark.parametrize(("line", "status"), EARLY)
@pytest.mark.parametrize("bound", ["MAX_UNREAD_BYTES", "UNREAD_SECONDS"])
def test_connection_is_closed_at_the_bounds_of_a_body_that_was_answered(
    http: type[asyncio.Protocol],
    line: bytes,
    status: bytes,
    bound: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, bound, 2**20 if bound == "MAX_UNREAD_BYTES" else 0.1)
    with (
        live(Project(id="demo", transport=Waiting()), http=http) as server,
        answered_early(server, line, status) as connection,
    ):
        if bound == "UNREAD_SECONDS":
            connection.sendall(b"1\r\nx\r\n")
            assert connection.recv(65536) == b""
        else:  # the kernel takes a few pieces that the server has not seen
            with pytest.raises(OSError, match=r"reset|Broken pipe"):
                connection.sendall((b"100000\r\n" + b"x" * 2**20 + b"\r\n") * 64)


@EACH_PROTOCOL
def test_connection_is_kept_if_a_body_that_was_answered_ends(http: type[asyncio.Protocol]) -> None:
    with (
        live(Project(id="demo", transport=Waiting()), http=http) as server,
        answered_early(server, *EARLY[1]) as connection,
    ):
        connection.sendall(b"1\r\nx\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")

        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
