"""Hostile and broken clients before a server that runs as a process, on raw sockets."""

import json
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from command_line import PATIENCE_SECONDS, Server, bearer, serving, until
from live_server import published
from pathors_agent.server import make_key
from pathors_agent.stores import SQLStore

pytestmark = pytest.mark.slow

MODELS = """
import asyncio
from contextlib import asynccontextmanager
from json import dumps
from pathlib import Path
from uuid import uuid4

from pathors_agent import AsyncResponse, AsyncTransport

END = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\\n\\n'


def event(text):
    return b"data: " + dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\\n\\n"


class Spoken(AsyncTransport):
    @asynccontextmanager
    async def send(self, request):
        headers = {"content-type": "text/event-stream"}
        yield AsyncResponse(status=200, headers=headers, pieces=self.pieces())


class Short(Spoken):
    async def pieces(self):
        yield event("Hello!") + END


class Held(Spoken):
    async def pieces(self):
        yield event("Hel")
        await asyncio.Event().wait()


class Flood(Spoken):
    async def pieces(self):
        try:
            for _ in range(PIECES):
                yield event("x" * SIZE)
                await asyncio.sleep(0)
            yield END
        finally:
            (Path(__file__).parent / f"left-{uuid4()}").touch()
"""
# What a flood says, and who does not read it: 160 MB in all.
PIECES, SIZE, READERS = 200, 100_000, 8

SETTINGS = """
[server]
max_body_bytes = 100_000
body_seconds = 1
write_seconds = 1
queue_seconds = 0.5
grace_seconds = 0.5
"""
PROJECTS = ("short", "held", "flood")
MAX_BODY = 100_000


@dataclass
class Bad:
    """A server for bad clients, and the keys of its projects."""

    server: Server
    folder: Path
    keys: dict[str, str] = field(repr=False)

    def head(
        self,
        method: str = "POST",
        path: str = "/chat/completions",
        *,
        project: str = "short",
        length: int | None = None,
        **headers: str,
    ) -> bytes:
        """Write the head of a request; `x_y="z"` is the header X-Y."""
        named = {"host": "x", **{n.lower(): v for n, v in bearer(self.keys[project]).items()}}
        named |= {} if length is None else {"content-length": str(length)}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{name}: {value}" for name, value in named.items() if value]
        request = f"{method} /v1/projects/{project}{path} HTTP/1.1"
        return "\r\n".join([request, *lines, "", ""]).encode("latin-1")

    def request(self, body: bytes, **named: Any) -> bytes:
        return self.head(length=len(body), **named) + body

    @contextmanager
    def connected(self, sent: bytes = b"") -> Iterator[socket.socket]:
        address = ("127.0.0.1", self.server.port)
        with socket.create_connection(address, PATIENCE_SECONDS) as connection:
            connection.sendall(sent)
            yield connection

    def answer(self, sent: bytes) -> "Raw":
        with self.connected(sent) as connection:
            return read_answer(connection)

    @property
    def is_healthy(self) -> bool:
        return self.server.get("/healthz").status == 200

    @property
    def is_draining(self) -> bool:
        return self.server.get("/readyz").status == 503

    @property
    def left_floods(self) -> int:
        """How many floods came to an end."""
        return len(list(self.folder.glob("left-*")))

    def sessions(self, project: str = "short") -> list[str]:
        """The ids of all sessions."""
        raw = self.answer(self.head("GET", "/sessions?pageSize=200", project=project))
        return [session["sessionId"] for session in raw.json["data"]]


@dataclass(frozen=True)
class Raw:
    """An answer as it came over the wire."""

    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.split(b" ")[1])

    @property
    def names(self) -> set[bytes]:
        return {line.partition(b":")[0].lower() for line in self.head.splitlines()[1:]}

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def undated(self) -> bytes:
        """Return what does not name this very answer, by its time or its id."""
        own = (b"date:", b"x-request-id:")
        lines = [line for line in self.head.splitlines() if not line.lower().startswith(own)]
        return b"\n".join([*lines, self.body])


def read_answer(connection: socket.socket) -> Raw:
    """Read one answer with a length; what follows it fails the test."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [
        int(line.partition(b":")[2])
        for line in head.splitlines()
        if line.lower().startswith(b"content-length:")
    ]
    while lengths and len(body) < lengths[0]:
        body += connection.recv(65536)
    assert not lengths or len(body) == lengths[0], body
    return Raw(head, body)


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the server closes or cuts the connection."""
    received = []
    try:
        while piece := connection.recv(1 << 20):
            received.append(piece)
    except ConnectionError:
        pass
    return b"".join(received)


