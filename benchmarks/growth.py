"""T16: what grows with the size of an event, and what reads of one byte cost."""

import asyncio
import ctypes
from collections.abc import Callable
from functools import partial

from benchmarks import corpora, ours
from benchmarks.answers import Answer, answer_in
from benchmarks.peers import OpenAICreate, Peer, available
from benchmarks.results import Measured, Row, Settings
from benchmarks.rounds import measure

NAME = "growth"

READER = "pathors_agent reader"
MILLION = 1_000_000
READ_BYTES = 1_024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Of one byte each: 33,000 reads.
CHUNKS_OF_SMALL_READS = 100


def run(settings: Settings) -> Measured:
    keep_freed_memory()
    measured = Measured([_large_events(settings)])
    measured += _small_reads(settings)
    return measured


def keep_freed_memory() -> None:
    """Tell glibc not to give memory back to the kernel after each run.

    It would do so for 8 MB and not for 1 MB; a third of the CPU time were page faults.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 256 * MILLION)
        mallopt(_M_MMAP_THRESHOLD, 32 * 1024 * 1024)  # the most that it takes


def _large_events(settings: Settings) -> Row:
    unit = MILLION // 10 if settings.quick else MILLION
    events = {size: _event_of(size * unit) for size in (1, 8)}
    contenders = {
        f"{size} MB": partial(ours.read, corpora.reads(body, READ_BYTES))
        for size, body in events.items()
    }
    lengths = {len(answer_in(body).text) for body in events.values()}
    timings = measure(
        "one large event in reads of 1 KB",
        contenders,
        rounds=settings.rounds,
        check=lambda got: len(got.text) in lengths,
    )
    what = "reader: one event of 8 MB / of 1 MB, 1 KB a read"
    return Row("T16", what, timings.ratio("8 MB", "1 MB"), 10)


def _event_of(size: int) -> bytes:
    """A stream whose second chunk holds so many characters."""
    text = corpora.openai_text(1)
    (piece,) = answer_in(text).text.split()
    return text.replace(piece.encode(), b"x" * size)


def _small_reads(settings: Settings) -> Measured:
    measured = Measured()
    body = corpora.openai_text(CHUNKS_OF_SMALL_READS)
    reads, expected = corpora.reads(body, 1), answer_in(body)
    peers = available([OpenAICreate], measured.skipped)
    with asyncio.Runner() as runner:
        contenders: dict[str, Callable[[], Answer]] = {READER: partial(ours.read, reads)}
        for peer in peers:
            contenders[peer.name] = partial(_run, runner, peer, reads)
        timings = measure(
            "reads of 1 byte", contenders, rounds=settings.rounds, check=lambda got: got == expected
        )
    for peer in peers:
        what = f"reader / {peer.name}: text, 1 byte a read"
        measured.rows.append(Row("T16", what, timings.ratio(READER, peer.name), 0.25))
    return measured


def _run(runner: asyncio.Runner, peer: Peer, reads: list[bytes]) -> Answer:
    return runner.run(peer.read(reads))
