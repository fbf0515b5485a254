"""Ten streams broken off after each byte, and stalled there, before the whole agent."""

import os

import pytest

from faults.case_server import Script, serving
from faults.streams import SHORTEST, STREAMS, Stream
from faults.whole_agents import CLIENTS, Client, Seen, with_each_client
from pathors_agent.errors import IncompleteResponse, TransportError
from pathors_agent.transports.http import Timeouts
from servers import CLOSE, RESET, STALL, Close, Reset, Step

pytestmark = pytest.mark.slow

# By default each byte of the shortest stream, and every so many of the others; with FAULTS=all
# each byte of all, by each client.
EACH_BYTE = os.environ.get("FAULTS") == "all"
STEP = 25

# How long a stalled stream is waited for, and how late a busy machine may be.
SHORT = 0.1
LONG = 20.0
TOGETHER = 50

# What is seen of a stream that ends too early. The answer is asked for again only while nothing
# of it had come; a tool runs, and is told of in the history, only when all of it had.
#          zone:       (the error,          requests: plain, retrying)
OUTCOMES = {
    "head": (TransportError, 1, 4),
    "empty": (TransportError, 1, 4),
    "unfinished": (IncompleteResponse, 1, 1),
}


def check(seen: Seen, stream: Stream, sent: int, client: Client, end: Step) -> None:
    """Compare a run with the table."""
    # Where the connection's end is the body's, aiohttp takes a reset for one, too.
    ends = stream.framing == "close" and (end is CLOSE or (end, client.way) == (RESET, "aiohttp"))
    zone = stream.zone(sent, in_good_order=ends)
    what = f"{stream.name}: {sent} of {len(stream.wire)} bytes, {zone}"
    if zone == "finished":
        assert seen.error is None, what
        assert seen.output == (stream.text or "Done."), what
        assert sorted(seen.tool_runs) == list(stream.calls), what  # side by side on loops
        assert seen.requests == (2 if stream.calls else 1), what
        results = ["tool"] * len(stream.calls)
        after = [*results, "assistant"] if results else []
        assert seen.roles == ["user", "assistant", *after], what
        return
    kind, plain, retrying = OUTCOMES[zone]
    requests = retrying if client.retrying else plain
    # A body that ends in good order before its first byte is an empty answer.
    kinds = {kind, IncompleteResponse} if zone == "empty" else {kind}
    assert type(seen.error) in kinds, (what, seen.error)
    assert isinstance(seen.error, TransportError)
    assert seen.error.retryable, what
    # A request may reach a busy server only after its time is over.
    assert (seen.error.attempts if end is STALL else seen.requests) == requests, what
    assert len(seen.waits) == requests - 1, what
    assert seen.tool_runs == [], what
    assert seen.roles == ["user"], what
    assert seen.error.messages == seen.history, what


def places(stream: Stream, client: Client, end: Reset | Close) -> list[int]:
    """Choose where to cut; the clients and both ends share the bytes among them."""
    everywhere = range(len(stream.wire) + 1)
    if EACH_BYTE:
        return list(everywhere)
    shares = [(client, end) for client in CLIENTS for end in (RESET, CLOSE)]
    step = len(shares) * (1 if stream is SHORTEST else STEP)
    return sorted({*stream.borders(), *everywhere[shares.index((client, end)) :: step]})


@with_each_client
@pytest.mark.parametrize("end", [RESET, CLOSE], ids=["reset", "closed"])
def test_stream_that_ends_after_any_byte_is_a_whole_message_or_an_error(
    client: Client, end: Reset | Close
) -> None:
    cuts = [(stream, sent) for stream in STREAMS for sent in places(stream, client, end)]
    scripts: dict[str, list[Script]] = {
        f"{stream.name}/{sent}": [[stream.wire[:sent], end]] for stream, sent in cuts
    }
    with serving(scripts) as server:
        all_seen = client.run_all(server, list(scripts))
    for (stream, sent), seen in zip(cuts, all_seen, strict=True):
        check(seen, stream, sent, client, end)


@with_each_client
@pytest.mark.parametrize("limit", ["first_byte", "between_bytes"])
def test_stream_that_stalls_after_any_byte_is_left_at_the_limit(client: Client, limit: str) -> None:
    # One limit is short; the other is longer than a busy machine takes for anything.
    timeouts = Timeouts(**{"first_byte": LONG, "between_bytes": LONG, limit: SHORT})
    streams = STREAMS if EACH_BYTE or not client.retrying else STREAMS[:2]
    cuts = [
        (stream, sent)
        for stream in streams
        for sent in (range(len(stream.wire) + 1) if EACH_BYTE else stream.borders())
        if (stream.zone(sent) in ("head", "empty")) == (limit == "first_byte")
    ]
    scripts: dict[str, list[Script]] = {
        f"{stream.name}/{sent}": [[stream.wire[:sent], STALL]] for stream, sent in cuts
    }
    with serving(scripts) as server:
        all_seen = client.run_all(server, list(scripts), together=TOGETHER, timeouts=timeouts)
    for (stream, sent), seen in zip(cuts, all_seen, strict=True):
        check(seen, stream, sent, client, STALL)
        assert seen.seconds < LONG
        if isinstance(seen.error, TransportError):
            assert seen.error.timed_out
            assert f"Timeouts({limit}={SHORT:g})" in str(seen.error)