@contextmanager
def bad_clients_of(folder: Path) -> Iterator[Bad]:
    (folder / "models_of_faults.py").write_text(f"{MODELS}\nPIECES, SIZE = {PIECES}, {SIZE}\n")
    tables = [f'[projects.{p}]\ntransport = "models_of_faults:{p.title()}"\n' for p in PROJECTS]
    (folder / "projects.toml").write_text("\n".join([SETTINGS, *tables]))
    database = f"sqlite:///{folder}/sessions.db"
    with serving(database, "--config", str(folder / "projects.toml")) as server:
        yield Bad(server, folder, anyio.run(make_keys, database))


async def make_keys(database: str) -> dict[str, str]:
    """Build a key for each project, one that is revoked, and one of a project that is not served."""
    made = {}
    async with SQLStore(database) as store:
        for name in (*PROJECTS, "revoked", "gone"):
            made[name], key = make_key("short" if name == "revoked" else name)
            await store.add_key(key)
            if name == "revoked":
                await store.revoke_key("short", key.id)
    return made


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bad]:
    with bad_clients_of(tmp_path_factory.mktemp("faults")) as made:
        yield made


HELLO = b'{"messages": [{"role": "user", "content": "Hi"}]}'
STREAM = b'{"messages": [{"role": "user", "content": "Hi"}], "stream": true}'


# - keys -

ENDPOINTS = [
    ("POST", "/chat/completions"),
    ("POST", "/sessions"),
    ("POST", "/sessions/search"),
    ("DELETE", "/sessions"),
    ("GET", "/sessions"),
    ("GET", "/sessions/s1"),
]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_every_wrong_key_gets_the_same_bytes_before_a_body_is_read(
    bad: Bad, method: str, path: str
) -> None:
    right = bad.keys["short"]
    wrong: list[tuple[str, str]] = [
        ("short", ""),
        ("short", "Bearer"),
        ("short", f"Basic {right}"),
        ("short", right),
        ("short", f"Bearer sk_{'a' * 43}"),
        ("short", f"Bearer {right}a"),
        ("short", f"Bearer {right[:-1]}"),
        ("short", f"Bearer {right.swapcase()}"),
        ("short", f"Bearer {'k' * 5000}"),
        ("short", "Bearer \xe9"),
        ("short", f"Bearer {bad.keys['revoked']}"),
        ("short", f"Bearer {bad.keys['held']}"),
        ("gone", f"Bearer {right}"),
        ("gone", f"Bearer {bad.keys['gone']}"),
        ("nothing", f"Bearer {right}"),
    ]
    bad.keys["nothing"] = ""
    answers = []
    for project, authorization in wrong:
        # A body is announced and never sent: who wanted to read it would say 100, and wait.
        head = bad.head(
            method, path, project=project, length=10**9, authorization=authorization, expect=EXPECT
        )
        answers.append(bad.answer(head))

    assert {raw.status for raw in answers} == {401}
    assert len({raw.undated for raw in answers}) == 1
    error = answers[0].json["error"]
    assert (error["message"], error["type"]) == ("Invalid authentication", "authentication_error")
    assert bad.answer(bad.head("GET")).status == 405  # the right key, at the same address


EXPECT = "100-continue"


# - ids of sessions -

EVIL = "s1\r\nX-Evil: 1\r\n\r\nHTTP/1.1 200 OK"


@pytest.mark.parametrize(
    "value", ["a\rX-Evil: 1", "a\r\n X-Evil: 1", "a\0b", "a\x7fb", "a b", "\xe9", "x" * 256, "\t"]
)
@pytest.mark.parametrize("name", ["x_session_id", "idempotency_key"])
def test_id_in_a_header_is_no_way_to_write_headers(bad: Bad, name: str, value: str) -> None:
    before = bad.sessions()
    raw = bad.answer(bad.request(HELLO, **{name: value}))

    assert raw.status == 400
    assert b"x-evil" not in raw.names
    assert bad.sessions() == before


