"""Answers that never end, before the whole agent: every wait and every buffer has its limit."""

import gc
import resource
import sys
import zlib
from dataclasses import dataclass

import pytest

from faults.case_server import Script, serving
from faults.whole_agents import Client, with_each_client
from pathors_agent.errors import (
    IncompleteResponse,
    MalformedResponse,
    ProviderError,
    TransportError,
)
from pathors_agent.transports.http import Timeouts
from servers import Drip, head

pytestmark = pytest.mark.slow

EVENTS = head(Content_Type="text/event-stream", Connection="close")
PACKED = head(Content_Type="text/event-stream", Connection="close", Content_Encoding="gzip")

# What is held of one answer is 32 MiB at most, and 1 MiB of it is unpacked at a time.
MEMORY_BYTES = 256 * 1024 * 1024
SLACK_SECONDS = 20.0


def for_ever(*start: bytes, then: bytes) -> Script:
    return [*start, Drip(then, 0)]


def bomb(start: bytes, then: bytes) -> Script:
    """The same, packed a thousand to one: the second part stands for itself wherever it is."""
    packer = zlib.compressobj(9, wbits=31)
    first = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    second = packer.compress(then * (4_000_000 // len(then))) + packer.flush(zlib.Z_FULL_FLUSH)
    return for_ever(PACKED, first, then=second)


def event(delta: bytes) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":' + delta + b"}]}\n\n"


def call(index: int, arguments: bytes = b"") -> bytes:
    return event(
        b'{"tool_calls":[{"index":%d,"id":"c%d","function":{"name":"look","arguments":"%s"}}]}'
        % (index, index, arguments)
    )


A = b"a" * 65536
LONG_TEXT = event(b'{"content":"' + A + b'"}')
SHORT_TEXT = event(b'{"content":"a"}') * 1000


@dataclass(frozen=True)
class Case:
    script: Script
    kind: type[TransportError]
    words: str
    requests: tuple[int, int] = (1, 1)


BOUNDS = {
    "a line": Case(for_ever(EVENTS, b"data: ", then=A), MalformedResponse, "an event is longer"),
    "an event of many lines": Case(
        for_ever(EVENTS, then=b"data: " + A + b"\n"), MalformedResponse, "an event is longer"
    ),
    "the name of a field": Case(for_ever(EVENTS, then=A), MalformedResponse, "an event is longer"),
    "a comment": Case(for_ever(EVENTS, b": ", then=A), MalformedResponse, "an event is longer"),
    "a plain body": Case(for_ever(EVENTS, b'{"x":"', then=A), MalformedResponse, "the body"),
    "text": Case(for_ever(EVENTS, then=LONG_TEXT), MalformedResponse, "the message"),
    "text in letters": Case(for_ever(EVENTS, then=SHORT_TEXT), MalformedResponse, "the message"),
    "reasoning": Case(
        for_ever(EVENTS, then=LONG_TEXT.replace(b"content", b"reasoning")),
        MalformedResponse,
        "the message",
    ),
    "unknown fields": Case(
        for_ever(EVENTS, then=event(b'{"details":["' + A + b'"]}')),
        MalformedResponse,
        "the message",
    ),
    "arguments": Case(
        for_ever(EVENTS, call(0, b"{"), then=call(0, A)), MalformedResponse, "the arguments"
    ),
    "calls": Case(
        for_ever(EVENTS, *[call(index) for index in range(129)], then=call(0)),
        MalformedResponse,
        "MAX_CALLS",
    ),
    "choices": Case(
        for_ever(
            EVENTS,
            *[LONG_TEXT.replace(b'"index":0', b'"index":%d' % i) for i in range(200)],
            then=LONG_TEXT,
        ),
        MalformedResponse,
        "",
    ),
    "a packed line": Case(bomb(b"data: ", b"a"), MalformedResponse, "an event is longer"),
    "a packed body": Case(bomb(b'{"x":"', b"a"), MalformedResponse, "the body"),
    "packed text": Case(bomb(b"", SHORT_TEXT), MalformedResponse, "the message"),
    "a status line": Case(for_ever(b"HTTP/1.1 200 ", then=A), TransportError, "", (1, 4)),
    "a header": Case(for_ever(b"HTTP/1.1 200 OK\r\nX: ", then=A), TransportError, "", (1, 4)),
    "headers": Case(
        for_ever(b"HTTP/1.1 200 OK\r\n", then=b"X: " + b"a" * 1000 + b"\r\n"),
        TransportError,
        "",
        (1, 4),
    ),
    "an error": Case(
        for_ever(head("500 Oh", Connection="close"), then=A), ProviderError, "500: aaaa", (1, 4)
    ),
    "a packed error": Case(
        [PACKED.replace(b"200 OK", b"500 Oh"), *bomb(b"", b"a")[1:]],
        ProviderError,
        "500: aaaa",
        (1, 4),
    ),
}


