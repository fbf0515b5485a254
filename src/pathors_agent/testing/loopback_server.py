"""A real HTTP server on the loopback interface; its conduct is that of one rule of a check."""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Event, Thread
from types import TracebackType
from typing import Any, NamedTuple, Self

# Bytes that change if a client decodes, splits or trims them: half of a character, all kinds of
# line ends, a zero byte, spaces at the end.
EVENTS = (
    'data: {"piece": "é1"}\n\n'.encode(),
    b"data: \xff\x00\xe2\x82\r\n\r",
    b"data: [DONE]\n\n  ",
)
BODY = b"".join(EVENTS)
# Larger than the buffers of clients and sockets.
LARGE_BODY = EVENTS[1] * 40_000

ANSWER_HEADERS = {
    "Content-Type": "text/event-stream",
    "X-Check-Header": "Yes",
    "X-Request-Id": 'req_1; a="b", c',
}


class Received(NamedTuple):
    """A request as it arrived; the names of its headers in lower case."""

    method: str
    headers: Mapping[str, str]
    body: bytes


class IncomingRequest(BaseHTTPRequestHandler):
    """One request that came in, and the way to answer it piece by piece."""

    protocol_version = "HTTP/1.1"
    server: "_ThreadingServer"

    def setup(self) -> None:
        """Count the connection."""
        super().setup()
        self.server.owner.count(self.connection, is_open=True)

    def finish(self) -> None:
        """Count the connection no more."""
        with suppress(OSError):
            super().finish()
        self.server.owner.count(self.connection, is_open=False)

    def do_POST(self) -> None:
        """Record the request and answer as the rule under test demands."""
        self.server.owner.note(self)
        self.close_connection = True
        self.server.owner.conduct(self, self.server.owner)

    # Requests with a wrong method are recorded, so that the check can name it.
    do_GET = do_PUT = do_POST  # noqa: N815  (the names of the base class)

    def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of an answer whose body comes in chunks."""
        self.send_head(status, {**headers, "Transfer-Encoding": "chunked"})

    def send_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send_chunk(self, data: bytes) -> None:
        """Send one piece of the body at once; an empty one is its end."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.wfile.write(data)
        self.wfile.flush()

    def wait_for_close(self, seconds: float) -> bool:
        """Return whether the client closes the connection within that time."""
        self.connection.settimeout(seconds)
        try:
            return not self.connection.recv(1)
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base's name)
        """Log nothing."""


Conduct = Callable[[IncomingRequest, "LoopbackServer"], None]
"""How the server answers."""