@pytest.mark.parametrize("written", ["s1%0d%0aX-Evil:%201", "s1%0aX-Evil:%201", "s1%0D", "s%00"])
def test_id_in_a_path_is_no_way_to_write_headers(bad: Bad, written: str) -> None:
    raw = bad.answer(bad.head("GET", f"/sessions/{written}"))

    assert raw.status == 400
    assert b"x-evil" not in raw.names


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("POST", "/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("POST", "/sessions", {}),
        ("DELETE", "/sessions", {}),
    ],
)
def test_id_in_a_body_is_no_way_to_write_headers(
    bad: Bad, method: str, path: str, more: dict[str, Any]
) -> None:
    body = json.dumps({"session_id": EVIL, **more}).encode()
    raw = bad.answer(bad.request(body, method=method, path=path))

    assert raw.status == 400
    assert b"x-evil" not in raw.names
    assert b"200 OK" not in raw.head


# - bodies -


def deep(levels: int) -> bytes:
    return b'{"messages": ' + b"[" * levels + b"]" * levels + b"}"


TWICE = b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}'


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"x" * (MAX_BODY + 1), 413, "The body is larger than 100000 bytes"),
        (deep(65), 400, "The body is nested deeper than 64 levels"),
        (deep(40_000), 400, "The body is nested deeper than 64 levels"),
        (HELLO.decode().encode("utf-16"), 400, "The body is not UTF-8 (byte 0)"),
        (HELLO.decode().encode("utf-16-le"), 400, "The body is not JSON"),
        (HELLO.replace(b"Hi", b"\xed\xa0\x80"), 400, "The body is not UTF-8 (byte 43)"),
        (HELLO.replace(b"Hi", b"\0"), 400, "The body is not JSON"),
        (HELLO + b"\0", 400, "The body is not JSON"),
        (HELLO + HELLO, 400, "The body is not JSON"),
        (TWICE, 400, "The body has a field twice"),
        (b'{"n": ' + b"1" * 5000 + b"}", 400, "The body is not JSON"),
        (b'{"temperature": -1e999}', 400, "The body is not JSON"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_body_is_reported_and_changes_nothing(
    bad: Bad, body: bytes, status: int, said: str
) -> None:
    before = bad.sessions()
    raw = bad.answer(bad.request(body))

    assert raw.status == status
    assert raw.json["error"]["message"].startswith(said)
    schema = published("ErrorResponse")
    if schema is not None:
        schema.validate(raw.json)
    assert bad.sessions() == before


@pytest.mark.parametrize("written", ["\\ud800", "\\u0000", "\\udc00\\ud800", "\\u2028\\r\\n\\n"])
def test_odd_characters_are_kept_within_their_text(bad: Bad, written: str) -> None:
    body = STREAM.replace(b"Hi", b"a" + written.encode() + b"data: [DONE]")
    with bad.connected(bad.request(body, x_session_id="odd", connection="close")) as connection:
        received = read_to_end(connection)
    shown = bad.answer(bad.head("GET", "/sessions/odd")).json["data"]["messages"]
    ended = bad.request(b'{"session_id": "odd"}', method="DELETE", path="/sessions")

    assert received.count(b"[DONE]") == 1
    assert received.isascii()
    assert [message["role"] for message in shown] == ["user", "assistant"]
    assert shown[0]["content"].startswith("a")
    assert shown[0]["content"].endswith("data: [DONE]")
    assert bad.answer(ended).status == 200


def test_too_large_body_is_refused_before_it_arrives(bad: Bad) -> None:
    raw = bad.answer(bad.head(length=MAX_BODY + 1, expect=EXPECT))

    assert raw.status == 413
    assert b"connection: close" in raw.head.lower()


def test_chunked_body_too_large_is_refused_at_the_limit(bad: Bad) -> None:
    piece = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    with bad.connected(bad.head(transfer_encoding="chunked")) as connection:
        connection.sendall(piece * (MAX_BODY // 0x1000 + 1))
        assert read_answer(connection).status == 413


def test_body_that_stops_is_waited_for_no_longer_than_the_limit(bad: Bad) -> None:
    raw = bad.answer(bad.head(length=len(HELLO)) + HELLO[:10])

    assert raw.status == 408
    assert raw.json["error"]["message"] == "The body did not arrive within 1 s"


@pytest.mark.parametrize(
    "sent",
    [
        b"content-length: 49\r\ncontent-length: 50\r\n\r\n" + HELLO,
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n31\r\n" + HELLO + b"\r\n0\r\n\r\n",
        b"content-length: -1\r\n\r\n" + HELLO,
        b"content-length: 49x\r\n\r\n" + HELLO,
        b"transfer-encoding: chunked\r\n\r\nxyz\r\n" + HELLO,
        b"transfer-encoding: chunked\r\n\r\n-31\r\n" + HELLO,
    ],
    ids=["two", "both", "negative", "no number", "no size", "negative size"],
)
def test_wrong_length_runs_no_turn_and_hides_no_second_request(bad: Bad, sent: bytes) -> None:
    before = bad.sessions()
    hidden = bad.request(HELLO, x_session_id="hidden")
    with bad.connected(bad.head().removesuffix(b"\r\n") + sent + hidden) as connection:
        received = read_to_end(connection)

    assert received.count(b"HTTP/1.1 400 ") == received.count(b"HTTP/1.1 ") == 1
    assert bad.sessions() == before


def test_length_that_is_too_short_cuts_the_body(bad: Bad) -> None:
    before = bad.sessions()
    with bad.connected(bad.head(length=10) + HELLO) as connection:
        raw = read_answer_and_rest(connection)

    assert raw.startswith(b"HTTP/1.1 400 ")
    assert bad.sessions() == before


def read_answer_and_rest(connection: socket.socket) -> bytes:
    connection.shutdown(socket.SHUT_WR)
    return read_to_end(connection)


# - many, and slow -


def peak_memory(server: Server) -> int:
    """The most memory that the process had at once, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system tells no peaks")
def test_clients_that_do_not_read_cost_little_memory_and_are_abandoned(bad: Bad) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(bad.connected()) for _ in range(READERS)]
        before = peak_memory(bad.server)
        for connection in connections:
            connection.sendall(bad.request(STREAM, project="flood"))
        until(lambda: bad.is_healthy and bad.left_floods == READERS)
        grown = peak_memory(bad.server) - before
        received = [read_to_end(connection) for connection in connections]

    # Without back-pressure it were all that the models say, and more than once.
    assert grown < PIECES * SIZE * READERS / 2
    assert not any(b"[DONE]" in stream for stream in received)
    assert bad.sessions("flood") == []


MANY = 500


def test_hundreds_of_requests_are_answered_or_refused_while_health_works(bad: Bad) -> None:
    request = bad.request(STREAM, project="held")
    with ExitStack() as stack:
        connections = [stack.enter_context(bad.connected()) for _ in range(MANY)]
        for connection in connections:
            connection.sendall(request)
        statuses = Counter(read_head(connection) for connection in connections)
        healthy = bad.is_healthy

    # As many turns as one key may have at once; the others were told when to come again.
    assert statuses == {(200, False): 64, (429, True): MANY - 64}
    assert healthy
    assert until(lambda: bad.answer(bad.request(HELLO)).status) == 200
    assert bad.sessions("held") == []


def read_head(connection: socket.socket) -> tuple[int, bool]:
    """Read the head of an answer; return its status, and whether it says when to come again."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    raw = Raw(received.partition(b"\r\n\r\n")[0], b"")
    return raw.status, b"retry-after" in raw.names


# - the end -


@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_ends_a_server_among_the_worst_of_clients(tmp_path: Path, times: int) -> None:
    with bad_clients_of(tmp_path) as bad, ExitStack() as stack:
        sent = [
            b"",
            b"POST /v1/projects",
            bad.head(length=1000) + b"{",
            bad.head("GET", "/sessions"),
            bad.request(STREAM, project="flood"),
        ]
        clients = [stack.enter_context(bad.connected(each)) for each in sent]
        watched = stack.enter_context(bad.connected(bad.request(STREAM, project="held")))
        begun = watched.recv(65536)

        bad.server.signal()
        if times == 2:
            until(lambda: bad.answer(bad.head("GET")).status == 405 and bad.is_draining)
            bad.server.signal()
        status, said = bad.server.end()
        last = read_to_end(watched)
        assert clients

    assert begun.startswith(b"HTTP/1.1 200 OK")
    assert status == (0 if times == 1 else 130)
    assert (b'"message":"The server is stopping; try again"' in last) is (times == 1)
    assert b"[DONE]" not in begun + last
    assert "Traceback" not in said
