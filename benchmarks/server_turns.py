"""T19, T20, T26: CPU of a served turn in process over ASGI, beside the least that could serve it.

The floors read a request, store two rows in one durable transaction, and answer. The model of every
contender answers at once.
"""

import asyncio
import json
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.postgres import cluster
from benchmarks.results import Measured, Row, Settings
from benchmarks.rounds import measure
from pathors_agent.history.trim import last_turns
from pathors_agent.messages import AssistantMessage, Message, UserMessage
from pathors_agent.server import Project, ServerSettings, create_app, make_key
from pathors_agent.stores import MemoryStore, SQLStore, Store
from pathors_agent.transports.base import AsyncResponse, AsyncTransport
from pathors_agent.transports.base import Request as ModelRequest

NEEDED = ("fastapi", "sqlalchemy", "psycopg")
PATH = "/v1/projects/bench/chat/completions"
QUESTION, ANSWER = "What is the weather in Paris?", "It is sunny, and 20 degrees."

TURNS = 50
LONG, SHORT = 5_000, 10
# So that nothing but the turns takes time.
MANY = 1_000_000

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]
Turn = Callable[[], Awaitable[bytes]]


def run(settings: Settings) -> Measured:
    if absent := [name for name in NEEDED if find_spec(name) is None]:
        return Measured(skipped=[f"server_turns: {', '.join(absent)} is not installed"])
    turns = 2 if settings.quick else TURNS
    with tempfile.TemporaryDirectory() as folder, cluster() as postgres, asyncio.Runner() as runner:
        stack = AsyncExitStack()
        contenders = runner.run(_contenders(stack, folder, postgres, quick=settings.quick))
        timed = {
            name: partial(lambda turn: runner.run(repeat(turn, turns)), turn)
            for name, turn in contenders.items()
        }
        timings = measure(
            "server_turns", timed, rounds=settings.rounds, check=lambda done: done == turns
        )
        runner.run(stack.aclose())
    rows = [
        Row("T19", "CPU of a turn on SQLite / floor", timings.ratio("SQLite", "floor, SQLite"), 6),
        Row("T26", f"{LONG} messages / {SHORT}, SQLite", timings.ratio("long", "short"), 3),
        Row("", "CPU of a turn in memory / floor", timings.ratio("memory", "floor, SQLite")),
    ]
    if postgres:
        ratio = timings.ratio("PostgreSQL", "floor, PostgreSQL")
        rows.insert(1, Row("T20", "CPU of a turn on PostgreSQL / floor", ratio, 6))
    for name, seconds in timings.seconds.items():
        rows.append(Row("", f"ms of CPU of a turn, {name}", [s / turns * 1e3 for s in seconds]))
    skipped = [] if postgres else ["T20: PostgreSQL's programs are not installed"]
    return Measured(rows, skipped=skipped)


async def _contenders(
    stack: AsyncExitStack, folder: str, postgres: str | None, *, quick: bool
) -> dict[str, Turn]:
    url = f"sqlite:///{folder}/ours.db"
    contenders = {
        "floor, SQLite": ask(stack.enter_context(floor(f"{folder}/floor.db"))),
        "memory": await serve(stack, MemoryStore()),
        "SQLite": await serve(stack, SQLStore(url)),
        "short": await serve(stack, SQLStore(url), history=SHORT),
        "long": await serve(stack, SQLStore(url), history=2 * SHORT if quick else LONG),
    }
    if postgres:
        contenders["floor, PostgreSQL"] = ask(stack.enter_context(_postgres_floor(postgres)))
        contenders["PostgreSQL"] = await serve(stack, SQLStore(postgres))
    return contenders


async def repeat(turn: Turn, times: int) -> int:
    done = 0
    for _ in range(times):
        answer = json.loads(await turn())
        done += answer["choices"][0]["message"]["content"] == ANSWER
    return done


# - contenders -


