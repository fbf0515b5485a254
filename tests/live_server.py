"""A server of this library on a free loopback port, in a thread, for tests that speak HTTP to it."""

import asyncio
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI
from jsonschema import Draft202012Validator
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from pathors_agent.server import Project, ServerSettings, create_app, make_key
from pathors_agent.server.http.keys import Authenticate
from pathors_agent.server.running.connections import MAX_HEAD_BYTES, limited_protocol
from pathors_agent.stores import MemoryStore, Store
from pathors_agent.testing import AsyncScriptedTransport

# Makes the event loop of each server; None for asyncio's own.
loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None

# Long enough for a busy machine; only a failing test ever waits for it.
PATIENCE_SECONDS = 60.0


# A client would make one of its own, which takes longer than most tests.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def project(*script: Any, **settings: Any) -> Project:
    """Return a project `demo` whose model follows a script."""
    return Project(id="demo", transport=AsyncScriptedTransport(*script), **settings)


@dataclass
class Live:
    """A running server: `client` has the key of `project` and the base address."""

    app: FastAPI
    store: Store
    port: int
    key: str = field(repr=False)
    project: str = "demo"

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.port}"
        self.base = f"{self.url}/v1/projects/{self.project}"
        self.headers = {"Authorization": f"Bearer {self.key}"}
        self.client = httpx2.Client(
            base_url=self.base,
            headers=self.headers,
            timeout=PATIENCE_SECONDS,
            trust_env=False,
            verify=NO_TLS,
        )

    def complete(
        self,
        *messages: object,
        session: str | None = None,
        headers: dict[str, str] | None = None,
        **fields: Any,
    ) -> httpx2.Response:
        """Ask for a completion; a text is a user's message."""
        sent = [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages]
        named = {} if session is None else {"X-Session-ID": session}
        answered = self.client.post(
            "/chat/completions", json={"messages": sent, **fields}, headers=named | (headers or {})
        )
        check_published_schema(answered)
        return answered

    def stored(self, session: str) -> list[dict[str, Any]]:
        """Return the messages that the session holds."""
        answer = self.client.get(f"/sessions/{session}")
        assert answer.status_code == 200, answer.text
        messages: list[dict[str, Any]] = answer.json()["data"]["messages"]
        return messages


def check_published_schema(answered: httpx2.Response) -> None:
    """Check an answer, each chunk and each error against OpenAI's schema, where it is at hand."""
    if answered.status_code != 200:
        values, name = [answered.json()], "ErrorResponse"
    elif "event-stream" in answered.headers["content-type"]:
        values, name = events(answered.text), "CreateChatCompletionStreamResponse"
    else:
        values, name = [answered.json()], "CreateChatCompletionResponse"
    for value in values:
        if value != "[DONE]":
            in_stream = isinstance(value, dict) and "error" in value
            validator = published("ErrorResponse" if in_stream else name)
            if validator is not None:
                validator.validate(value)


@cache
def published(name: str) -> Any:
    """Return the validator of one of OpenAI's definitions, or None if their file is absent."""
    folder = os.environ.get("CONFORMANCE_DATA", Path(__file__).parent.parent.parent / "shared")
    file = Path(folder) / "openai_contract" / "chat.schema.json"
    if not file.exists():
        return None
    definitions = json.loads(file.read_text())["$defs"]
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions})


@contextmanager
def live(
    *projects: Project,
    settings: ServerSettings | None = None,
    store: Store | None = None,
    ui: bool = False,
    front_ends: bool = False,
    key: str | None = None,
    http: type[asyncio.Protocol] = AutoHTTPProtocol,
    runs: str | None = None,
    authenticate: Authenticate | None = None,
) -> Iterator[Live]:
    """Serve these projects while the block lasts; with a key that the store has, or a new one."""
    store = MemoryStore() if store is None else store
    options = {"ui": ui, "front_ends": front_ends}
    app = create_app(projects, store, settings, runs=runs, authenticate=authenticate, **options)
    with socket.create_server(("127.0.0.1", 0)) as listener, served(app, listener, http):
        if key is None:
            key, stored = make_key(projects[0].id)
            on_loop(app, store.add_key(stored))
        running = Live(app, store, listener.getsockname()[1], key, projects[0].id)
        with running.client:
            yield running


class StoppableServer(uvicorn.Server):
    """A uvicorn server that stops when it is told to; uvicorn itself looks ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)  # sets the Date header
        await self.stopping.wait()
        await self._end_listening()

    async def _end_listening(self) -> None:
        """Take no more connections, and let those taken last be known before the rest is closed.

        A browser connects at any time. asyncio leaves a connection open that it accepted in the
        same turn of its loop as the listener was closed.
        """
        for server in self.servers:
            for listener in server.sockets:
                asyncio.get_running_loop().remove_reader(listener.fileno())
        for _ in range(3):  # the accepting task, the new connection, its waiter
            await asyncio.sleep(0)


@contextmanager
def served(
    app: FastAPI, listener: socket.socket, http: type[asyncio.Protocol] = AutoHTTPProtocol
) -> Iterator[None]:
    """Run uvicorn in a thread."""
    config = uvicorn.Config(
        app,
        http=limited_protocol(http),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        log_level="warning",
        ws="none",
        timeout_graceful_shutdown=round(PATIENCE_SECONDS / 2),
    )
    server = StoppableServer(config)
    started = threading.Event()

    async def serve() -> None:
        app.state.test_loop = asyncio.get_running_loop()
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await app.state.runtime.start()
        started.set()
        await task

    def run() -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(PATIENCE_SECONDS)
    try:
        yield
    finally:
        app.state.test_loop.call_soon_threadsafe(server.stopping.set)
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


def on_loop(app: FastAPI, coroutine: Any) -> Any:
    """Run a coroutine on the server's own event loop."""
    future = asyncio.run_coroutine_threadsafe(coroutine, app.state.test_loop)
    return future.result(PATIENCE_SECONDS)


def events(text: str) -> list[Any]:
    """Return the JSON of each event of a stream; `[DONE]` as it is."""
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def joined(chunks: Iterable[Any]) -> str:
    """Join the texts of a stream's chunks."""
    choices = (choice for chunk in chunks if chunk != "[DONE]" for choice in chunk["choices"])
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def external(name: str, **properties: Any) -> dict[str, Any]:
    """Define a tool that the client runs, with parameters that are all strings."""
    schema = {"type": "object", "properties": {n: {"type": "string"} for n in properties}}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def result(call_id: str, content: str) -> dict[str, str]:
    """Write a tool's message."""
    return {"role": "tool", "tool_call_id": call_id, "content": content}
