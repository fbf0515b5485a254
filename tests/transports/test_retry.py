"""Retrying transports against real sockets: what is sent again, when, and what is given."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from pathors_agent.errors import ProviderError, TransportError
from pathors_agent.testing import ScriptedTransport
from pathors_agent.transports.base import AsyncResponse, Request, Response, Transport
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport, Timeouts
from pathors_agent.transports.retry import AsyncRetryingTransport, RetryingTransport, retry_after
from pathors_agent.wire.profiles import EndpointProfile
from servers import CLOSE, STALL, LLMockServer, Step, answer, chunk, head
from transports.fetching import CHUNKED, StartServer

REQUEST = Request(body=b"{}", session_id="session-1")
OK = [answer(b"fine")]
BUSY = [answer(b"busy", "503 Busy")]
# Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110
NOVEMBER_1994 = 784111777.0


@dataclass
class Fetch:
    """One whole request and answer, by the blocking transport or an async one; waits are noted."""

    way: str
    waits: list[float] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    on_wait: Callable[[], object] = lambda: None

    def __call__(self, base_url: str, request: Request = REQUEST, **settings: Any) -> int:
        timeouts = settings.pop("timeouts", Timeouts())
        if self.way == "blocking":
            return self._blocking(
                HTTPTransport(base_url, retries=0, timeouts=timeouts), request, settings
            )
        return anyio.run(self._async, base_url, timeouts, request, settings, backend=self.way)

    def _blocking(
        self, transport: HTTPTransport, request: Request, settings: dict[str, Any]
    ) -> int:
        retrying = RetryingTransport(transport, sleep=self._sleep, **settings)
        with transport, retrying.send(request) as response:
            self.pieces.extend(response.pieces)
            return response.status

    async def _async(
        self, base_url: str, timeouts: Timeouts, request: Request, settings: dict[str, Any]
    ) -> int:
        async with AsyncHTTPTransport(base_url, retries=0, timeouts=timeouts) as transport:
            retrying = AsyncRetryingTransport(transport, sleep=self._sleep_async, **settings)
            async with retrying.send(request) as response:
                async for piece in response.pieces:
                    self.pieces.append(piece)
                return response.status

    def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.on_wait()

    async def _sleep_async(self, seconds: float) -> None:
        await checkpoint()
        self._sleep(seconds)


@pytest.fixture(params=["blocking", "asyncio", "trio"])
def fetch(request: pytest.FixtureRequest) -> Fetch:
    return Fetch(request.param)


# - what is sent again -


def test_silence_before_the_first_byte_is_sent_again(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    server = scripted_server([CHUNKED, STALL], OK)

    # A failing server may answer the second request late: only the first has little time.
    assert fetch(server.url, timeouts=Timeouts(first_byte=1)) == 200
    assert fetch.pieces == [b"fine"]
    assert len(server.requests) == 2


@pytest.mark.parametrize("end", [CLOSE, STALL, b"zz\r\n"])
def test_failure_after_the_first_byte_is_not_sent_again(
    scripted_server: StartServer, fetch: Fetch, end: Step
) -> None:
    server = scripted_server([CHUNKED, chunk(b"a"), end], OK)

    with pytest.raises(TransportError, match="1 bytes"):
        fetch(server.url, timeouts=Timeouts(between_bytes=0.2))

    assert (fetch.pieces, fetch.waits) == ([b"a"], [])
    assert len(server.requests) == 1


def test_answer_without_content_is_returned_at_once(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    server = scripted_server([head("204 No Content")], OK)

    assert fetch(server.url) == 204

    assert fetch.waits == []


def test_server_can_forbid_another_attempt(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(b"no", "500 Oops", X_Should_Retry="false")], OK)

    assert fetch(server.url) == 500

    assert fetch.waits == []


# - what is given in the end -


def test_last_status_is_returned_with_its_body(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server(BUSY, BUSY, [answer(b"still", "502 Bad")], OK)

    assert fetch(server.url, attempts=3) == 502

    assert fetch.pieces == [b"still"]
    assert len(server.requests) == 3


def test_last_error_is_raised_as_it_is(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([CLOSE], [CLOSE], OK)

    with pytest.raises(TransportError, match=r"disconnected.*sent 2 times") as caught:
        fetch(server.url, attempts=2)

    assert caught.value.attempts == len(server.requests) == 2


def test_last_empty_answer_is_returned(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(b"")], [answer(b"")], OK)

    assert fetch(server.url, attempts=2) == 200

    assert fetch.pieces == []


def test_one_attempt_is_one_request(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server(BUSY, OK)

    assert fetch(server.url, attempts=1) == 503

    assert len(server.requests) == 1


# - what is sent -


def test_attempts_carry_the_session_and_one_idempotency_key(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    server = scripted_server(BUSY, [CLOSE], OK, OK)

    fetch(server.url)
    fetch(server.url)

    assert [request.headers["x-session-id"] for request in server.requests] == ["session-1"] * 4
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_idempotency_key_of_the_caller_is_kept(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server(OK)

    fetch(server.url, Request(body=b"{}", headers={"idempotency-key": "mine"}))

    assert server.requests[0].headers["idempotency-key"] == "mine"


def test_failed_attempt_is_closed_before_the_wait(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    endless = [head("503 Busy", Transfer_Encoding="chunked"), chunk(b"a"), STALL]
    server = scripted_server(endless, OK)
    fetch.on_wait = server.wait_until_clients_left

    assert fetch(server.url) == 200


# - how long is waited -


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "2"}, 2),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:47 GMT"}, 10),
        ({"retry-after": "Sun, 06 Nov 1994 09:49:42 +0100"}, 5),
        ({"retry-after": "Sunday, 06-Nov-94 08:49:40 GMT"}, 3),
        ({"retry-after": "Sun Nov  6 08:49:40 1994"}, 3),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0),
        ({"retry-after": "Sat, 05 Nov 1994 08:49:37 GMT"}, 0),
        ({"retry-after": "Sun, 99 Nov 1994 08:49:37 GMT"}, 0),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": ""}, 0),
        ({"retry-after": "nan"}, 0),
        ({"retry-after": "inf"}, 0),
        ({"retry-after": "1e3"}, 0),
        ({"retry-after": "٣"}, 0),
        ({"retry-after": "3, 4"}, 0),
        ({"retry-after": "9" * 400}, float("inf")),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers, now=NOVEMBER_1994) == seconds


def test_longest_wait_can_be_set(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server([answer(b"", "429 Slow", Retry_After="61")], OK)

    assert fetch(server.url, max_retry_after=90) == 200

    assert fetch.waits == [61]


def test_waits_are_random_in_a_widening_window(scripted_server: StartServer) -> None:
    server = scripted_server(*[BUSY] * 100)
    fetches = [Fetch("blocking") for _ in range(10)]

    for seed, fetch in enumerate(fetches):
        fetch(server.url, attempts=8, seed=seed)

    for i, widest in enumerate([0.5, 1, 2, 4, 8, 8, 8]):
        waits = [fetch.waits[i] for fetch in fetches]
        assert all(0 <= seconds <= widest for seconds in waits)
        # Ten random numbers stay in one half once in 512 times; these seeds do not.
        assert min(waits) < widest / 2 < max(waits)


def test_same_seed_waits_the_same(scripted_server: StartServer, fetch: Fetch) -> None:
    server = scripted_server(*[BUSY] * 4)
    other = Fetch(fetch.way)

    fetch(server.url, attempts=2, seed=1)
    other(server.url, attempts=2, seed=1)

    assert fetch.waits == other.waits


# - streams and events -


def test_leaving_early_closes_the_connection(scripted_server: StartServer) -> None:
    server = scripted_server([CHUNKED, chunk(b"a"), STALL])

    with HTTPTransport(server.url) as transport:
        with RetryingTransport(transport).send(REQUEST) as response:
            for _ in response.pieces:
                break
        server.wait_until_clients_left()


@pytest.mark.anyio
async def test_leaving_early_closes_the_connection_async(scripted_server: StartServer) -> None:
    server = scripted_server([CHUNKED, chunk(b"a"), STALL])

    async with AsyncHTTPTransport(server.url) as transport:
        async with AsyncRetryingTransport(transport).send(REQUEST) as response:
            async for _ in response.pieces:
                break
        await anyio.to_thread.run_sync(server.wait_until_clients_left)


@pytest.mark.anyio
async def test_wait_can_be_cancelled(scripted_server: StartServer) -> None:
    server = scripted_server([answer(b"", "429 Slow", Retry_After="50")])

    async with AsyncHTTPTransport(server.url) as transport:
        with anyio.move_on_after(0.2) as scope:
            async with AsyncRetryingTransport(transport).send(REQUEST):
                pass

    assert scope.cancelled_caught


@pytest.mark.anyio
async def test_requests_side_by_side_are_retried_apart(scripted_server: StartServer) -> None:
    server = scripted_server(*[BUSY] * 5, *[OK] * 10)
    statuses = []

    async def sleep(_: float) -> None:
        await checkpoint()

    async with AsyncHTTPTransport(server.url) as transport:
        retrying = AsyncRetryingTransport(transport, attempts=6, sleep=sleep)

        async def ask() -> None:
            async with retrying.send(REQUEST) as response:
                statuses.append(response.status)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)

    assert statuses == [200] * 5
    assert len(server.requests) == 10


def test_each_retry_is_logged(
    scripted_server: StartServer, fetch: Fetch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pathors_agent")
    server = scripted_server([answer(b"", "429 Slow", Retry_After="7")], [CLOSE], OK)

    fetch(server.url)

    first, second = (r.getMessage() for r in caplog.records if r.name == "pathors_agent")
    assert first == "request_retried attempt=1 status=429 error=None seconds=7.0"
    assert second.startswith("request_retried attempt=2 status=None error='TransportError'")


class LimitedTransport(Transport):
    """Raises its provider's refusals, instead of giving them."""

    profile = EndpointProfile(sends="new_messages")

    def __init__(self, *asked: float | None) -> None:
        self._asked = iter(asked)

    @contextmanager
    def send(self, request: Request) -> Iterator[Response]:
        for seconds in self._asked:
            raise ProviderError("slow down", status=429, retry_after=seconds, retryable=True)
        yield Response(status=200, pieces=[b"", b"fine", b"!"])


