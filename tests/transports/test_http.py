"""HTTP transports against real sockets: answers, limits of time, and failures."""

import gzip
import socket
import zlib
from collections.abc import Iterable, Iterator
from urllib.parse import urljoin

import aiohttp
import httpx2
import pytest

from pathors_agent.errors import TransportError
from pathors_agent.testing.loopback_server import refused_port
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport, Timeouts
from servers import CLOSE, RESET, STALL, Drip, Step, answer, chunk, head
from transports.fetching import CANARY, CHUNKED, REQUEST, Fetch, StartServer, read_all

# - what comes back -


@pytest.mark.parametrize("status", ["400 Bad Request", "401 No", "429 Slow", "500 Oops", "529 x"])
def test_error_status_is_returned_with_its_body(
    scripted_server: StartServer, fetch: Fetch, status: str
) -> None:
    server = scripted_server([answer(b'{"error": "no"}', status, Retry_After="1")])

    answered = fetch(server.url)

    assert answered.status == int(status[:3])
    assert answered.body == b'{"error": "no"}'
    assert answered.headers == {"content-length": "15", "retry-after": "1"}


def test_answer_without_content_is_returned(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([head("204 No Content")])

    answered = fetch(server.url)

    assert (answered.status, answered.body) == (204, b"")


def test_informational_answers_are_passed_over(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([head("103 Early Hints", Link="</a>"), answer(b"hi")])

    assert fetch(server.url).body == b"hi"


def test_body_without_length_ends_with_the_connection(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    server = scripted_server([head(), b"hel", b"lo", CLOSE])

    assert fetch(server.url).body == b"hello"


def test_piece_is_yielded_as_soon_as_it_arrives(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([CHUNKED, chunk(b"data: 1\n\n"), STALL])

    with pytest.raises(TransportError, match=r"between_bytes=0\.2"):
        fetch(server.url, timeouts=Timeouts(between_bytes=0.2))

    assert fetch.pieces == [b"data: 1\n\n"]


@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("deflate", 15), ("deflate", -15)])
def test_compressed_piece_is_yielded_as_soon_as_it_arrives(
    scripted_server: StartServer, fetch: Fetch, encoding: str, wbits: int
) -> None:
    press = zlib.compressobj(wbits=wbits)
    piece = press.compress(b"data: 1\n\n") + press.flush(zlib.Z_SYNC_FLUSH)
    start = head(Transfer_Encoding="chunked", Content_Encoding=encoding)
    server = scripted_server([start, chunk(piece), STALL])

    with pytest.raises(TransportError, match="after 9 bytes"):
        fetch(server.url, timeouts=Timeouts(between_bytes=0.2))

    assert b"".join(fetch.pieces) == b"data: 1\n\n"


def test_compressed_body_is_unpacked(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(gzip.compress(b"hello" * 1000), Content_Encoding="gzip")])

    assert fetch(server.url).body == b"hello" * 1000


def test_connection_of_a_finished_answer_is_used_again(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    server = scripted_server([answer(b"1")], [CHUNKED, chunk(b"2"), chunk(b"")], [answer(b"3")])

    with fetch.opened(server.url) as transport:
        assert [transport.read() for _ in range(3)] == [b"1", b"2", b"3"]

    assert server.connections == 1


def test_connection_is_used_again_when_reading_stopped_before_its_last_bytes(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    script = [CHUNKED, chunk(b"data: [DONE]\n\n"), chunk(b": bye\n\n") + b"0\r\n\r\n"]
    server = scripted_server(script, script)

    with fetch.opened(server.url) as transport:
        for _ in range(2):
            assert transport.read(1).startswith(b"data: [DONE]")

    assert server.connections == 1


def test_server_that_never_ends_its_body_does_not_hold_the_caller(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    server = scripted_server([CHUNKED, chunk(b"data: [DONE]\n\n"), STALL])
    patient = Timeouts(between_bytes=3600, whole=3600)

    with fetch.opened(server.url, timeouts=patient) as transport:
        assert transport.read(1) == b"data: [DONE]\n\n"


def test_flood_after_the_answer_is_not_read(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([CHUNKED, chunk(b"data: [DONE]\n\n"), Drip(chunk(b"x" * 9_000), 0)])

    with fetch.opened(server.url) as transport:
        transport.read(1)
        server.wait_until_clients_left()


def test_key_in_an_error_of_the_provider_is_masked(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    body = b'{"error": {"message": "Incorrect API key provided: ' + CANARY.encode() + b'"}}'
    server = scripted_server([answer(body, "401 Unauthorized")])

    got = fetch(server.url, api_key=CANARY)

    assert got.body == b'{"error": {"message": "Incorrect API key provided: ***"}}'


# - limits of time -


@pytest.mark.parametrize(
    ("script", "limit"),
    [
        pytest.param([STALL], "first_byte=0.2", id="nothing"),
        pytest.param(
            [b"HTTP/1.1 200 O", Drip(b"K", 0.02)], "first_byte=0.2", id="endless status line"
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\n", Drip(b"X: y\r\n", 0.02)], "first_byte=0.2", id="endless head"
        ),
        pytest.param(
            [Drip(b"HTTP/1.1 103 Wait\r\n\r\n", 0.02)], "first_byte=0.2", id="endless hints"
        ),
        pytest.param([CHUNKED, STALL], "first_byte=0.2", id="head only"),
        pytest.param([CHUNKED, chunk(b"a"), STALL], "between_bytes=0.1", id="silence"),
        pytest.param([CHUNKED, Drip(chunk(b": alive\n\n"), 0.02)], "whole=0.6", id="endless body"),
    ],
)
def test_slow_server_is_left_at_the_limit(
    scripted_server: StartServer, fetch: Fetch, script: Iterable[Step], limit: str
) -> None:
    server = scripted_server(script)
    timeouts = Timeouts(first_byte=0.2, between_bytes=0.1, whole=0.6)

    with pytest.raises(TransportError) as caught:
        fetch(server.url, timeouts=timeouts)

    assert f"the limit is Timeouts({limit})" in str(caught.value)
    assert f"127.0.0.1:{server.port}" in str(caught.value)
    server.wait_until_clients_left()


def test_silence_before_the_first_byte_may_be_longer_than_later_ones(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    # Drip waits before it sends: the first byte comes after 0.3 s, longer than between_bytes.
    server = scripted_server([CHUNKED, Drip(chunk(b"a"), 0.3)])

    with pytest.raises(TransportError, match="between_bytes"):
        fetch(server.url, timeouts=Timeouts(first_byte=20, between_bytes=0.1))

    assert fetch.pieces == [b"a"]


@pytest.mark.parametrize("script", [[STALL], [CHUNKED, chunk(b"a"), STALL]])
def test_no_read_waits_longer_than_the_whole_may_take(
    scripted_server: StartServer, fetch: Fetch, script: Iterable[Step]
) -> None:
    server = scripted_server(script)

    with pytest.raises(TransportError, match=r"whole=0\.3") as caught:
        fetch(server.url, timeouts=Timeouts(first_byte=3600, between_bytes=3600, whole=0.3))

    assert not caught.value.retryable


def test_limits_hold_on_a_connection_used_again(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(b"1")], [b"HTTP/1.1 200 OK\r\n", Drip(b"X: y\r\n", 0.02)])

    with fetch.opened(server.url, timeouts=Timeouts(first_byte=0.3)) as transport:
        transport.read()
        with pytest.raises(TransportError, match=r"first_byte=0\.3"):
            transport.read()

    assert server.connections == 1


class EndlessBody(httpx2.SyncByteStream):
    """A body that is never waited for: no read of a connection notices the time."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b"a"


def test_whole_is_limited_where_no_read_waits() -> None:
    endless = httpx2.MockTransport(lambda _: httpx2.Response(200, stream=EndlessBody()))

    with httpx2.Client(transport=endless) as client:
        transport = HTTPTransport("http://127.0.0.1:1", client=client, timeouts=Timeouts(whole=0.2))
        with transport.send(REQUEST) as response, pytest.raises(TransportError, match="whole"):
            for _ in response.pieces:
                pass


def test_no_limits_are_possible(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(b"hi")])
    timeouts = Timeouts(connect=None, first_byte=None, between_bytes=None, whole=None)

    assert fetch(server.url, timeouts=timeouts).body == b"hi"


def test_connection_that_is_not_accepted_times_out(fetch: Fetch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(address)

        with pytest.raises(TransportError, match=r"Timeouts\(connect=0\.2\)") as caught:
            fetch(f"http://127.0.0.1:{address[1]}", timeouts=Timeouts(connect=0.2))

        for client in waiting:
            client.close()
    assert caught.value.retryable


def test_wait_for_a_free_connection_is_limited(scripted_server: StartServer) -> None:
    server = scripted_server([CHUNKED, chunk(b"a"), STALL])
    limits = httpx2.Limits(max_connections=1)

    with httpx2.Client(limits=limits) as client:
        transport = HTTPTransport(
            server.url, retries=0, client=client, timeouts=Timeouts(connect=0.2)
        )
        with (
            transport.send(REQUEST),
            pytest.raises(TransportError, match=r"connect=0\.2"),
            transport.send(REQUEST),
        ):
            pass


# - failures -


@pytest.mark.parametrize(
    ("script", "received"),
    [
        pytest.param([RESET], 0, id="reset before the head"),
        pytest.param([CLOSE], 0, id="closed before the head"),
        pytest.param([b"HTTP/1.1 200 O", RESET], 0, id="reset in the head"),
        pytest.param([b"HTTP/1.1 200 O", CLOSE], 0, id="closed in the head"),
        pytest.param([b"SSH-2.0-OpenSSH\r\n\r\n", STALL], 0, id="not HTTP"),
        pytest.param([CHUNKED, chunk(b"abc"), CLOSE], 3, id="closed in the body"),
        pytest.param([head(Content_Length="9"), b"abc", CLOSE], 3, id="body shorter than told"),
    ],
)
def test_broken_answer_is_a_transport_error(
    scripted_server: StartServer, fetch: Fetch, script: Iterable[Step], received: int
) -> None:
    server = scripted_server(script)

    with pytest.raises(TransportError) as caught:
        fetch(server.url)

    assert type(caught.value) is TransportError
    assert caught.value.retryable
    assert f"after {received} bytes" in str(caught.value)
    assert f"http://127.0.0.1:{server.port}" in str(caught.value)
    assert isinstance(caught.value.__cause__, httpx2.TransportError | aiohttp.ClientError)
    assert len(b"".join(fetch.pieces)) == received
    assert len(server.requests) == 1


def test_garbled_chunk_is_a_transport_error(scripted_server: StartServer, fetch: Fetch) -> None:
    # aiohttp drops what comes in one packet with the garbled bytes.
    server = scripted_server([CHUNKED, chunk(b"abc"), Drip(b"zz\r\n", 0.05)])

    with pytest.raises(TransportError, match=r"garbled its answer after [03] bytes") as caught:
        fetch(server.url)

    assert caught.value.retryable
    server.wait_until_clients_left()


def test_reset_in_the_body_is_a_transport_error(scripted_server: StartServer, fetch: Fetch) -> None:
    # A reset may overtake what was sent before it.
    server = scripted_server([CHUNKED, chunk(b"abc"), RESET])

    with pytest.raises(TransportError, match=r"(broke|cut off .*) after [03] bytes") as caught:
        fetch(server.url)

    assert caught.value.retryable


def test_port_that_refuses_is_named(fetch: Fetch) -> None:
    with refused_port() as refused, pytest.raises(TransportError) as caught:
        fetch(refused)

    server = urljoin(refused, "/").rstrip("/")
    assert str(caught.value).startswith(f"No connection to {server}: [Errno 111]")
    assert caught.value.retryable


@pytest.mark.parametrize("reads", [False, True])
def test_status_that_a_hook_of_the_client_raises_is_an_answer(
    scripted_server: StartServer, reads: bool
) -> None:
    def hook(response: httpx2.Response) -> None:
        if reads:
            response.read()
        response.raise_for_status()

    body = gzip.compress(b"No such model.")
    server = scripted_server(
        [answer(b"", "503 Busy", Retry_After="0")],
        [answer(body, "400 Bad", Content_Encoding="gzip")],
    )
    with httpx2.Client(event_hooks={"response": [hook]}) as client:
        transport = HTTPTransport(server.url, client=client)
        with transport.send(REQUEST) as response:
            pieces = b"".join(response.pieces)

    assert response.status == 400
    assert pieces == (b"No such model." if reads else b"")
    assert len(server.requests) == 2


@pytest.mark.anyio
async def test_status_that_a_hook_of_an_async_client_raises_is_an_answer(
    scripted_server: StartServer,
) -> None:
    async def hook(response: httpx2.Response) -> None:
        await response.aread()
        response.raise_for_status()

    server = scripted_server([answer(b"No such model.", "400 Bad")])
    async with httpx2.AsyncClient(event_hooks={"response": [hook]}) as client:
        transport = AsyncHTTPTransport(server.url, client=client)
        async with transport.send(REQUEST) as response:
            pieces = [piece async for piece in response.pieces]

    assert (response.status, b"".join(pieces)) == (400, b"No such model.")
    assert len(server.requests) == 1


def test_error_of_the_system_in_a_clients_transport_is_a_transport_error() -> None:
    def broken(request: httpx2.Request) -> httpx2.Response:
        raise ConnectionResetError("the tunnel broke")

    with httpx2.Client(transport=httpx2.MockTransport(broken)) as client:
        transport = HTTPTransport("http://127.0.0.1:1", retries=0, client=client)
        with pytest.raises(TransportError, match="the tunnel broke") as caught:
            read_all(transport)

    assert caught.value.retryable


@pytest.mark.parametrize("status", ["200 OK", "400 Bad"])
@pytest.mark.parametrize("packing", ["compress", "x-gzip", "GZIP, br", "zstd,gzip"])
def test_packing_that_was_not_asked_for_is_named(
    scripted_server: StartServer, fetch: Fetch, status: str, packing: str
) -> None:
    server = scripted_server([answer(b"\x1f\x9d\x90", status, Content_Encoding=packing)])

    with pytest.raises(
        TransportError, match=f"answered {status[:3]} .* packed as {packing.lower()}"
    ) as caught:
        fetch(server.url)

    assert not caught.value.retryable
    assert len(server.requests) == 1


# httpx2 leaves a generator to the garbage collector when its own decoder fails; trio warns of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_body_that_cannot_be_unpacked_is_final(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(b"no gzip", Content_Encoding="gzip")])

    with pytest.raises(TransportError, match="decompressed") as caught:
        fetch(server.url)

    assert not caught.value.retryable


def test_redirect_with_an_endless_body_is_closed(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    moved = head("301 Moved", Location="http://127.0.0.1:1", Transfer_Encoding="chunked")
    server = scripted_server([moved, chunk(b"a"), STALL])

    with pytest.raises(TransportError, match="301"):
        fetch(server.url)

    server.wait_until_clients_left()


def test_redirect_is_refused_through_a_client_that_follows(scripted_server: StartServer) -> None:
    elsewhere = scripted_server([answer()])
    server = scripted_server([answer(b"", "307 Same", Location=elsewhere.url)])

    with httpx2.Client(follow_redirects=True) as client:
        transport = HTTPTransport(server.url, retries=0, client=client)
        with pytest.raises(TransportError, match="307"):
            read_all(transport)

    assert elsewhere.connections == 0
