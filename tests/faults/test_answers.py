"""What a server can do wrong, one line each, before the whole agent; each outcome by hand."""

import gzip
from dataclasses import dataclass, field
from typing import Any

import pytest

from effort import THOROUGH
from faults.case_server import Script, serving
from faults.streams import STREAMS
from faults.whole_agents import ATTEMPTS, KEY, Client, Seen, with_each_client
from pathors_agent.errors import (
    IncompleteResponse,
    MalformedResponse,
    ProviderError,
    TransportError,
)
from servers import CLOSE, PATIENCE_SECONDS, RESET, Step, answer, chunk, free_port, head

EVENTS = {"Content_Type": "text/event-stream", "Connection": "close"}
HELLO = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
CALL = (
    b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","function":'
    b'{"name":"look","arguments":"{\\"city\\":\\"Oslo\\"}"}}]}}]}\n\n'
)
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
ERROR = b'{"error":{"message":"The pig is full.","type":"pig_error","code":"full"}}'
HTML = b"<!doctype html><html><body><h1>502 Bad Gateway</h1></body></html>"
CHUNKED = head(Transfer_Encoding="chunked", **EVENTS)


def stream(*events: bytes, **headers: str) -> list[Step]:
    return [answer(b"".join(events), **EVENTS, **headers)]


def ended(*events: bytes) -> list[Step]:
    """A body that ends with its connection."""
    return [head(**EVENTS), *events, CLOSE]


@dataclass(frozen=True)
class Case:
    """What is sent, and what is seen: `kind` None is the answer "Hello"."""

    script: Script
    kind: type[TransportError] | None
    requests: tuple[int, int] = (1, 1)
    """Without retries, and with."""
    seen: dict[str, Any] = field(default_factory=dict)
    """Attributes of the error."""
    varies: bool = False
    """aiohttp reads nothing of a piece that is garbled further on; the pieces are the network's."""

    def outcome(self, client: Client) -> tuple[object, ...]:
        """Return the error, requests, waits, roles of the history, and the answer."""
        sent = self.requests[client.retrying]
        if self.kind is None:
            return None, sent, sent - 1, ["user", "assistant"], "Hello"
        return self.kind, sent, sent - 1, ["user"], None


def outcome(seen: Seen) -> tuple[object, ...]:
    kind = type(seen.error) if seen.error else None
    return kind, seen.requests, len(seen.waits), seen.roles, seen.output


SAID = {"status": 200, "retryable": False, "type": "pig_error", "code": "full"}