class _Model(AsyncTransport):
    """Answers each request at once with a whole completion."""

    def __init__(self) -> None:
        whole = {"index": 0, "message": {"role": "assistant", "content": ANSWER}}
        stop = {**whole, "finish_reason": "stop"}
        self._body = json.dumps(
            {"id": "1", "object": "chat.completion", "choices": [stop]}
        ).encode()

    @asynccontextmanager
    async def send(self, request: ModelRequest) -> AsyncIterator[AsyncResponse]:
        async def pieces() -> AsyncIterator[bytes]:
            yield self._body

        yield AsyncResponse(
            status=200, headers={"content-type": "application/json"}, pieces=pieces()
        )


async def serve(stack: AsyncExitStack, store: Store, history: int = 0) -> Turn:
    """Return a turn of our server: in a new session, or in one that has a history."""
    settings = ServerSettings(turns_per_key=MANY, turns_per_project=MANY, queue_length=MANY)
    project = Project(id="bench", transport=_Model(), history=last_turns(5))
    app = create_app([project], store, settings)
    await app.state.runtime.start()
    stack.push_async_callback(app.state.runtime.stop)
    text, key = make_key("bench")
    await store.add_key(key)
    session = ""
    if history:
        session = f"session-{history}"
        lease = await store.take_lease("bench", session, holder="bench", seconds=60)
        assert lease is not None
        await store.save_turn(lease, _history(history), seen=None, drop=True)
    return ask(app, key=text, session=session)


def _history(count: int) -> list[Message]:
    asked, answered = UserMessage(content=QUESTION), AssistantMessage(content=ANSWER)
    return [asked if number % 2 == 0 else answered for number in range(count)]


@contextmanager
def floor(file: str) -> Iterator[App]:
    """Serve with one thread that writes to SQLite."""
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, text TEXT)")

    def store(texts: list[str]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for text in texts:
            connection.execute("INSERT INTO rows (text) VALUES (?)", [text])
        connection.execute("COMMIT")

    with ThreadPoolExecutor(1) as writer:
        yield _storing(writer, store)
        writer.submit(connection.close).result()


@contextmanager
def _postgres_floor(url: str) -> Iterator[App]:
    """Serve with one thread that writes to PostgreSQL."""
    import psycopg

    connection = psycopg.connect(url)
    connection.execute("CREATE TABLE rows (number BIGSERIAL PRIMARY KEY, text TEXT)")
    connection.commit()

    def store(texts: list[str]) -> None:
        for text in texts:
            connection.execute("INSERT INTO rows (text) VALUES (%s)", [text])
        connection.commit()

    with ThreadPoolExecutor(1) as writer:
        yield _storing(writer, store)
        writer.submit(connection.close).result()


def _storing(writer: ThreadPoolExecutor, store: Callable[[list[str]], None]) -> App:
    async def complete(request: Request) -> JSONResponse:
        asked = json.loads(await request.body())["messages"][-1]
        answer = {"role": "assistant", "content": ANSWER}
        rows = [json.dumps(asked), json.dumps(answer)]
        await asyncio.get_running_loop().run_in_executor(writer, store, rows)
        return JSONResponse({"choices": [{"index": 0, "message": answer}]})

    return Starlette(routes=[Route(PATH, complete, methods=["POST"])])


# - a request -


def ask(app: App, key: str = "", session: str = "") -> Turn:
    """Return a function that asks an app once and returns the body of its answer."""
    body = json.dumps(
        {"model": "any", "messages": [{"role": "user", "content": QUESTION}]}
    ).encode()
    headers = [
        (b"host", b"bench"),
        (b"authorization", b"Bearer " + key.encode()),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *([(b"x-session-id", session.encode())] if session else []),
    ]

    async def turn() -> bytes:
        received: list[bytes] = []
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await asyncio.get_running_loop().create_future()  # the client stays
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            received.append(message.get("body", b""))

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("bench", 80),
            "state": {},
        }
        await app(scope, receive, send)
        return b"".join(received)

    return turn
