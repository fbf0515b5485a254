"""Fallback transports against real sockets: who is asked, when the next is, and what is given."""

from collections.abc import Iterable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field

import anyio
import pytest
from anyio.lowlevel import checkpoint

from pathors_agent.agents.agent import Agent
from pathors_agent.errors import TransportError
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport
from pathors_agent.testing.loopback_server import refused_port
from pathors_agent.transports.aiohttp import AiohttpTransport
from pathors_agent.transports.base import AsyncTransport, Request, Transport
from pathors_agent.transports.exchange import Timeouts
from pathors_agent.transports.fallback import AsyncFallbackTransport, FallbackTransport
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport
from pathors_agent.transports.retry import AsyncRetryingTransport, RetryingTransport
from pathors_agent.wire.profiles import EndpointProfile
from servers import CLOSE, RESET, STALL, Step, answer, chunk, head
from transports.fetching import CHUNKED, StartServer

REQUEST = Request(body=b'{"n": 1}', session_id="session-1")
OK = [answer(b"fine")]
BUSY = [answer(b"busy", "503 Busy")]
# A server may answer late on a busy machine: only silence that lasts is a failure here.
TIMEOUTS = Timeouts(first_byte=1, between_bytes=0.2)


@dataclass
class Fetch:
    """One request through a fallback transport over some servers, in each way there is."""

    way: str
    attempts: int = 0
    pieces: list[bytes] = field(default_factory=list)

    def __call__(self, *base_urls: str) -> int:
        if self.way == "blocking":
            return self._blocking(base_urls)
        backend = "asyncio" if self.way == "aiohttp" else self.way
        return anyio.run(self._async, base_urls, backend=backend)

    def _blocking(self, base_urls: Iterable[str]) -> int:
        with ExitStack() as stack:
            transports: list[Transport] = []
            for url in base_urls:
                transport = stack.enter_context(HTTPTransport(url, retries=0, timeouts=TIMEOUTS))
                transports.append(self._wrapped(transport))
            first, second, *more = transports
            with FallbackTransport(first, second, *more).send(REQUEST) as response:
                self.pieces.extend(response.pieces)
                return response.status

    def _wrapped(self, transport: Transport) -> Transport:
        if not self.attempts:
            return transport
        return RetryingTransport(transport, attempts=self.attempts, sleep=lambda _: None)

    async def _async(self, base_urls: Iterable[str]) -> int:
        make = AiohttpTransport if self.way == "aiohttp" else AsyncHTTPTransport
        async with AsyncExitStack() as stack:
            transports: list[AsyncTransport] = []
            for url in base_urls:
                transport = await stack.enter_async_context(make(url, retries=0, timeouts=TIMEOUTS))
                transports.append(self._wrapped_async(transport))
            first, second, *more = transports
            async with AsyncFallbackTransport(first, second, *more).send(REQUEST) as response:
                async for piece in response.pieces:
                    self.pieces.append(piece)
                return response.status

    def _wrapped_async(self, transport: AsyncTransport) -> AsyncTransport:
        if not self.attempts:
            return transport

        async def sleep(_: float) -> None:
            await checkpoint()

        return AsyncRetryingTransport(transport, attempts=self.attempts, sleep=sleep)


@pytest.fixture(params=["blocking", "asyncio", "trio", "aiohttp"])
def fetch(request: pytest.FixtureRequest) -> Fetch:
    return Fetch(request.param)


# - who is asked -


def test_good_answer_of_the_first_is_returned(scripted_server: StartServer, fetch: Fetch) -> None:
    first, second = scripted_server([answer(b"first")]), scripted_server(OK)

    assert fetch(first.url, second.url) == 200

    assert fetch.pieces == [b"first"]
    assert second.connections == 0


def test_transports_are_tried_in_their_order(scripted_server: StartServer, fetch: Fetch) -> None:
    first, second, third, fourth = (scripted_server(each) for each in (BUSY, [CLOSE], OK, OK))

    assert fetch(first.url, second.url, third.url, fourth.url) == 200

    assert fetch.pieces == [b"fine"]
    asked = [len(server.requests) for server in (first, second, third, fourth)]
    assert asked == [1, 1, 1, 0]


def test_every_request_begins_with_the_first(scripted_server: StartServer, fetch: Fetch) -> None:
    first, second = scripted_server(BUSY, OK), scripted_server(OK)

    fetch(first.url, second.url)
    fetch(first.url, second.url)

    assert (len(first.requests), len(second.requests)) == (2, 1)


def test_next_transport_gets_the_same_request(scripted_server: StartServer, fetch: Fetch) -> None:
    first, second = scripted_server(BUSY), scripted_server(OK)

    fetch(first.url, second.url)

    for server in (first, second):
        assert server.requests[0].body == b'{"n": 1}'
        assert server.requests[0].headers["x-session-id"] == "session-1"


# - when the next one is asked -


@pytest.mark.parametrize("status", [429, 503])
def test_next_transport_is_tried_after_a_status_of_trouble(
    scripted_server: StartServer, fetch: Fetch, status: int
) -> None:
    first, second = scripted_server([answer(b"no", f"{status} No")]), scripted_server(OK)

    assert fetch(first.url, second.url) == 200

    assert fetch.pieces == [b"fine"]