class _ThreadingServer(ThreadingHTTPServer):
    owner: "LoopbackServer"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report nothing: the check judges the outcome of a client that went away."""


class LoopbackServer:
    """The server as a context manager, with the requests that it received."""

    def __init__(self, conduct: Conduct, *, patience: float) -> None:
        self.conduct = conduct
        self.patience = patience
        self.requests: list[Received] = []
        self.waited_in_vain = False
        self._read = 0
        self._finished = Event()
        self._connections: set[socket.socket] = set()
        self._changed = Condition()
        self._http = _ThreadingServer(("127.0.0.1", 0), IncomingRequest)
        self._http.owner = self
        # A short poll: closing the server waits for one.
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def base_url(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    @property
    def received(self) -> Received:
        """The first request, or an empty one if there was none."""
        return self.requests[0] if self.requests else Received("", {}, b"")

    def note(self, incoming: IncomingRequest) -> None:
        """Record a request."""
        headers = {name.lower(): value for name, value in incoming.headers.items()}
        self.requests.append(Received(incoming.command, headers, _read_body(incoming, headers)))

    def count(self, connection: socket.socket, *, is_open: bool) -> None:
        """Record that a connection was opened, or closed by its client."""
        with self._changed:
            (self._connections.add if is_open else self._connections.discard)(connection)
            self._changed.notify_all()

    def note_read(self, size: int) -> None:
        """Record how many bytes of the answer the client has passed on."""
        with self._changed:
            self._read += size
            self._changed.notify_all()

    def finish(self) -> None:
        """Record that the server has finished the request."""
        self._finished.set()

    def wait_for_read(self, size: int) -> None:
        """Wait until the client has yielded this many bytes; note a timeout."""
        if not self._wait(lambda: self._read >= size, self.patience):
            self.waited_in_vain = True

    def wait_for_finish(self) -> bool:
        """Return whether the server has finished in time."""
        return self._finished.wait(self.patience * 2)

    def open_connections(self, *, at_most: int) -> int:
        """Return the number of open connections, as soon as there are few enough."""
        self._wait(lambda: len(self._connections) <= at_most, self.patience)
        return len(self._connections)

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, seconds)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.shutdown()
        with self._changed:
            left = list(self._connections)
        for connection in left:  # their threads wait for requests
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._http.server_close()
        self._thread.join()


def answer_at_once(
    status: int,
    headers: Mapping[str, str],
    *,
    pieces: Sequence[bytes] = EVENTS,
    echo_session: bool = False,
    stays_open: bool = False,
) -> Conduct:
    """Send the whole answer; with `stays_open`, leave it to the client to close the connection."""

    def conduct(incoming: IncomingRequest, server: LoopbackServer) -> None:
        session = server.requests[-1].headers.get("x-session-id", "made-by-the-server")
        incoming.start(status, {**headers, **({"X-Session-ID": session} if echo_session else {})})
        for data in (*pieces, b""):
            incoming.send_chunk(data)
        incoming.close_connection = not stays_open

    return conduct


def answer_with_length(status: int, headers: Mapping[str, str]) -> Conduct:
    """Send the whole answer, with its length in its head."""

    def conduct(incoming: IncomingRequest, server: LoopbackServer) -> None:
        incoming.send_head(status, {**headers, "Content-Length": str(len(BODY))})
        incoming.send(BODY)

    return conduct


def refuse_first(incoming: IncomingRequest, server: LoopbackServer) -> None:
    """Refuse the first request as busy, and answer those after it."""
    is_first = len(server.requests) == 1
    answer_at_once(503 if is_first else 200, {**ANSWER_HEADERS, "Retry-After": "0"})(
        incoming, server
    )


def answer_step_by_step(incoming: IncomingRequest, server: LoopbackServer) -> None:
    """Send each event after the client has yielded the one before it."""
    incoming.start(200, ANSWER_HEADERS)
    size = 0
    for event in EVENTS:
        incoming.send_chunk(event)
        size += len(event)
        server.wait_for_read(size)
    incoming.send_chunk(b"")


def answer_and_wait_for_close(incoming: IncomingRequest, server: LoopbackServer) -> None:
    """Send the first event, and wait for the client to close the connection."""
    incoming.start(200, ANSWER_HEADERS)
    incoming.send_chunk(EVENTS[0])
    if not incoming.wait_for_close(server.patience):
        server.waited_in_vain = True
    server.finish()


def break_between_chunks(incoming: IncomingRequest, server: LoopbackServer) -> None:
    """Send the first event and close the connection before the body's end."""
    incoming.start(200, ANSWER_HEADERS)
    incoming.send_chunk(EVENTS[0])


def break_inside_chunk(incoming: IncomingRequest, server: LoopbackServer) -> None:
    """Send an event and the first half of another, and close the connection."""
    break_between_chunks(incoming, server)
    incoming.send(b"%x\r\n%s" % (len(EVENTS[2]), EVENTS[2][:5]))


def break_short_of_length(incoming: IncomingRequest, server: LoopbackServer) -> None:
    """Send a part of what the head's Content-Length promises, and close the connection."""
    incoming.send_head(200, {**ANSWER_HEADERS, "Content-Length": str(len(BODY))})
    incoming.send(EVENTS[0])


def break_at_once(incoming: IncomingRequest, server: LoopbackServer) -> None:
    """Close the connection without an answer."""


@contextmanager
def refused_port() -> Iterator[str]:
    """Yield an address that refuses connections: a port that is taken and not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def _read_body(incoming: IncomingRequest, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return incoming.rfile.read(int(headers.get("content-length", 0)))
    parts = []
    while size := int(incoming.rfile.readline().split(b";")[0], 16):
        parts.append(incoming.rfile.read(size))
        incoming.rfile.readline()
    incoming.rfile.readline()
    return b"".join(parts)