def test_raised_refusal_is_sent_again_after_the_time_it_asks() -> None:
    waits: list[float] = []
    transport = RetryingTransport(LimitedTransport(11, 12), sleep=waits.append)

    with transport.send(REQUEST) as response:
        assert list(response.pieces) == [b"fine", b"!"]

    assert waits == [11, 12]


def test_raised_refusal_that_asks_for_too_long_is_raised() -> None:
    waits: list[float] = []
    transport = RetryingTransport(LimitedTransport(61), sleep=waits.append)

    with pytest.raises(ProviderError) as caught, transport.send(REQUEST):
        pass

    assert caught.value.retry_after == 61
    assert waits == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"pieces": b"{}"}, "pieces= is a bytes; pass a list of bytes"),
        ({"pieces": "{}"}, "pieces= is a str; pass a list of bytes"),
        ({"pieces": None}, "pieces= is a NoneType; pass a list of bytes"),
        ({"status": "200"}, "status= is a str; pass a number"),
        ({"headers": None}, "headers= is a NoneType; pass a mapping"),
        ({"headers": [("a", "b")]}, "headers= is a list; pass a mapping"),
    ],
)
def test_response_that_cannot_be_read_is_refused_where_it_is_made(
    fields: dict[str, Any], text: str
) -> None:
    with pytest.raises(TypeError, match=text):
        Response(**{"status": 200, **fields})