CASES: dict[str, Case] = {
    # - the connection
    "reset unanswered": Case([RESET], TransportError, (1, 4), {"retryable": True}),
    "closed unanswered": Case([CLOSE], TransportError, (1, 4), {"retryable": True}),
    "reset in the status line": Case([b"HTTP/1.1 20", RESET], TransportError, (1, 4)),
    "closed after the head": Case(
        [head(Content_Length="9", **EVENTS), CLOSE], TransportError, (1, 4)
    ),
    "no HTTP": Case([b"SSH-2.0-OpenSSH_9.2\r\n\r\n", CLOSE], TransportError, (1, 4)),
    "HTTP/9": Case([b"HTTP/9.9 200 OK\r\n\r\n", CLOSE], IncompleteResponse, (1, 4), varies=True),
    "nonsense": Case([b"\0\xff\x00\xfe" * 100 + b"\r\n\r\n", CLOSE], TransportError, (1, 4)),
    # - the length, the chunks, the packing
    "length too small": Case(
        [head(Content_Length=str(len(HELLO)), **EVENTS), HELLO + STOP, CLOSE],
        IncompleteResponse,
        varies=True,
    ),
    "length too large, after the end": Case(
        [head(Content_Length="9999", **EVENTS), HELLO + STOP, CLOSE], None
    ),
    "length too large": Case(
        [head(Content_Length="9999", **EVENTS), HELLO, CLOSE], IncompleteResponse
    ),
    "length that is no number": Case(
        [head(Content_Length="many", **EVENTS), HELLO + STOP, CLOSE], TransportError, (1, 4)
    ),
    "length below zero": Case(
        [head(Content_Length="-1", **EVENTS), HELLO + STOP, CLOSE], TransportError, (1, 4)
    ),
    "two lengths": Case(
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n" + HELLO, CLOSE],
        TransportError,
        (1, 4),
    ),
    "garbled first chunk": Case([CHUNKED, b"zz\r\n" + HELLO, CLOSE], TransportError, (1, 4)),
    "garbled second chunk": Case(
        [CHUNKED, chunk(HELLO), b"zz\r\n" + STOP, CLOSE], IncompleteResponse, varies=True
    ),
    "garbled chunk after the end": Case(
        [CHUNKED, chunk(HELLO + STOP), b"zz\r\n", CLOSE], None, varies=True
    ),
    "chunk of endless size": Case(
        [CHUNKED, b"f" * 40 + b"\r\n" + HELLO, CLOSE], TransportError, (1, 4)
    ),
    "no last chunk": Case([CHUNKED, chunk(HELLO), CLOSE], IncompleteResponse),
    "packed but not": Case(
        stream(HELLO, STOP, Content_Encoding="gzip"), TransportError, (1, 1), {"retryable": False}
    ),
    "packed and damaged": Case(
        [answer(gzip.compress(HELLO + STOP)[:-8] + b"\0" * 8, Content_Encoding="gzip", **EVENTS)],
        TransportError,
        (1, 1),
        {"retryable": False},
    ),
    # - 200 with something else
    "a page of HTML": Case(
        [answer(HTML, Content_Type="text/html", Connection="close")],
        ProviderError,
        (1, 1),
        {"status": 200, "retryable": False, "body": HTML.decode()},
    ),
    "an error in JSON": Case([answer(ERROR, Connection="close")], ProviderError, (1, 1), SAID),
    "a list of errors": Case(
        [answer(b"[" + ERROR + b"]", Connection="close")], ProviderError, (1, 1), SAID
    ),
    "plain words": Case([answer(b"upstream is gone", **EVENTS)], ProviderError),
    "nothing": Case([answer(b"", **EVENTS)], IncompleteResponse, (1, 4), {"retryable": True}),
    "nothing, closed": Case(ended(), IncompleteResponse, (1, 4)),
    "blank lines": Case(stream(b"\n\n\r\n"), IncompleteResponse),
    "comments only": Case(stream(b": wait\n\n: wait\n\n"), IncompleteResponse),
    "null": Case([answer(b"null", **EVENTS)], ProviderError),
    "a number": Case([answer(b"7", **EVENTS)], ProviderError),
    "an empty object": Case([answer(b"{}", **EVENTS)], ProviderError),
    "JSON that is cut off": Case([answer(b'{"choices": [{"mess', **EVENTS)], ProviderError),
    "JSON 100,000 deep": Case([answer(b'{"choices":' * 100_000, **EVENTS)], ProviderError),
    "no content": Case(
        [head("204 No Content", Connection="close")], IncompleteResponse, (1, 1), {"partial": None}
    ),
    "reset content": Case(
        [answer(b"", "205 Reset Content", Connection="close")], IncompleteResponse
    ),
    # - a stream that goes wrong
    "only [DONE]": Case(stream(HELLO, b"data: [DONE]\n\n"), None),
    "no end": Case(stream(HELLO), IncompleteResponse, (1, 1), {"retryable": True}),
    "an event that is no JSON": Case(
        stream(HELLO, b"data: {oops}\n\n", STOP), MalformedResponse, (1, 1), {"data": "{oops}"}
    ),
    "an event that is a number": Case(stream(HELLO, b"data: 7\n\n", STOP), MalformedResponse),
    "an event 100,000 deep": Case(
        stream(HELLO, b"data: " + b"[" * 100_000 + b"\n\n", STOP), MalformedResponse
    ),
    "an error event": Case(
        stream(HELLO, b"event: error\ndata: " + ERROR + b"\n\n"), ProviderError, (1, 1), SAID
    ),
    "an error event first of all": Case(
        stream(b"event: error\ndata: " + ERROR + b"\n\n", HELLO, STOP), ProviderError, (1, 1), SAID
    ),
    "an error as data": Case(stream(HELLO, b"data: " + ERROR + b"\n\n"), ProviderError, seen=SAID),
    "an error after a whole call": Case(
        stream(CALL, b"data: " + ERROR + b"\n\n", STOP), ProviderError, seen=SAID
    ),
    "an error after the end": Case(
        stream(CALL, STOP, b"data: " + ERROR + b"\n\n"), ProviderError, seen=SAID
    ),
    "a call without an end": Case(stream(CALL), IncompleteResponse),
    "a character cut off at the end": Case(
        ended(HELLO.replace(b"Hello", b"H\xc3")[:-20]), IncompleteResponse
    ),
    "a character cut off inside": Case(stream(HELLO, STOP.replace(b"{}", b'{"x":"\xc3"}')), None),
    "bytes that are no UTF-8": Case(
        stream(b"data: \xff\xfe\xfd\n\n", HELLO, STOP), MalformedResponse
    ),
    "UTF-16": Case([answer((HELLO + STOP).decode().encode("utf-16"), **EVENTS)], ProviderError),
    # - a body where none was asked for
    "informational answers first": Case(
        [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3, *stream(HELLO, STOP)], None
    ),
    "not modified": Case(
        [head("304 Not Modified", Connection="close")], ProviderError, (1, 1), {"status": 304}
    ),
}


