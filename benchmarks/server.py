"""T22 to T24: the server beside a bare relay, and how many turns a second it serves.

Each server is a process of its own, and so is the model behind it. Clients are plain sockets.
"""

import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.postgres import cluster
from benchmarks.results import Measured, Row, Settings
from benchmarks.rounds import WrongResult, say

ROOT = Path(__file__).parent.parent
PATH = "/v1/projects/bench/chat/completions"
NEEDED = ("fastapi", "uvicorn", "sqlalchemy", "aiohttp")
# The most CPU of a stream beside the relay's, by the client that both read the model with.
GOALS = {"httpx2": 1.2, "aiohttp": 1.3}
CLIENTS = tuple(GOALS)
MOST_MILLISECONDS = 2.0
MOST_MEMORY = 1.5

CHUNKS = 200
# At 5 ms between the events of a stream, ten streams keep the slowest server half busy.
STREAMS, MILLISECONDS = 10, 5
SESSIONS = (1, 10, 100)
TURN_SECONDS = 2.0
HELD = 500
ASKED = 7  # first bytes of each contender in a round


def run(settings: Settings) -> Measured:
    measured = Measured()
    if absent := [name for name in NEEDED if find_spec(name) is None]:
        measured.skipped.append(f"server: {', '.join(absent)} is not installed")
        return measured
    with process("benchmarks.loopback_server") as upstream, tempfile.TemporaryDirectory() as folder:
        base_url = f"http://127.0.0.1:{upstream.port}/v1"
        measured += _streams(base_url, folder, settings)
        measured += _held(base_url, folder, settings)
        measured += _turns(folder, settings)
    return measured


