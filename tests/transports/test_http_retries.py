"""What transports over HTTP send again by themselves, against real sockets."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.concurrency.event_loops import Cancellation
from pathors_agent.core.limits import Limits
from pathors_agent.errors import ProviderError, RunNotFinished, SessionConflict, TransportError
from pathors_agent.messages import Message
from pathors_agent.sessions.client import EndpointSessions
from pathors_agent.transports import retry
from pathors_agent.transports.aiohttp import AiohttpTransport
from pathors_agent.transports.base import Request
from pathors_agent.transports.exchange import Timeouts
from pathors_agent.transports.fallback import AsyncFallbackTransport, FallbackTransport
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport
from pathors_agent.transports.retry import AsyncRetryingTransport, RetryingTransport
from servers import CLOSE, RESET, STALL, Step, answer, chunk
from transports.fetching import CHUNKED, StartServer

COMPLETION = b'{"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}'
OK: list[Step] = [answer(COMPLETION)]
BUSY: list[Step] = [answer(b"busy", "503 Busy")]
EVENT = chunk(b'data: {"id": "c", "choices": [{"delta": {"content": "Hi"}}]}\n\n')


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_SECONDS", 0.0)


@dataclass
class Asked:
    """What came of asking an endpoint several times over one transport."""

    outputs: list[str] = field(default_factory=list)
    error: TransportError | None = None


@dataclass
class Ask:
    """Ask an agent over one transport: blocking, on asyncio, on trio, with aiohttp."""

    way: str

    def __call__(
        self, url: str, *, times: int = 1, limits: Limits | None = None, **settings: Any
    ) -> Asked:
        asked = Asked()
        try:
            if self.way == "blocking":
                with HTTPTransport(url, **settings) as transport:
                    for _ in range(times):
                        asked.outputs.append(Agent(transport, limits=limits).run("Hello").output)
            else:
                backend = "trio" if self.way == "trio" else "asyncio"
                anyio.run(self._ask, url, times, limits, settings, asked, backend=backend)
        except TransportError as error:
            asked.error = error
        except RunNotFinished as error:
            asked.outputs.append(error.status)
        return asked

    async def _ask(
        self, url: str, times: int, limits: Limits | None, settings: dict[str, Any], asked: Asked
    ) -> None:
        make = AiohttpTransport if self.way == "aiohttp" else AsyncHTTPTransport
        async with make(url, **settings) as transport:
            agent = AsyncAgent(transport, limits=limits)
            for _ in range(times):
                asked.outputs.append((await agent.run("Hello")).output)


@pytest.fixture(params=["blocking", "asyncio", "trio", "aiohttp"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return Ask(request.param)


# - what is sent again -


@pytest.mark.parametrize("status", [409, 429, 503])
def test_status_that_may_pass_is_sent_again(
    scripted_server: StartServer, ask: Ask, status: int
) -> None:
    server = scripted_server([answer(b"no", f"{status} No")], [answer(b"no", f"{status} No")], OK)

    assert ask(server.url).outputs == ["Hi"]
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([RESET], id="reset"),
        pytest.param([CLOSE], id="closed"),
        pytest.param([b"HTTP/1.1 200 O", CLOSE], id="closed in the head"),
        pytest.param([CHUNKED, RESET], id="reset before the first byte"),
        pytest.param([answer(b"")], id="empty"),
    ],
)
def test_failure_before_the_first_byte_is_sent_again(
    scripted_server: StartServer, ask: Ask, script: list[Step]
) -> None:
    server = scripted_server(script, script, OK)

    assert ask(server.url).outputs == ["Hi"]
    assert len(server.requests) == 3


@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_failure_after_the_first_byte_is_never_sent_again(
    scripted_server: StartServer, ask: Ask, end: Step
) -> None:
    server = scripted_server([CHUNKED, EVENT, end], OK)

    asked = ask(server.url)

    assert asked.error is not None
    assert (asked.error.attempts, len(server.requests)) == (1, 1)


@pytest.mark.parametrize("status", [400, 404])
def test_status_of_a_fault_is_not_sent_again(
    scripted_server: StartServer, ask: Ask, status: int
) -> None:
    server = scripted_server([answer(b"no", f"{status} No")], OK)

    asked = ask(server.url)

    assert isinstance(asked.error, ProviderError)
    assert (asked.error.status, asked.error.attempts) == (status, 1)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("said", "requests"), [("false", 1), ("true", 2)])
def test_server_says_whether_to_send_again(
    scripted_server: StartServer, ask: Ask, said: str, requests: int
) -> None:
    status = "500 No" if said == "false" else "400 No"
    server = scripted_server([answer(b"no", status, X_Should_Retry=said)], OK)

    ask(server.url)

    assert len(server.requests) == requests


# - a connection that the server closed while it was idle -


@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_kept_connection_that_breaks_is_replaced_at_once_and_once(
    scripted_server: StartServer, ask: Ask, end: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_SECONDS", 5.0)
    waits = waits_of(monkeypatch)
    server = scripted_server(OK, [end], [end], OK)

    assert ask(server.url, times=2).outputs == ["Hi", "Hi"]
    assert len(server.requests) == 4
    assert waits[0] == 0
    assert waits[1:] == [pytest.approx(2.5, abs=2.5)]
    assert waits[1] > 0


def test_replaced_connection_spends_no_retry(scripted_server: StartServer, ask: Ask) -> None:
    server = scripted_server(OK, [CLOSE], BUSY, BUSY, OK)

    assert ask(server.url, times=2).outputs == ["Hi", "Hi"]
    assert len(server.requests) == 5


# - how often -


def test_last_answer_says_how_often_it_was_asked(scripted_server: StartServer, ask: Ask) -> None:
    server = scripted_server(BUSY, BUSY, BUSY, OK)

    asked = ask(server.url)

    assert isinstance(asked.error, ProviderError)
    assert (asked.error.status, asked.error.attempts) == (503, 3)
    assert str(asked.error) == "the provider answered 503: busy; the request was sent 3 times"
    assert len(server.requests) == 3


def test_last_error_says_how_often_it_was_asked(scripted_server: StartServer, ask: Ask) -> None:
    server = scripted_server([CLOSE], [CLOSE], [CLOSE], OK)

    asked = ask(server.url)

    assert asked.error is not None
    assert str(asked.error).endswith(" The request was sent 3 times.")
    assert asked.error.attempts == len(server.requests) == 3


@pytest.mark.parametrize("script", [BUSY, [CLOSE]])
def test_no_retries_is_one_request(
    scripted_server: StartServer, ask: Ask, script: list[Step]
) -> None:
    server = scripted_server(OK, script, OK)

    asked = ask(server.url, times=2, retries=0)

    assert asked.error is not None
    assert (asked.outputs, asked.error.attempts) == (["Hi"], 1)
    assert len(server.requests) == 2


def test_number_of_retries_can_be_set(scripted_server: StartServer, ask: Ask) -> None:
    server = scripted_server(*[BUSY] * 5, OK)

    assert ask(server.url, retries=5).outputs == ["Hi"]


# - how long -


def test_server_is_left_alone_as_long_as_it_asks(
    scripted_server: StartServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = waits_of(monkeypatch)
    server = scripted_server([answer(b"", "429 Slow", Retry_After="7")], OK)

    assert ask(server.url).outputs == ["Hi"]
    assert waits == [7]


def test_server_that_asks_for_too_long_is_not_asked_again(
    scripted_server: StartServer, ask: Ask
) -> None:
    server = scripted_server([answer(b"", "429 Slow", Retry_After="61")], OK)

    asked = ask(server.url)

    assert isinstance(asked.error, ProviderError)
    assert (asked.error.retry_after, asked.error.attempts) == (61, 1)


def test_no_wait_exceeds_the_time_of_the_run(
    scripted_server: StartServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = waits_of(monkeypatch)
    server = scripted_server([answer(b"slow", "429 Slow", Retry_After="50")], OK)

    asked = ask(server.url, limits=Limits(seconds=40))

    assert isinstance(asked.error, ProviderError)
    assert waits == []
    assert asked.error.attempts == len(server.requests) == 1


def test_attempts_share_the_time_of_the_run(scripted_server: StartServer, ask: Ask) -> None:
    server = scripted_server(BUSY, [STALL], OK)

    asked = ask(server.url, limits=Limits(seconds=1), timeouts=Timeouts(first_byte=None))

    assert (asked.error, asked.outputs) == (None, ["limit_reached"])
    assert len(server.requests) == 2


def waits_of(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record waits instead of waiting."""
    waits: list[float] = []

    async def sleep(cancellation: Cancellation, seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(Cancellation, "sleep", lambda cancellation, seconds: waits.append(seconds))
    monkeypatch.setattr(Cancellation, "sleep_async", sleep)
    return waits


# - what is sent -


@pytest.mark.parametrize(
    ("path", "settings"), [("/projects/p", {}), ("", {"sends": "new_messages"})]
)
def test_attempts_carry_one_idempotency_key_where_turns_are_stored(
    scripted_server: StartServer, ask: Ask, path: str, settings: dict[str, Any]
) -> None:
    server = scripted_server(BUSY, OK, OK)

    ask(server.url + path, times=2, **settings)

    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert keys[0] == keys[1] != keys[2]


def test_other_endpoints_get_no_idempotency_key(scripted_server: StartServer, ask: Ask) -> None:
    server = scripted_server(BUSY, OK)

    ask(server.url)

    assert not [r for r in server.requests if "idempotency-key" in r.headers]


def test_conflict_of_another_operation_is_not_sent_again(scripted_server: StartServer) -> None:
    server = scripted_server([answer(b"{}", "409 Conflict")], OK)

    with HTTPTransport(server.url) as transport, pytest.raises(SessionConflict):
        EndpointSessions(transport).create("s")

    assert len(server.requests) == 1


# - transports around transports -


def test_attempts_of_attempts_do_not_multiply(scripted_server: StartServer) -> None:
    server = scripted_server(*[BUSY] * 9)

    with HTTPTransport(server.url) as transport:
        around = RetryingTransport(transport, attempts=4, sleep=lambda seconds: None)
        with around.send(Request(body=b"{}")) as response:
            assert (response.status, response.attempts) == (503, 4)

    assert len(server.requests) == 4


@pytest.mark.anyio
async def test_attempts_of_attempts_do_not_multiply_async(scripted_server: StartServer) -> None:
    server = scripted_server(*[BUSY] * 9)

    async def sleep(seconds: float) -> None:
        pass

    async with AsyncHTTPTransport(server.url) as transport:
        around = AsyncRetryingTransport(transport, attempts=4, sleep=sleep)
        async with around.send(Request(body=b"{}")) as response:
            assert (response.status, response.attempts) == (503, 4)

    assert len(server.requests) == 4


def test_fallback_does_not_wait_for_retries(scripted_server: StartServer) -> None:
    first, second = scripted_server(BUSY, BUSY), scripted_server(OK)

    with HTTPTransport(first.url) as one, HTTPTransport(second.url) as two:
        assert Agent(FallbackTransport(one, two)).run("Hello").output == "Hi"

    assert (len(first.requests), len(second.requests)) == (1, 1)


@pytest.mark.anyio
async def test_fallback_does_not_wait_for_retries_async(scripted_server: StartServer) -> None:
    first, second = scripted_server(BUSY, BUSY), scripted_server(OK)

    async with AsyncHTTPTransport(first.url) as one, AsyncHTTPTransport(second.url) as two:
        assert (await AsyncAgent(AsyncFallbackTransport(one, two)).run("Hello")).output == "Hi"

    assert (len(first.requests), len(second.requests)) == (1, 1)


# - what is reported -


def test_retries_are_reported(
    scripted_server: StartServer, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pathors_agent")
    server = scripted_server([answer(b"", "429 Slow", Retry_After="0")], [RESET], OK)

    ask(server.url)

    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("request_retried")]
    assert told == [
        "request_retried attempt=1 status=429 error=None seconds=0.0",
        "request_retried attempt=2 status=None error='TransportError' seconds=0.0",
    ]


def items_of(url: str) -> Iterator[Message | Any]:
    with HTTPTransport(url) as transport, Agent(transport).stream("Hello") as stream:
        yield from stream


def test_caller_sees_one_answer(scripted_server: StartServer) -> None:
    end = chunk(b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n')
    server = scripted_server(BUSY, [CHUNKED, EVENT, end, chunk(b"")])

    texts = [item.text for item in items_of(server.url)]

    assert texts == ["Hi", "Hi"]  # the delta, and the message