def test_async_response_without_an_async_iterable_is_refused_where_it_is_made() -> None:
    pieces: Any = [b"{}"]

    with pytest.raises(TypeError, match="pieces= is a list; pass an async iterable"):
        AsyncResponse(status=200, pieces=pieces)


def test_profile_is_that_of_the_transport_inside() -> None:
    assert RetryingTransport(LimitedTransport()).profile.sends == "new_messages"


# - a model server made by others -


def test_llmock_finds_no_fault_with_a_client_that_waits(llmock_server: LLMockServer) -> None:
    llmock_server.scenario({"type": "fail", "status": 429, "retry_after": 0.2, "times": 1})

    with (
        HTTPTransport(llmock_server.url) as transport,
        RetryingTransport(transport).send(completion()) as response,
    ):
        assert b"".join(response.pieces).endswith(b"data: [DONE]\n\n")

    assert llmock_server.verdict()["findings"] == []


def completion() -> Request:
    said = b'"model": "gpt-4o", "messages": [{"role": "user", "content": "Tell me about tea."}]'
    return Request(body=b'{"stream": true, ' + said + b"}")


def test_block_around_it_closes_the_transport_inside() -> None:
    inner = Closed()

    with RetryingTransport(inner):
        assert not inner.is_closed
    assert inner.is_closed


class Closed(ScriptedTransport):
    """A transport that tells whether it was closed."""

    is_closed = False

    def __exit__(self, *error: Any) -> None:
        self.is_closed = True