@with_each_client
def test_every_fault_is_a_message_or_one_of_our_errors(client: Client) -> None:
    with serving({name: [case.script] for name, case in CASES.items()}) as server:
        all_seen = client.run_all(server, list(CASES))
    for (name, case), seen in zip(CASES.items(), all_seen, strict=True):
        if case.varies and client.way == "aiohttp":
            assert isinstance(seen.error, TransportError | None), name
        else:
            assert outcome(seen) == case.outcome(client), (name, seen.error)
        assert seen.tool_runs == [], name
        assert seen.seconds < PATIENCE_SECONDS, name  # no wait was needed, so none was long
        for attribute, value in case.seen.items():
            assert getattr(seen.error, attribute) == value, (name, attribute)
        assert KEY not in f"{seen.error} {seen.error!r}", name


# - statuses -

#          status: (is it sent again,)
STATUSES = {
    400: False,
    401: False,
    402: False,
    403: False,
    404: False,
    405: False,
    406: False,
    408: True,
    409: True,
    410: False,
    413: False,
    415: False,
    418: False,
    421: False,
    422: False,
    425: False,
    426: False,
    429: True,
    431: False,
    451: False,
    499: False,
    500: True,
    501: True,
    502: True,
    503: True,
    504: True,
    505: True,
    507: True,
    511: True,
    520: True,
    529: True,
    599: True,
}


@with_each_client
@pytest.mark.parametrize("body", [ERROR, HTML, b""], ids=["JSON", "HTML", "nothing"])
def test_error_status_is_reported_and_retried_only_if_it_may_pass(
    client: Client, body: bytes
) -> None:
    statuses = STATUSES if body == ERROR else {404: False, 503: True}
    scripts = {
        str(status): [[answer(body, f"{status} Oh", Connection="close")]] for status in statuses
    }
    with serving(scripts) as server:
        all_seen = client.run_all(server, list(scripts))
    for (status, is_sent_again), seen in zip(statuses.items(), all_seen, strict=True):
        error = seen.raised
        assert type(error) is ProviderError
        assert (error.status, error.retryable, error.body) == (status, is_sent_again, body.decode())
        assert error.code == ("full" if body == ERROR else None)
        assert str(error).startswith(f"the provider answered {status}: ")
        assert seen.requests == (client.attempts if is_sent_again else 1), status
        assert len(seen.waits) == seen.requests - 1, status
        assert seen.seconds < PATIENCE_SECONDS, status
        assert (seen.roles, seen.tool_runs) == (["user"], [])


@with_each_client
def test_answer_after_two_failures_is_an_answer(client: Client) -> None:
    failures: list[Script] = [[answer(ERROR, "503 Busy", Connection="close")], [RESET]]
    with serving({"go": [*failures, stream(HELLO, STOP)]}) as server:
        seen = client.run(server, "go")

    assert (seen.output, seen.requests) == (("Hello", 3) if client.retrying else (None, 1))
    assert len(seen.waits) == (2 if client.retrying else 0)


@with_each_client
def test_refused_connection_is_reported(client: Client) -> None:
    with serving({}) as server:
        seen = client.run_all(server, ["go"], url=f"http://127.0.0.1:{free_port()}/v1")[0]

    assert type(seen.error) is TransportError
    assert seen.error.retryable
    assert len(seen.waits) == client.attempts - 1
    assert seen.roles == ["user"]


# - redirects -


@with_each_client
def test_key_does_not_follow_a_redirect(client: Client) -> None:
    statuses = [301, 302, 303, 307, 308]
    with serving({}) as elsewhere:
        there = f"http://localhost:{elsewhere.port}/v1/chat/completions"
        scripts: dict[str, list[Script]] = {
            str(status): [[answer(b"", f"{status} Moved", Location=there, Connection="close")]]
            for status in statuses
        }
        with serving(scripts) as server:
            all_seen = client.run_all(server, list(scripts))
    for status, seen in zip(statuses, all_seen, strict=True):
        assert type(seen.error) is TransportError, status
        assert f"answered {status}" in str(seen.error)
        assert not seen.error.retryable, status
        assert seen.requests == 1, status
        assert KEY not in str(seen.error), status
        assert seen.roles == ["user"], status
    assert (elsewhere.connections, elsewhere.requests) == (0, [])


