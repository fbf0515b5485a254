"""Instrumented HTTP clients: their spans stand below the model call's, and carry its trace on."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import anyio
import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation import httpx as httpx_instrumentation
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import Decision, SamplingResult, StaticSampler

from pathors_agent import Agent, AiohttpTransport, AsyncAgent, AsyncHTTPTransport, HTTPTransport
from pathors_agent.telemetry.events import ServerAddress
from pathors_agent.testing import ScriptedTransport
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.transports.retry import RetryingTransport
from servers import ScriptedServer, answer
from tracing import Exported, attributes, ids, is_below

StartServer = Callable[..., ScriptedServer]

CHOICE = {"index": 0, "message": {"content": "Yes."}, "finish_reason": "stop"}
YES = answer(json.dumps({"choices": [CHOICE]}).encode(), Content_Type="application/json")
BUSY = answer(b"busy", "503 Service Unavailable", Retry_After="0")

# Earlier versions know httpx only.
OF_HTTPX2 = getattr(httpx_instrumentation, "HTTPX2ClientInstrumentor", None)
needs_httpx2 = pytest.mark.skipif(OF_HTTPX2 is None, reason="this version instruments no httpx2")


@pytest.fixture
def instrumented() -> Iterator[None]:
    """Instrument the clients as a program does at its start."""
    instrumentors = [AioHttpClientInstrumentor(), *([OF_HTTPX2()] if OF_HTTPX2 else [])]
    for each in instrumentors:
        each.instrument()
    yield
    for each in instrumentors:
        each.uninstrument()


class OwnTransport(Transport):
    """A program's own transport, which makes a client for each request."""

    def __init__(self, url: str) -> None:
        self._url = url

    @contextmanager
    def send(self, request: Request) -> Iterator[Response]:
        url = f"{self._url}/chat/completions"
        with httpx2.Client() as client:
            got = client.post(url, content=request.body, headers=dict(request.headers))
            yield Response(status=got.status_code, pieces=[got.content])


class OwnAsyncTransport(AsyncTransport):
    """The same with aiohttp."""

    def __init__(self, url: str) -> None:
        self._url = url

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        url = f"{self._url}/chat/completions"
        async with aiohttp.ClientSession() as client:
            async with client.post(url, data=request.body, headers=request.headers) as got:
                yield AsyncResponse(status=got.status, pieces=got.content.iter_any())


def ask(transport: Transport, **settings: Any) -> None:
    assert Agent(transport, **settings).run("Go.").output == "Yes."


def ask_with_httpx2(url: str) -> None:
    with HTTPTransport(url, api_key="") as transport:
        ask(transport)


async def ask_async(transport: AsyncTransport) -> None:
    assert (await AsyncAgent(transport).run("Go.")).output == "Yes."


async def ask_with_httpx2_async(url: str) -> None:
    async with AsyncHTTPTransport(url, api_key="") as transport:
        await ask_async(transport)


async def ask_with_aiohttp(url: str) -> None:
    async with AiohttpTransport(url, api_key="") as transport:
        await ask_async(transport)


CLIENTS: dict[str, Callable[[str], None]] = {
    "aiohttp": lambda url: anyio.run(ask_with_aiohttp, url),
    "own aiohttp": lambda url: anyio.run(ask_async, OwnAsyncTransport(url)),
}
OVER_HTTPX2: dict[str, Callable[[str], None]] = {
    "httpx2": ask_with_httpx2,
    "httpx2 asyncio": lambda url: anyio.run(ask_with_httpx2_async, url),
    "httpx2 trio": lambda url: anyio.run(ask_with_httpx2_async, url, backend="trio"),
    "own httpx2": lambda url: ask(OwnTransport(url)),
}
EVERY = [*CLIENTS, *(pytest.param(name, marks=needs_httpx2) for name in OVER_HTTPX2)]


def requests_of(exported: Exported) -> list[ReadableSpan]:
    """Return the spans that an instrumentation made."""
    return [span for span in exported.spans if span.name.startswith("POST")]


