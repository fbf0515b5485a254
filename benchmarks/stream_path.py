"""T1 to T7: what reading a streamed answer costs, from its bytes to the caller."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import corpora, floor, ours
from benchmarks.answers import Answer, answer_in
from benchmarks.peers import PEERS, Peer, available
from benchmarks.results import Cost, Measured, Row, Settings
from benchmarks.rounds import Contender, Timings, measure

NAME = "stream_path"

FLOOR = "floor (msgspec)"
DECODE = "floor that only splits and decodes"
READER = "pathors_agent reader"
PUBLIC = ours.PublicAPI.name
CREATE = "openai create"
STREAM = "openai .stream()"

SIZES = {"1 event": None, "1 KB": 1_024, "16 KB": 16_384, "64 KB": 65_536}


@dataclass(frozen=True)
class Case:
    """A stream, cut into reads."""

    stream: str
    size: str
    body: bytes

    @property
    def name(self) -> str:
        return f"{self.stream}, {self.size} a read"

    @property
    def reads(self) -> list[bytes]:
        return corpora.reads(self.body, SIZES[self.size])

    @property
    def events(self) -> int:
        return self.body.count(b"data: ")


def run(settings: Settings) -> Measured:
    streams = bodies(settings)
    measured = _reader_beside_floor(settings, streams)
    measured += _public_api_beside_reader(settings, streams)
    measured += _all_beside_peers(settings, streams)
    return measured


def bodies(settings: Settings) -> dict[str, bytes]:
    chunks = settings.chunks
    return {
        "text": corpora.openai_text(chunks),
        "arguments": corpora.openai_arguments(chunks * corpora.PIECE_CHARACTERS),
        "8 calls": corpora.openai_calls(8, chunks * corpora.PIECE_CHARACTERS // 8),
        "text of vLLM": corpora.vllm_text(chunks),
        "text of llama.cpp": corpora.llamacpp_text(chunks),
        "CR LF, comments": corpora.crlf_with_comments(chunks),
    }


# - T1, T1b, T2, T3

GOALS = {
    ("text", "1 event"): ("T1", 1.35),
    ("arguments", "1 event"): ("T1", 1.35),
    ("8 calls", "1 event"): ("T1", 1.4),
    ("text of vLLM", "1 event"): ("T1", 1.5),
    ("text of llama.cpp", "1 event"): ("T1", 1.5),
    ("text", "16 KB"): ("T2", 1.2),
    ("arguments", "16 KB"): ("T2", 1.2),
    ("8 calls", "16 KB"): ("T2", 1.2),
    ("CR LF, comments", "1 event"): ("T3", 2.1),
    ("CR LF, comments", "16 KB"): ("T3", 2.1),
    ("text", "1 KB"): ("-", None),
    ("text", "64 KB"): ("-", None),
}
DECODE_GOAL = 1.35


def _reader_beside_floor(settings: Settings, streams: dict[str, bytes]) -> Measured:
    measured = Measured()
    for (stream, size), (target, goal) in GOALS.items():
        case = Case(stream, size, streams[stream])
        event_end = b"\r\n\r\n" if b"\r" in case.body else b"\n\n"
        contenders: dict[str, Contender[Answer]] = {
            FLOOR: partial(floor.read, case.reads, event_end=event_end),
            READER: partial(ours.read, case.reads),
        }
        if target == "T1":
            contenders[DECODE] = partial(floor.decode, case.reads, answer_in(case.body))
        timings = _measure(case, contenders, rounds=settings.rounds_of_fast)
        what = f"reader / floor: {case.name}"
        measured.rows.append(Row(target, what, timings.ratio(READER, FLOOR), goal))
        if DECODE in timings:
            what = f"reader / {DECODE}: {case.name}"
            measured.rows.append(Row("T1b", what, timings.ratio(READER, DECODE), DECODE_GOAL))
    return measured


# - T7


def _public_api_beside_reader(settings: Settings, streams: dict[str, bytes]) -> Measured:
    measured = Measured()
    with asyncio.Runner() as runner:
        for size, goal in (("1 event", 0.95), ("16 KB", 0.4)):
            case = Case("text", size, streams["text"])
            contenders: dict[str, Contender[Answer]] = {
                FLOOR: partial(floor.read, case.reads),
                READER: partial(ours.read, case.reads),
                PUBLIC: _in(runner, ours.PublicAPI().read, case.reads),
            }
            timings = _measure(case, contenders, rounds=settings.rounds_of_fast)
            values = timings.ratio(PUBLIC, FLOOR, minus=READER)
            measured.rows.append(
                Row("T7", f"(public API - reader) / floor: {case.name}", values, goal)
            )
    return measured


# - T4, T5, T6

TOOLS_GOALS = {CREATE: 45, STREAM: 95}
TEXT_GOALS = {CREATE: 55, STREAM: 110}
PUBLIC_GOALS = {
    ("text", "1 event"): {CREATE: 33, STREAM: 65},
    ("text", "16 KB"): {CREATE: 48, STREAM: 95},
    ("8 calls", "1 event"): {},
    ("arguments", "1 event"): {},
}


def _all_beside_peers(settings: Settings, streams: dict[str, bytes]) -> Measured:
    measured = Measured()
    peers = available(PEERS, measured.skipped)
    for stream, size in PUBLIC_GOALS:
        measured += beside_peers(settings, Case(stream, size, streams[stream]), peers)
    return measured


def beside_peers(settings: Settings, case: Case, peers: Sequence[Peer]) -> Measured:
    """Measure the reader and the public API beside these peers."""
    peers = [peer for peer in peers if peer.reads_calls or case.stream == "text"]
    reads = case.reads
    with asyncio.Runner() as runner:
        contenders: dict[str, Contender[Answer]] = {
            FLOOR: partial(floor.read, reads),
            READER: partial(ours.read, reads),
            PUBLIC: _in(runner, ours.PublicAPI().read, reads),
            **{peer.name: _in(runner, peer.read, reads) for peer in peers},
        }
        timings = _measure(case, contenders, rounds=settings.rounds)
    rows = [row for peer in peers for row in _rows(case, peer.name, timings)]
    costs = [Cost(case.name, name, timings.median(name) / case.events * 1e6) for name in contenders]
    return Measured(rows, costs)


def _rows(case: Case, peer: str, timings: Timings) -> list[Row]:
    rows = []
    if case.size == "1 event" and peer in TEXT_GOALS:
        target = "T4" if peer == CREATE else "T5"
        goal = (TEXT_GOALS if case.stream == "text" else TOOLS_GOALS)[peer]
        what = f"{peer} / reader: {case.name}"
        rows.append(Row(target, what, timings.ratio(peer, READER), goal, at_least=True))
    wanted = PUBLIC_GOALS[case.stream, case.size].get(peer)
    what = f"{peer} / public API: {case.name}"
    values = timings.ratio(peer, PUBLIC)
    rows.append(Row("T6" if wanted else "-", what, values, wanted, at_least=True))
    return rows


# - One bout


def _measure(case: Case, contenders: dict[str, Contender[Answer]], *, rounds: int) -> Timings:
    expected = answer_in(case.body)
    return measure(case.name, contenders, rounds=rounds, check=lambda got: got == expected)


def _in(
    runner: asyncio.Runner,
    read: Callable[[Sequence[bytes]], Coroutine[Any, Any, Answer]],
    reads: list[bytes],
) -> Callable[[], Answer]:
    return lambda: runner.run(read(reads))