# - Retry-After -

# Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110
NOW = 784111777.0
TWO = "The answer to 503 asks for 2 seconds"

#                 header: (seconds that the second attempt waits at least, requests)
RETRY_AFTER: dict[tuple[str, str], tuple[float, int]] = {
    ("Retry-After", "2"): (2.0, 2),
    ("Retry-After", "2.5"): (2.5, 2),
    ("retry-after-ms", "2500"): (2.5, 2),
    ("Retry-After", "Sun, 06 Nov 1994 08:49:57 GMT"): (20.0, 2),
    ("Retry-After", "Sunday, 06-Nov-94 08:49:57 GMT"): (20.0, 2),
    ("Retry-After", "Sun Nov  6 08:49:57 1994"): (20.0, 2),
    ("Retry-After", "60"): (60.0, 2),
    # It does not ask, or it is unknown what for.
    ("Retry-After", "0"): (0.0, 2),
    ("Retry-After", "-5"): (0.0, 2),
    ("Retry-After", "Sun, 06 Nov 1994 08:49:17 GMT"): (0.0, 2),
    ("Retry-After", "soon"): (0.0, 2),
    ("Retry-After", "inf"): (0.0, 2),
    ("Retry-After", "nan"): (0.0, 2),
    ("Retry-After", "1e9"): (0.0, 2),
    ("Retry-After", "\u0662"): (0.0, 2),
    ("retry-after-ms", "-1"): (0.0, 2),
    # Longer than anybody waits: it is not asked again.
    ("Retry-After", "61"): (0.0, 1),
    ("Retry-After", "198300"): (0.0, 1),
    ("Retry-After", "9" * 400): (0.0, 1),
    ("retry-after-ms", "198300000"): (0.0, 1),
    ("Retry-After", "Wed, 06 Nov 2994 08:49:57 GMT"): (0.0, 1),
}


@with_each_client
def test_server_is_left_alone_as_long_as_it_asks_and_no_longer_than_anybody_waits(
    client: Client,
) -> None:
    def busy(name: str, value: str) -> Script:
        lines = f"HTTP/1.1 503 Busy\r\n{name}: {value}\r\nConnection: close\r\nContent-Length: 0"
        return [lines.encode() + b"\r\n\r\n"]

    scripts = {
        f"{name}: {value}": [busy(name, value), stream(HELLO, STOP)] for name, value in RETRY_AFTER
    }
    with serving(scripts) as server:
        all_seen = client.run_all(server, list(scripts), clock=lambda: NOW)
    for (case, (least, requests)), seen in zip(RETRY_AFTER.items(), all_seen, strict=True):
        sent = requests if client.retrying else 1
        assert seen.requests == sent, case
        assert seen.output == ("Hello" if sent == 2 else None), case
        assert len(seen.waits) == sent - 1, case
        for wait in seen.waits:
            # A little of its own while the server asks for nothing: up to half a second.
            assert least <= wait <= max(least, 0.5), case
        assert seen.seconds < 20  # nothing really slept


# - damage anywhere -


def damaged(script: bytes, seed: int) -> bytes:
    """Change, drop or double one byte, or one stretch."""
    place = (seed * 7919) % len(script)
    match seed % 4:
        case 0:
            return script[:place] + bytes([seed * 31 % 256]) + script[place + 1 :]
        case 1:
            return script[:place] + script[place + 1 + seed % 20 :]
        case 2:
            return script[:place] + script[place : place + 30] + script[place:]
        case _:
            return script[:place] + bytes([seed % 256, 0, 0x0D, 0x0A]) + script[place:]


@with_each_client
def test_damaged_answer_is_a_message_or_one_of_our_errors(client: Client) -> None:
    wires = {one.name: one.wire for one in STREAMS}
    scripts: dict[str, list[Script]] = {
        f"{name}/{seed}": [[damaged(wire, seed), CLOSE]]
        for name, wire in wires.items()
        for seed in range(12 if THOROUGH else 4)
    }
    with serving(scripts) as server:
        all_seen = client.run_all(server, list(scripts))
    for case, seen in zip(scripts, all_seen, strict=True):
        assert seen.error is None or isinstance(seen.error, TransportError), case
        assert seen.roles[:1] == ["user"], case
        assert seen.requests <= ATTEMPTS + 1, case
        if seen.error and seen.roles == ["user"]:
            assert seen.tool_runs == [], case
