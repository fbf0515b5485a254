"""The command line in processes of its own, on real ports, and a model that waits for the test."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

# Long enough for a busy machine; only a failing test ever waits for it.
PATIENCE_SECONDS = 30.0

PROGRAM = [sys.executable, "-m", "pathors_agent"]

# Models that are asked over a socket how to go on: a test knows when a turn runs, ends it, or
# sees it cancelled. Written beside a project file, and named there.
MODELS = '''
import asyncio
import os
from contextlib import asynccontextmanager
from json import dumps

from pathors_agent import AsyncResponse, AsyncTransport, tool


def event(text, reason=None):
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return b"data: " + dumps({"choices": [choice]}).encode() + b"\\n\\n"


class Spoken(AsyncTransport):
    @asynccontextmanager
    async def send(self, request):
        headers = {"content-type": "text/event-stream"}
        yield AsyncResponse(status=200, headers=headers, pieces=self.pieces())


class Gated(Spoken):
    async def pieces(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["GATE"]))
        try:
            yield event("One ")
            word = await reader.readline()
            yield event(word.decode().strip(), "stop")
            yield b"data: [DONE]\\n\\n"
        finally:
            writer.close()


class Process(Spoken):
    async def pieces(self):
        yield event(str(os.getpid()), "stop")
        yield b"data: [DONE]\\n\\n"


class Hostile(Spoken):
    async def pieces(self):
        yield event("\\x1b[2Jgone\\x07\\u202e", "stop")
        yield b"data: [DONE]\\n\\n"


class Marked(Spoken):
    async def pieces(self):
        for text in ("**bold** and ", "[link](https://example.org/)\\n"):
            yield event(text)
        yield event("", "stop")
        yield b"data: [DONE]\\n\\n"


@tool(approve=True)
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"paid {amount}"
'''

PROJECTS = """
[projects.gated]
transport = "models_of_tests:Gated"

[projects.process]
transport = "models_of_tests:Process"

[projects.hostile]
transport = "models_of_tests:Hostile"

[projects.markdown]
transport = "models_of_tests:Marked"

[projects.shop]
transport = "pathors_agent.offline:AsyncOfflineTransport"
tools = "models_of_tests:pay"
"""


def environment(**more: str) -> dict[str, str]:
    """Return an environment that names no endpoint, folder or colours except the given ones."""
    kept = {name: v for name, v in os.environ.items() if not name.startswith("PATHORS_")}
    kept.pop("NO_COLOR", None)
    return {**kept, "COLUMNS": "100", **more}


def run(*arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        env=environment(**more),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )


def until(told: Callable[[], Any]) -> Any:
    """Ask until there is an answer."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if answer := told():
            return answer
    raise AssertionError("it did not come about in time")


@dataclass(frozen=True)
class Answered:
    """An answer to a request: its status, headers in lower case, and the body."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The text of a stream."""
        return "".join(
            json.loads(line[6:])["choices"][0]["delta"].get("content", "")
            for line in self.body.splitlines()
            if line.startswith("data: {") and "choices" in line
        )


@dataclass
class Server:
    """A process that serves, and how to reach it."""

    process: subprocess.Popen[str]
    port: int
    database: str
    keys: dict[str, str] = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def base(self, project: str) -> str:
        return f"{self.url}/v1/projects/{project}"

    def key(self, project: str) -> str:
        if project not in self.keys:
            made = run("keys", "create", "--project", project, "--database", self.database)
            self.keys[project] = made.stdout.strip()
        return self.keys[project]

    def connection(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)

    def get(self, path: str) -> Answered:
        return answered(self.connection(), "GET", path)

    def ask(
        self,
        text: str,
        *,
        project: str = "demo",
        key: str | None = None,
        session: str | None = None,
        connection: HTTPConnection | None = None,
    ) -> Answered:
        """Ask for a streamed completion."""
        headers = bearer(key or self.key(project))
        headers |= {"X-Session-ID": session} if session else {}
        body = {"messages": [{"role": "user", "content": text}], "stream": True}
        return answered(
            connection or self.connection(),
            "POST",
            f"/v1/projects/{project}/chat/completions",
            headers,
            json.dumps(body),
        )

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for its end; return its status, and what it wrote to standard error."""
        _, errors = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, errors


def bearer(key: str) -> dict[str, str]:
    """Return the headers of a request with this key."""
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}


def answered(
    connection: HTTPConnection,
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    body: str | None = None,
) -> Answered:
    """Send a request and read the whole answer."""
    try:
        connection.request(method, path, body, headers or {})
        with connection.getresponse() as response:
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answered(response.status, named, response.read().decode())
    finally:
        connection.close()


@contextmanager
def serving(database: str, *options: str, **more: str) -> Iterator[Server]:
    """Run `serve` until the block ends."""
    command = [*PROGRAM, "serve", "--json", "--port", "0", "--database", database, *options]
    with subprocess.Popen(
        command,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            told = json.loads(line)
            port = int(told["url"].rpartition(":")[2])
            yield Server(process, port, database, told["keys"])
        finally:
            process.kill()


class Gate:
    """Where the gated model asks how to go on."""

    def __init__(self, listener: socket.socket) -> None:
        listener.settimeout(PATIENCE_SECONDS)
        self._listener = listener
        self._model: socket.socket | None = None

    @property
    def port(self) -> str:
        return str(self._listener.getsockname()[1])

    def wait_for_turn(self) -> None:
        """Wait until the model has begun to answer."""
        self._model, _ = self._listener.accept()
        self._model.settimeout(PATIENCE_SECONDS)

    def go_on(self, word: str) -> None:
        """Let the model say its last word."""
        assert self._model is not None
        self._model.sendall(f"{word}\n".encode())
        self._model.close()

    def wait_for_cancellation(self) -> None:
        """Wait until the model has let go without having been told to go on."""
        assert self._model is not None
        assert self._model.recv(1) == b""
        self._model.close()

    def close(self) -> None:
        """Let the model see the end."""
        if self._model is not None:
            self._model.close()


@contextmanager
def gate() -> Iterator[Gate]:
    """Listen on a port at which processes wait."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Gate(listener)
        yield made
        made.close()


def write_projects(folder: Path, more: str = "") -> str:
    """Write a project file and its models; return its path."""
    (folder / "models_of_tests.py").write_text(MODELS)
    (folder / "projects.toml").write_text(PROJECTS + more)
    return str(folder / "projects.toml")
