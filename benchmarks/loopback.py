"""T8, T9, T10: whole streams over sockets, each contender in a process of its own.

The server is another process. What counts is the client's CPU time from the first piece on, and
its resident memory.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from benchmarks import corpora
from benchmarks.answers import answer_in
from benchmarks.loopback_client import STATM
from benchmarks.results import Measured, Row, Settings
from benchmarks.rounds import Timings, WrongResult, say

NAME = "loopback"

ROOT = Path(__file__).parent.parent

AIOHTTP, HTTPX2 = "aiohttp", "httpx2"
CREATE, STREAM = "openai create", "openai .stream()"
NEEDED = {AIOHTTP: "aiohttp", HTTPX2: "httpx2", CREATE: "openai", STREAM: "openai"}

# At 100 ms between the events of a stream, the slowest contender is busy a third of the time:
# each event still comes in a read of its own. "Paced" streams all get theirs at one moment, so
# that a process is woken once for many reads, as a busy one is. "Spread" ones wake it for each
# event: most of what is measured then is the waking, the same for all.
PACED_MILLISECONDS = 100


@dataclass(frozen=True)
class Sizes:
    """How much is streamed."""

    streams: int = 100
    events: int = 20
    flood: int = 10_000
    held: tuple[int, int] = (200, 500)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(5, 5, 100, (10, 50)) if settings.quick else cls()


def run(settings: Settings) -> Measured:
    measured = Measured()
    sizes = Sizes.of(settings)
    few = max(1, settings.rounds_of_slow // 2)  # of what has no target
    names = _available(measured.skipped)
    with _server() as base_url:
        with ExitStack() as stack:
            clients = {name: stack.enter_context(Client(name, base_url)) for name in names}
            measured += _paced(clients, sizes, settings.rounds_of_slow, "paced", goal=6)
            measured += _paced(clients, sizes, few, "spread", goal=None)
            measured += _flood(clients, sizes, settings.rounds_of_slow)
        if STATM.exists():
            measured += _memory(names, base_url, sizes, rounds=1)  # weights are the same each time
        else:
            measured.skipped.append(f"loopback, memory: there is no {STATM}")
    return measured


def _available(skipped: list[str]) -> list[str]:
    absent = {name for name, module in NEEDED.items() if find_spec(module) is None}
    skipped += [f"loopback, {name}: {NEEDED[name]} is not installed" for name in sorted(absent)]
    return [name for name in NEEDED if name not in absent]


class Client:
    """A contender's process."""

    def __init__(self, name: str, base_url: str) -> None:
        self._name = name
        self._process = _start("benchmarks.loopback_client", name, base_url)
        self._answer()

    def ask(self, **what: Any) -> Any:
        """Have it do something; return its answer."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise WrongResult(f"loopback: {self._name} gave up")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _stop(self._process)


def _paced(
    clients: dict[str, Client], sizes: Sizes, rounds: int, kind: str, *, goal: float | None
) -> Measured:
    model = f"{kind} {sizes.streams} {sizes.events} {PACED_MILLISECONDS}"
    timings = _time(kind, clients, rounds, model, sizes.streams, sizes.events)
    what = f"{sizes.streams} {kind} streams"
    rows = _times_less(timings, "T8", what, {(AIOHTTP, CREATE): goal, (HTTPX2, CREATE): None})
    return Measured(rows + _microseconds(timings, what, sizes.streams * sizes.events))


def _flood(clients: dict[str, Client], sizes: Sizes, rounds: int) -> Measured:
    timings = _time("at full speed", clients, rounds, f"flood {sizes.flood}", 1, sizes.flood)
    goals = {(AIOHTTP, CREATE): 25, (AIOHTTP, STREAM): 50, (HTTPX2, CREATE): None}
    rows = _times_less(timings, "T9", "full speed", goals)
    return Measured(rows + _microseconds(timings, "full speed", sizes.flood))


def _time(
    bout: str, clients: dict[str, Client], rounds: int, model: str, streams: int, events: int
) -> Timings:
    expected = [len(answer_in(corpora.openai_text(events)).text)]
    seconds: dict[str, list[float]] = {name: [] for name in clients}
    for number in range(rounds + 1):
        for name in random.sample(list(clients), len(clients)):
            say(f"loopback, {bout}: round {number} of {rounds}, {name}")
            answer = clients[name].ask(time=model, streams=streams)
            if answer["texts"] != expected:
                raise WrongResult(f"loopback, {bout}: {name} gave texts of {answer['texts']}")
            if number:  # the first warms up
                seconds[name].append(answer["seconds"])
    say("")
    return Timings(seconds)


def _memory(names: list[str], base_url: str, sizes: Sizes, rounds: int) -> Measured:
    """Weigh open streams, in a fresh process each time."""
    weights: dict[str, list[float]] = {name: [] for name in names}
    for number in range(1, rounds + 1):
        for name in random.sample(names, len(names)):
            say(f"loopback, open streams: round {number} of {rounds}, {name}")
            with Client(name, base_url) as client:
                weights[name].append(client.ask(weigh=sizes.held)["bytes"])
    say("")
    rows = _times_less(
        Timings(weights),
        "T10",
        "memory per open stream",
        {(AIOHTTP, CREATE): 2.6, (HTTPX2, CREATE): 1.4},
    )
    rows += [
        Row("-", f"KB per open stream: {name}", [weight / 1024 for weight in found])
        for name, found in weights.items()
    ]
    return Measured(rows)


def _times_less(
    timings: Timings, target: str, what: str, goals: Mapping[tuple[str, str], float | None]
) -> list[Row]:
    return [
        Row(target, f"{what}: {peer} / {ours}", timings.ratio(peer, ours), goal, at_least=True)
        for (ours, peer), goal in goals.items()
        if ours in timings and peer in timings
    ]


def _microseconds(timings: Timings, what: str, events: int) -> list[Row]:
    return [
        Row("-", f"us of CPU per event, {what}: {name}", [each / events * 1e6 for each in found])
        for name, found in timings.seconds.items()
    ]


@contextmanager
def _server() -> Iterator[str]:
    process = _start("benchmarks.loopback_server")
    assert process.stdout
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        _stop(process)


def _start(module: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _stop(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()
