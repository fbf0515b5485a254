"""A real HTTP server on the loopback interface that acts as one rule of a check wants."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

FIRST_EVENT = 'data: {"piece": "é1"}\n\n'.encode()
SECOND_EVENT = b"data: [DONE]\n\n"

ANSWER_HEADERS = {"Content-Type": "text/event-stream", "X-Check-Header": "Yes"}


class Incoming(BaseHTTPRequestHandler):
    """One request that came in, and the way to answer it piece by piece."""

    protocol_version = "HTTP/1.1"
    server: "_HTTPServer"

    def do_POST(self) -> None:
        """Note the request and act."""
        self.server.owner.note(self)
        self.close_connection = True
        self.server.owner.conduct(self, self.server.owner)

    def do_GET(self) -> None:
        """Note a request that is none, so that the check can say so."""
        self.do_POST()

    def do_PUT(self) -> None:
        """As `do_GET`."""
        self.do_POST()

    def start(self, status: int, headers: dict[str, str]) -> None:
        """Send the head of an answer whose body comes in chunks."""
        self.send_response(status)
        for name, value in {**headers, "Transfer-Encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_chunk(self, data: bytes) -> None:
        """Send one piece of the body at once; an empty one is its end."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def wait_for_close(self, seconds: float) -> bool:
        """Tell whether the client closes the connection within that time."""
        self.connection.settimeout(seconds)
        try:
            return not self.connection.recv(1)
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base's name)
        """Say nothing."""


Conduct = Callable[[Incoming, "LoopbackServer"], None]
"""How the server answers."""


class _HTTPServer(ThreadingHTTPServer):
    owner: "LoopbackServer"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: of a client that went away, the check judges the outcome."""


class LoopbackServer:
    """The server as a context manager: what it saw, and the events it waits for."""

    def __init__(self, conduct: Conduct, *, patience: float) -> None:
        self.conduct = conduct
        self.patience = patience
        self.method = ""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.first_piece_was_read = Event()
        self.finished = Event()
        self.waited_in_vain = False
        self._http = _HTTPServer(("127.0.0.1", 0), Incoming)
        self._http.owner = self
        # A short poll: closing the server waits for one.
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def base_url(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def note(self, incoming: Incoming) -> None:
        """Keep what came in."""
        self.method = incoming.command
        self.headers = {name.lower(): value for name, value in incoming.headers.items()}
        self.body = _read_body(incoming, self.headers)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.first_piece_was_read.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def answer_at_once(status: int, headers: dict[str, str], *, echo_session: bool = False) -> Conduct:
    """Send the whole answer."""

    def conduct(incoming: Incoming, server: LoopbackServer) -> None:
        session = server.headers.get("x-session-id", "made-by-the-server")
        incoming.start(status, headers | ({"X-Session-ID": session} if echo_session else {}))
        for data in (FIRST_EVENT, SECOND_EVENT, b""):
            incoming.send_chunk(data)

    return conduct


def answer_when_first_piece_was_read(incoming: Incoming, server: LoopbackServer) -> None:
    """Send the first event, and the rest once the client has read that."""
    incoming.start(200, ANSWER_HEADERS)
    incoming.send_chunk(FIRST_EVENT)
    server.waited_in_vain = not server.first_piece_was_read.wait(server.patience)
    incoming.send_chunk(SECOND_EVENT)
    incoming.send_chunk(b"")


def answer_and_wait_for_close(incoming: Incoming, server: LoopbackServer) -> None:
    """Send the first event, and wait for the client to go away."""
    incoming.start(200, ANSWER_HEADERS)
    incoming.send_chunk(FIRST_EVENT)
    server.waited_in_vain = not incoming.wait_for_close(server.patience)
    server.finished.set()


def answer_and_break(incoming: Incoming, server: LoopbackServer) -> None:
    """Send the first event and close the connection before the body's end."""
    incoming.start(200, ANSWER_HEADERS)
    incoming.send_chunk(FIRST_EVENT)


@contextmanager
def refused_port() -> Iterator[str]:
    """Give an address that refuses connections: a port that is taken and not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def _read_body(incoming: Incoming, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return incoming.rfile.read(int(headers.get("content-length", 0)))
    parts = []
    while size := int(incoming.rfile.readline().split(b";")[0], 16):
        parts.append(incoming.rfile.read(size))
        incoming.rfile.readline()
    incoming.rfile.readline()
    return b"".join(parts)