@with_each_client
def test_answer_that_grows_for_ever_is_refused_at_a_bound(client: Client) -> None:
    # Retries see nothing of a body that was begun.
    cases = {n: c for n, c in BOUNDS.items() if not client.retrying or c.requests != (1, 1)}
    before = peak_memory()
    with serving({name: [case.script] for name, case in cases.items()}) as server:
        for name, case in cases.items():
            seen = client.run(server, name)
            assert type(seen.error) is case.kind, (name, seen.error)
            assert case.words in str(seen.error), name
            assert len(str(seen.error)) < 3000, name
            assert seen.requests == case.requests[client.retrying], name
            assert (seen.tool_runs, seen.roles) == ([], ["user"]), name
            del seen  # its error holds what had arrived
            gc.collect()
    assert peak_memory() - before < MEMORY_BYTES


def peak_memory() -> int:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


# - what is small, and goes on and on -

WHOLE = 0.4

TIMES = {
    "a byte at a time": Case(
        [EVENTS, b"data: ", Drip(b"a", 0.01)], IncompleteResponse, f"Timeouts(whole={WHOLE:g})"
    ),
    "comments": Case(
        for_ever(EVENTS, then=b": still here\n\n" * 1000), IncompleteResponse, "Timeouts(whole="
    ),
    "blank lines": Case(
        for_ever(EVENTS, then=b"\r\n" * 1000), IncompleteResponse, "Timeouts(whole"
    ),
    "packed blank lines": Case(bomb(b"", b"\n"), IncompleteResponse, "Timeouts(whole="),
    "pings": Case(
        for_ever(EVENTS, then=b"event: ping\ndata: {}\n\n" * 1000),
        IncompleteResponse,
        "Timeouts(whole=",
    ),
    "chunks of usage": Case(
        for_ever(EVENTS, then=b'data: {"choices":[],"usage":{"total_tokens":1}}\n\n' * 1000),
        IncompleteResponse,
        "Timeouts(whole=",
    ),
    "empty pieces": Case(
        for_ever(EVENTS, then=event(b'{"content":""}') * 1000),
        IncompleteResponse,
        "Timeouts(whole=",
    ),
    "the head, a byte at a time": Case(
        [b"HTTP/1.1 200 OK\r\nX: ", Drip(b"a", 0.01)], TransportError, "Timeouts(whole="
    ),
    "informational answers": Case(
        for_ever(then=b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100), TransportError, "Timeouts(whole="
    ),
}


@with_each_client
def test_answer_that_trickles_for_ever_is_left_when_its_time_is_over(client: Client) -> None:
    limits = Timeouts(whole=WHOLE)
    with serving({name: [case.script] for name, case in TIMES.items()}) as server:
        all_seen = client.run_all(server, list(TIMES), together=len(TIMES), timeouts=limits)
    for (name, case), seen in zip(TIMES.items(), all_seen, strict=True):
        assert isinstance(seen.error, TransportError)
        # On a busy machine the time may be over before anything of the answer was read.
        assert type(seen.error) in (case.kind, TransportError), (name, seen.error)
        assert seen.error.timed_out, name
        assert case.words in str(seen.error), name
        assert seen.requests == 1, name  # the time was the request's, with all its attempts
        assert seen.seconds < WHOLE + SLACK_SECONDS, name
        assert (seen.tool_runs, seen.roles) == ([], ["user"]), name
