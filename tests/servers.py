"""Real servers for tests: raw sockets that follow a script, and model servers made by others.

The fixtures: `scripted_server` starts a `ScriptedServer`; `llmock_server` and `fakellm_server`
are started once per test run and are as new for each test.
"""

import json
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import pytest

# Long enough for a busy machine; only a failing test ever waits for it.
PATIENCE_SECONDS = 60.0


# Steps of a script, beside plain bytes, which are sent. After the last step the connection stays
# open for the next request.
@dataclass(frozen=True)
class Close:
    """End the connection in good order."""


@dataclass(frozen=True)
class Reset:
    """End the connection by a TCP reset."""


@dataclass(frozen=True)
class Stall:
    """Send nothing more until the client goes away."""


@dataclass(frozen=True)
class Drip:
    """Send the piece again and again, so many seconds apart, until the client goes away."""

    piece: bytes
    seconds: float


Step = bytes | Close | Reset | Stall | Drip

CLOSE, RESET, STALL = Close(), Reset(), Stall()


def head(status: str = "200 OK", **headers: str) -> bytes:
    """Write a response's head; `content_type="x"` is the header Content-Type."""
    lines = [f"HTTP/1.1 {status}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def answer(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """Write a whole response with its length."""
    return head(status, Content_Length=str(len(body)), **headers) + body


def chunk(piece: bytes) -> bytes:
    """Write one chunk of a body with Transfer-Encoding: chunked; an empty one is the last."""
    return f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


@dataclass(frozen=True)
class Received:
    """One request as it came in; names of headers in lower case."""

    line: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class ScriptedServer:
    """A server on a free loopback port that answers each request by the next script.

    It looks at nothing in a request but its length. When the scripts are used up, it closes the
    connection unanswered.
    """

    def __init__(self, *scripts: Iterable[Step], tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.requests: list[Received] = []
        self.connections = 0
        self._scripts = iter(scripts)
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self.port}/v1"

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many requests came in."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, PATIENCE_SECONDS)

    def wait_until_clients_left(self) -> None:
        """Wait until no connection is open; fail the test when that takes too long."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._open, PATIENCE_SECONDS)

    def script_for(self, request: Received) -> Iterable[Step]:
        """Choose what is done on a request; called for one at a time."""
        return next(self._scripts, [CLOSE])

    def stop(self) -> None:
        """Close all connections and end all threads."""
        # Closing a listener does not wake its accept(); shutting it down does.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            for connection in self._open:
                with suppress(OSError):  # the client went away first
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                self.connections += 1
                self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):  # the client went away first
            if self._tls:
                with self._tls.wrap_socket(connection, server_side=True) as secured:
                    self._follow_scripts(secured)
            else:
                self._follow_scripts(connection)
        with self._changed:
            self._open.discard(connection)
            connection.close()
            self._changed.notify_all()

    def _follow_scripts(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as incoming:
            while request := read_request(incoming):
                with self._changed:
                    self.requests.append(request)
                    self._changed.notify_all()
                    script = self.script_for(request)
                if not all(perform(step, connection) for step in script):
                    break


def read_request(incoming: Iterable[bytes]) -> Received | None:
    """Read one request; None when the client left instead."""
    lines = []
    for line in incoming:
        if not line.strip():
            break
        lines.append(line.decode("latin-1").rstrip("\r\n"))
    if not lines:
        return None
    pairs = (line.partition(": ") for line in lines[1:])
    headers = {name.lower(): value for name, _, value in pairs}
    body = incoming.read(int(headers.get("content-length", 0)))  # type: ignore[attr-defined]  # a file, seen as its lines
    return Received(lines[0], headers, body)


def perform(step: Step, connection: socket.socket) -> bool:
    """Do one step; tell whether the connection is still of use."""
    match step:
        case bytes():
            connection.sendall(step)
            return True
        case Close():
            connection.shutdown(socket.SHUT_RDWR)
        case Reset():
            # A linger time of 0: closing sends RST, and drops what was not sent yet.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        case Stall():
            wait_until_client_left(connection, None)
        case Drip(piece, seconds):
            while not wait_until_client_left(connection, seconds):
                connection.sendall(piece)
    return False


def wait_until_client_left(connection: socket.socket, seconds: float | None) -> bool:
    """Wait for the client's next sign; it owes none, so that a sign is its farewell."""
    return bool(select.select([connection], [], [], seconds)[0])


class ModelServer:
    """A model server made by others, in a process of its own."""

    def __init__(self, command: str, *arguments: str, log: Path) -> None:
        self.port = free_port()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [find_command(command), "serve", "--port", str(self.port), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._wait_until_it_answers(log)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _wait_until_it_answers(self, log: Path) -> None:
        for _ in range(int(PATIENCE_SECONDS / 0.05)):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if ended(self._process, within=0.05):
                break
        self.stop()
        raise RuntimeError(f"the server did not start: {log.read_text()}")

    def ask(self, method: str, path: str, body: object = None) -> object:
        """Send a request to the server's own control pages; return the JSON of its answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answered = connection.getresponse()
            text = answered.read()
        finally:
            connection.close()
        assert answered.status < 300, text
        return json.loads(text)

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        if not ended(self._process, within=PATIENCE_SECONDS):
            self._process.kill()
            self._process.wait()


class LLMockServer(ModelServer):
    """llmock: answers like OpenAI, and fails as it is told to."""

    def scenario(self, *behaviors: Mapping[str, object]) -> None:
        """Queue faults and answers, as `{"type": "fail", "status": 503}`."""
        self.ask("POST", "/_llmock/scenario", {"behaviors": behaviors})

    def requests(self) -> list[dict[str, object]]:
        """Return the requests since the last reset, oldest first."""
        return self.ask("GET", "/_llmock/requests")["requests"]  # type: ignore[index,no-any-return]  # JSON

    def verdict(self) -> dict[str, object]:
        """Return llmock's verdict on the client."""
        return self.ask("GET", "/_llmock/verdict")  # type: ignore[return-value]  # JSON

    def reset(self) -> None:
        """Forget requests and what was queued."""
        self.ask("POST", "/_llmock/reset")


class FakeLLMServer(ModelServer):
    """fakellm: answers by rules, by default with an echo."""

    def __init__(self, folder: Path) -> None:
        self._config = folder / "fakellm.yaml"
        self._write_rules([])
        super().__init__("fakellm", "--config", str(self._config), log=folder / "log")

    def rules(self, *rules: Mapping[str, object]) -> None:
        """Replace the rules: `{"name": .., "when": {..}, "respond": {..}}`; none echoes."""
        self._write_rules(rules)
        self.ask("POST", "/_fakellm/reload")
        self.ask("POST", "/_fakellm/reset")

    def _write_rules(self, rules: Iterable[Mapping[str, object]]) -> None:
        # JSON is YAML, too.
        self._config.write_text(json.dumps({"version": 1, "rules": list(rules)}))


def ended(process: subprocess.Popen[bytes], *, within: float) -> bool:
    """Wait for a process to end; tell whether it did."""
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        return False
    return True


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def find_command(name: str) -> str:
    """Find a program of this environment; skip the test where it is not installed."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not installed")
    return str(path)


@pytest.fixture
def scripted_server() -> Iterator[Callable[..., ScriptedServer]]:
    """Start servers by their scripts, one script per request; stop them after the test."""
    servers: list[ScriptedServer] = []

    def start(*scripts: Iterable[Step], tls: ssl.SSLContext | None = None) -> ScriptedServer:
        servers.append(ScriptedServer(*scripts, tls=tls))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def llmock_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLMockServer]:
    """Run llmock once for all tests; use `llmock_server`."""
    log = tmp_path_factory.mktemp("llmock") / "log"
    server = LLMockServer("llmock", "--log-level", "warning", log=log)
    yield server
    server.stop()


@pytest.fixture
def llmock_server(llmock_process: LLMockServer) -> LLMockServer:
    """Return llmock as new."""
    llmock_process.reset()
    return llmock_process


@pytest.fixture(scope="session")
def fakellm_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeLLMServer]:
    """Run fakellm once for all tests; use `fakellm_server`."""
    server = FakeLLMServer(tmp_path_factory.mktemp("fakellm"))
    yield server
    server.stop()


@pytest.fixture
def fakellm_server(fakellm_process: FakeLLMServer) -> FakeLLMServer:
    """Return fakellm without rules and conversations."""
    fakellm_process.rules()
    return fakellm_process