@pytest.mark.parametrize("client", EVERY)
@pytest.mark.usefixtures("instrumented")
def test_span_of_the_client_is_between_those_of_the_call_and_the_server(
    exported: Exported, scripted_server: StartServer, client: str
) -> None:
    server = scripted_server([YES])
    {**CLIENTS, **OVER_HTTPX2}[client](server.url)

    [posted] = requests_of(exported)
    assert is_below(posted, exported.named("chat"))
    trace_id, span_id = ids(posted)
    [received] = server.requests
    assert received.headers["traceparent"][:53] == f"00-{trace_id:032x}-{span_id:016x}-"
    assert trace.get_current_span() is trace.INVALID_SPAN


@needs_httpx2
@pytest.mark.usefixtures("instrumented")
def test_every_attempt_is_a_span_below_the_one_call(
    exported: Exported, scripted_server: StartServer
) -> None:
    server = scripted_server([BUSY], [YES])
    with HTTPTransport(server.url, api_key="") as transport:
        ask(RetryingTransport(transport, sleep=lambda _: None))

    first, second = requests_of(exported)
    call = exported.named("chat")
    assert is_below(first, call)
    assert is_below(second, call)
    assert attributes(call)["http.response.status_code"] == 200


def test_status_of_the_answer_is_reported(exported: Exported, scripted_server: StartServer) -> None:
    server = scripted_server([answer(b"no", "418 I'm a Teapot")])
    with HTTPTransport(server.url, api_key="") as transport, pytest.raises(Exception, match="418"):
        Agent(transport, name="Potter").run("Go.")

    told = attributes(exported.named("chat"))
    assert (told["http.response.status_code"], told["error.type"]) == (418, "ProviderError")
    assert told["gen_ai.agent.name"] == "Potter"


# - what is known when a span begins -


class Sampler(StaticSampler):
    """Takes everything, and keeps what it was asked about."""

    def __init__(self) -> None:
        super().__init__(Decision.RECORD_AND_SAMPLE)
        self.asked: dict[str, dict[str, Any]] = {}

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        _, _, name, _, attributes, *_ = args
        self.asked[name] = dict(attributes)
        return super().should_sample(*args, **kwargs)


@pytest.mark.parametrize("around", [lambda transport: transport, RetryingTransport])
def test_sampler_sees_the_model_and_the_address(
    exported: Exported,
    scripted_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    around: Callable[[Transport], Transport],
) -> None:
    sampler = Sampler()
    monkeypatch.setattr(trace.get_tracer_provider(), "sampler", sampler)
    server = scripted_server([YES])
    with HTTPTransport(server.url, api_key="") as transport:
        agent = Agent(around(transport), name="Math Tutor", model="small")
        agent.run("Go.", session_id="s-1")

    asked = {
        "gen_ai.agent.name": "Math Tutor",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "small",
        "gen_ai.conversation.id": "s-1",
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    run, call = sampler.asked["invoke_agent Math Tutor"], sampler.asked["chat small"]
    assert run == {"gen_ai.operation.name": "invoke_agent", **asked}
    assert asked.items() <= call.items()
    assert call["gen_ai.operation.name"] == "chat"
    assert call["gen_ai.request.stream"] is True


def test_provider_of_a_known_address_is_named_at_the_start(exported: Exported) -> None:
    transport = ScriptedTransport("Yes.")
    transport.server_address = ServerAddress("api.mistral.ai", 443)
    Agent(transport).run("Go.")

    assert attributes(exported.named("invoke_agent"))["gen_ai.provider.name"] == "mistral_ai"
    assert attributes(exported.named("chat"))["gen_ai.provider.name"] == "mistral_ai"


def test_value_that_is_not_an_address_is_ignored(exported: Exported) -> None:
    transport = ScriptedTransport("Yes.")
    transport.server_address = object()  # type: ignore[assignment]  # a program's own attribute

    assert Agent(transport).run("Go.").output == "Yes."
    assert len(exported.spans) == 2