@dataclass
class Process:
    """A server's process: its port, and the key that it takes."""

    port: int
    key: str = ""

    def usage(self) -> dict[str, float]:
        connection = HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/usage")
        found: dict[str, float] = json.loads(connection.getresponse().read())
        connection.close()
        return found

    def request(self, content: str, model: str, *, session: str = "", stream: bool = True) -> bytes:
        body = json.dumps(
            {"model": model, "messages": [{"role": "user", "content": content}], "stream": stream}
        ).encode()
        named = f"X-Session-ID: {session}\r\n" if session else ""
        return (
            f"POST {PATH} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {self.key}\r\n{named}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body


@contextmanager
def process(module: str, *arguments: str, python: str = sys.executable) -> Iterator[Process]:
    """Run a module that prints its port, or its port and key."""
    command = [python, "-m", module, *arguments]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert started.stdout
        line = started.stdout.readline()
        if not line:
            raise WrongResult(f"{module} {arguments[:1]} did not start")
        found = json.loads(line)
        yield Process(**found) if isinstance(found, dict) else Process(found)
    finally:
        started.kill()
        started.communicate()


def serving(kind: str, base_url: str = "", database: str = "") -> Any:
    return process("benchmarks.server_process", kind, base_url, database)


# - a stream beside the relay's -


def _streams(base_url: str, folder: str, settings: Settings) -> Measured:
    """Measure the CPU of a streamed completion, and the time to its first word."""
    count, chunks = (2, 10) if settings.quick else (STREAMS, CHUNKS)
    cpu: dict[str, list[float]] = {}
    first: dict[str, list[float]] = {}
    with ExitStack() as stack:
        contenders = {
            name: stack.enter_context(serving(name, base_url, database))
            for name, database in _contenders(folder, "streams").items()
        }
        rounds = settings.rounds
        for number in range(rounds + 1):
            for name in random.sample(list(contenders), len(contenders)):
                say(f"server: round {number} of {rounds}, {name}")
                spent = cpu_of_streams(contenders[name], count, chunks)
                waited = _first_byte(contenders[name], settings)
                if number:  # the first warms up
                    cpu.setdefault(name, []).append(spent)
                    first.setdefault(name, []).append(waited)
    say("")
    return Measured([row for client in CLIENTS for row in _stream_rows(client, chunks, cpu, first)])


def _contenders(folder: str, file: str) -> dict[str, str]:
    """Return the database of each contender: relays have none."""
    relays = {f"relay, {client}": "" for client in CLIENTS}
    return relays | {client: f"sqlite:///{folder}/{file}-{client}.db" for client in CLIENTS}


def _stream_rows(
    client: str, chunks: int, cpu: dict[str, list[float]], first: dict[str, list[float]]
) -> list[Row]:
    relay, what = f"relay, {client}", f"SQLite, {client}"
    ratios = [ours / theirs for ours, theirs in zip(cpu[client], cpu[relay], strict=True)]
    pairs = zip(first[client], first[relay], strict=True)
    added = [max((a - b) * 1e3, 0.001) for a, b in pairs]
    return [
        Row("T22", f"CPU of {chunks} chunks / bare relay, {what}", ratios, GOALS[client]),
        Row("T23", f"ms to the first word beyond the relay's, {what}", added, MOST_MILLISECONDS),
        Row("", f"ms of CPU for {chunks} chunks, {what}", [s * 1e3 for s in cpu[client]]),
        Row("", f"ms of CPU for {chunks} chunks, {relay}", [s * 1e3 for s in cpu[relay]]),
    ]


def cpu_of_streams(server: Process, count: int, chunks: int) -> float:
    model = f"paced {count} {chunks} {MILLISECONDS}"
    before = server.usage()["cpu"]

    async def ask(number: int) -> None:
        received = await _exchange(server, server.request("Hi", model))
        if b"[DONE]" not in received or received.count(b'"content"') < chunks:
            raise WrongResult(f"server: a stream without its end: {received[-300:]!r}")

    _side_by_side(ask, count)
    return (server.usage()["cpu"] - before) / count


def _first_byte(server: Process, settings: Settings) -> float:
    """Return the median time to the first word of streams that are asked for one by one."""

    async def timed() -> float:
        start = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(server.request("Hi", "flood 2"))
        await reader.readuntil(b'"content":"')
        waited = time.perf_counter() - start
        await reader.readuntil(b"[DONE]")  # the next one waits for nothing that is stored
        writer.close()
        return waited

    async def all_of_them() -> list[float]:
        return [await timed() for _ in range(1 if settings.quick else ASKED)]

    return statistics.median(asyncio.run(all_of_them()))


# - memory -


def _held(base_url: str, folder: str, settings: Settings) -> Measured:
    """Measure the resident memory of each stream that is held open."""
    few, many = (5, 20) if settings.quick else (100, HELD)
    held: dict[str, list[float]] = {name: [] for name in _contenders("", "")}
    for number in range(1 if settings.quick else settings.rounds_of_held):
        databases = _contenders(folder, f"held-{number}")
        for name in random.sample(list(databases), len(databases)):
            say(f"server: {many} open streams, {name}")
            with serving(name, base_url, databases[name]) as server:
                held[name].append(asyncio.run(_memory_of_held(server, few, many)))
    say("")
    rows = []
    for client in CLIENTS:
        relay = f"relay, {client}"
        pairs = zip(held[client], held[relay], strict=True)
        ratios = [ours / theirs for ours, theirs in pairs]
        rows.append(
            Row("T24", f"memory of a held stream / bare relay, {client}", ratios, MOST_MEMORY)
        )
        for name in (client, relay):
            kilobytes = [found / 1024 for found in held[name]]
            rows.append(Row("", f"KB for each of {many} open streams, {name}", kilobytes))
    return Measured(rows)


async def _memory_of_held(server: Process, few: int, many: int) -> float:
    writers = []

    async def hold() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(server.request("Hi", "hold"))
        await reader.readuntil(b'"content":"')
        writers.append(writer)

    for _ in range(few):
        await hold()
    before = await asyncio.to_thread(server.usage)
    for _ in range(many - few):
        await hold()
    after = await asyncio.to_thread(server.usage)
    for writer in writers:
        writer.close()
    return (after["bytes"] - before["bytes"]) / (many - few)


# - turns -


def _turns(folder: str, settings: Settings) -> Measured:
    """Turns a second, with a model that answers at once."""
    rows = []
    with cluster() as postgres:
        databases = {"SQLite": f"sqlite:///{folder}/turns.db"}
        if postgres:
            databases["PostgreSQL"] = postgres
        for name, database in databases.items():
            with serving("offline", "", database) as server:
                for sessions in (1, 2) if settings.quick else SESSIONS:
                    say(f"server: {sessions} sessions at once, {name}")
                    rate = _turns_a_second(
                        server, sessions, 0.2 if settings.quick else TURN_SECONDS
                    )
                    rows.append(Row("", f"turns a second, {sessions} sessions, {name}", [rate]))
    say("")
    skipped = [] if postgres else ["server, PostgreSQL: its programs are not installed"]
    return Measured(rows, skipped=skipped)


def _turns_a_second(server: Process, sessions: int, seconds: float) -> float:
    end = time.perf_counter() + seconds
    done = 0

    async def talk(number: int) -> None:
        nonlocal done
        turn, session = 0, ""
        while time.perf_counter() < end:
            # A new session after ten turns: what is measured is a turn, not a long history.
            session = (
                f"{sessions}-{number}-{turn // 10}-{random.random()}" if turn % 10 == 0 else session
            )
            turn += 1
            request = server.request("Hello", "any", session=session, stream=False)
            received = await _exchange(server, request, until=b'"session_id":"')
            if not received.startswith(b"HTTP/1.1 200"):
                raise WrongResult(f"server: {received[:300]!r}")
            done += 1

    start = time.perf_counter()
    _side_by_side(talk, sessions)
    return done / (time.perf_counter() - start)


# - clients -


def _side_by_side(work: Callable[[int], Awaitable[None]], count: int) -> None:
    async def main() -> None:
        await asyncio.gather(*(work(number) for number in range(count)))

    asyncio.run(main())


async def _exchange(server: Process, request: bytes, *, until: bytes = b"[DONE]") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(request)
        received = b""
        while until not in received:
            piece = await reader.read(65536)
            if not piece:
                break
            received += piece
        return received
    finally:
        writer.close()