@pytest.mark.parametrize("status", [400, 404])
def test_status_of_fault_is_returned(
    scripted_server: StartServer, fetch: Fetch, status: int
) -> None:
    first, second = scripted_server([answer(b"no", f"{status} No")]), scripted_server(OK)

    assert fetch(first.url, second.url) == status

    assert fetch.pieces == [b"no"]
    assert second.connections == 0


def test_next_transport_is_tried_after_a_refused_connection(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    server = scripted_server(OK)

    with refused_port() as closed:
        assert fetch(closed, server.url) == 200

    assert fetch.pieces == [b"fine"]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([RESET], id="reset"),
        pytest.param([b"HTTP/1.1 200 O", CLOSE], id="closed in the head"),
        pytest.param([CHUNKED, CLOSE], id="closed before the first byte"),
        pytest.param([CHUNKED, STALL], id="silent before the first byte"),
        pytest.param([answer(b"")], id="empty"),
    ],
)
def test_next_transport_is_tried_after_a_failure_before_the_first_byte(
    scripted_server: StartServer, fetch: Fetch, script: Iterable[Step]
) -> None:
    first, second = scripted_server(script), scripted_server(OK)

    assert fetch(first.url, second.url) == 200

    assert fetch.pieces == [b"fine"]


@pytest.mark.parametrize("end", [CLOSE, STALL])
def test_failure_after_the_first_byte_is_raised(
    scripted_server: StartServer, fetch: Fetch, end: Step
) -> None:
    first, second = scripted_server([CHUNKED, chunk(b"a"), end]), scripted_server(OK)

    with pytest.raises(TransportError, match="1 bytes"):
        fetch(first.url, second.url)

    assert fetch.pieces == [b"a"]
    assert second.connections == 0


def test_failure_that_another_endpoint_would_not_mend_is_raised(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    moved = answer(b"", "301 Moved", Location="http://127.0.0.1:1")
    first, second = scripted_server([moved]), scripted_server(OK)

    with pytest.raises(TransportError, match="301"):
        fetch(first.url, second.url)

    assert second.connections == 0


def test_failed_answer_is_closed_before_the_next_is_asked(
    scripted_server: StartServer, fetch: Fetch
) -> None:
    endless = [head("503 Busy", Transfer_Encoding="chunked"), chunk(b"a"), STALL]
    first, second = scripted_server(endless), scripted_server([STALL])

    with pytest.raises(TransportError, match="first_byte=1"):
        fetch(first.url, second.url)

    first.wait_until_clients_left()


# - what is given in the end -


def test_last_error_is_raised(scripted_server: StartServer, fetch: Fetch) -> None:
    first, second = scripted_server(BUSY), scripted_server([CLOSE])

    with pytest.raises(TransportError, match=f"127.0.0.1:{second.port}"):
        fetch(first.url, second.url)


def test_last_answer_is_returned(scripted_server: StartServer, fetch: Fetch) -> None:
    first, second = scripted_server([CLOSE]), scripted_server([answer(b"still", "429 Slow")])

    assert fetch(first.url, second.url) == 429

    assert fetch.pieces == [b"still"]


def test_each_transport_can_try_several_times(scripted_server: StartServer, fetch: Fetch) -> None:
    first, second = scripted_server(BUSY, [CLOSE], BUSY), scripted_server(BUSY, OK)
    fetch.attempts = 3

    assert fetch(first.url, second.url) == 200

    assert fetch.pieces == [b"fine"]
    assert (len(first.requests), len(second.requests)) == (3, 2)


def test_each_fallback_is_logged(
    scripted_server: StartServer, fetch: Fetch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pathors_agent")
    first, second, third = (scripted_server(each) for each in (BUSY, [CLOSE], OK))

    fetch(first.url, second.url, third.url)

    kind = {"blocking": "HTTPTransport", "aiohttp": "AiohttpTransport"}.get(
        fetch.way, "AsyncHTTPTransport"
    )
    assert [r.getMessage() for r in caplog.records if r.name == "pathors_agent"] == [
        f"transport_fell_back position=0 transport={kind!r} status=503 error=None",
        f"transport_fell_back position=1 transport={kind!r} status=None error='TransportError'",
    ]


# - profiles -


def test_profile_is_the_one_of_all() -> None:
    profile = EndpointProfile(system_role="developer")

    one, other = (ScriptedTransport(profile=profile) for _ in range(2))

    assert FallbackTransport(one, other).profile is profile


def test_different_profiles_are_refused_naming_their_differences() -> None:
    strict = EndpointProfile(call_ids="nine", include_usage=False)

    with pytest.raises(
        ValueError, match=r"but they differ in include_usage, call_ids; pass each the same"
    ):
        FallbackTransport(
            ScriptedTransport(), ScriptedTransport(), ScriptedTransport(profile=strict)
        )
    with pytest.raises(
        ValueError, match=r"but they differ in include_usage, call_ids; pass each the same"
    ):
        AsyncFallbackTransport(AsyncScriptedTransport(), AsyncScriptedTransport(profile=strict))


# - in a run -


def test_agent_does_not_notice(scripted_server: StartServer) -> None:
    first = scripted_server(BUSY)
    second = ScriptedTransport("Hello from the second.")

    with HTTPTransport(first.url, retries=0) as transport:
        result = Agent(FallbackTransport(transport, second)).run("Hi")

    assert result.output == "Hello from the second."
    assert len(first.requests) == 1
