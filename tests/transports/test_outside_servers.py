"""Agents over real HTTP against model servers that others wrote."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.agents.result import RunResult
from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import IncompleteResponse, MalformedResponse, ProviderError
from pathors_agent.messages import Message, ToolMessage, UserMessage
from pathors_agent.tools.tool import tool
from pathors_agent.transports.aiohttp import AiohttpTransport
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport
from pathors_agent.transports.retry import AsyncRetryingTransport, RetryingTransport
from pathors_agent.wire.chat_completions import ModelOptions
from pathors_agent.wire.deltas import Delta, TextDelta
from pathors_agent.wire.profiles import EndpointProfile
from servers import FakeLLMServer, LLMockServer
from ways import WAYS

pytestmark = pytest.mark.slow

GO = UserMessage(content="What is the weather in Paris?")
UNSTREAMED = ModelOptions(extra={"stream": False})


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return f"21 degrees in {city}"


@tool
async def get_time(city: str) -> str:
    """Get the time in a city."""
    await checkpoint()
    return f"noon in {city}"


@dataclass
class Client:
    """Runs agents against a server, in one of four ways; items and waits are noted."""

    way: str
    items: list[Delta | Message] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def run(
        self,
        url: str,
        *,
        prompt: UserMessage | None = GO,
        conversation: Conversation | None = None,
        tools: Sequence[Callable[..., object]] = (),
        retries: bool = False,
        **settings: Any,
    ) -> RunResult:
        settings = {"model": "gpt-4o", "tools": tools, **settings}
        if self.way == "blocking":
            return self._blocking(url, prompt, conversation, retries, settings)
        backend = "asyncio" if self.way == "aiohttp" else self.way
        return anyio.run(self._async, url, prompt, conversation, retries, settings, backend=backend)

    def _blocking(
        self,
        url: str,
        prompt: UserMessage | None,
        conversation: Conversation | None,
        retries: bool,
        settings: dict[str, Any],
    ) -> RunResult:
        with HTTPTransport(url, api_key="key", profile=profile_of(settings)) as http:
            transport = RetryingTransport(http, sleep=self.waits.append) if retries else http
            agent = Agent(transport, **settings)
            with agent.stream(prompt, conversation=conversation) as stream:
                self.items.extend(stream)
            return stream.result

    async def _async(
        self,
        url: str,
        prompt: UserMessage | None,
        conversation: Conversation | None,
        retries: bool,
        settings: dict[str, Any],
    ) -> RunResult:
        make = AiohttpTransport if self.way == "aiohttp" else AsyncHTTPTransport
        async with make(url, api_key="key", profile=profile_of(settings)) as http:
            transport = AsyncRetryingTransport(http, sleep=self._sleep) if retries else http
            agent = AsyncAgent(transport, **settings)
            async with agent.stream(prompt, conversation=conversation) as stream:
                async for item in stream:
                    self.items.append(item)
            return stream.result

    async def _sleep(self, seconds: float) -> None:
        await checkpoint()
        self.waits.append(seconds)


def profile_of(settings: dict[str, Any]) -> EndpointProfile:
    """Ask for counts only in streams: elsewhere they come unasked, and asking is an error."""
    return EndpointProfile(include_usage=settings.get("options") is not UNSTREAMED)


@pytest.fixture(params=(*WAYS, "aiohttp"))
def client(request: pytest.FixtureRequest) -> Client:
    return Client(request.param)


FORMS = pytest.mark.parametrize("options", [None, UNSTREAMED], ids=["streamed", "plain"])


def texts(items: Sequence[Delta | Message]) -> list[str]:
    return [item.text for item in items if isinstance(item, TextDelta)]


def results(result: RunResult) -> list[str]:
    return [m.text for m in result.messages if isinstance(m, ToolMessage)]


# - llmock


@FORMS
def test_llmock_answers(
    client: Client, llmock_server: LLMockServer, options: ModelOptions | None
) -> None:
    text = "It is warm. Ça va ?"
    llmock_server.scenario({"type": "reply", "text": text})

    result = client.run(llmock_server.url, options=options)

    assert result.output == text == "".join(texts(client.items))
    assert (len(texts(client.items)) > 1) is (options is None)
    assert result.finish_reason == "stop"
    assert result.usage.total_tokens
    assert llmock_server.verdict()["findings"] == []


@FORMS
def test_llmock_calls_tools_and_gets_their_results(
    client: Client, llmock_server: LLMockServer, options: ModelOptions | None
) -> None:
    result = client.run(llmock_server.url, tools=[get_weather, get_time], options=options)

    assert results(result) == ["21 degrees in mock-city"]
    assert result.output
    assert result.quirks == ()


@FORMS
def test_llmock_calls_tools_side_by_side(
    client: Client, llmock_server: LLMockServer, options: ModelOptions | None
) -> None:
    parallel = [
        {"name": "get_time", "arguments": {"city": "Oslo"}},
        {"name": "get_weather", "arguments": {"city": "Zürich"}},
        {"name": "get_weather", "arguments": {"city": "Lima"}},
    ]
    llmock_server.scenario(
        {"type": "reply", "tool_calls": parallel}, {"type": "reply", "text": "Done."}
    )

    result = client.run(llmock_server.url, tools=[get_weather, get_time], options=options)

    assert results(result) == ["noon in Oslo", "21 degrees in Zürich", "21 degrees in Lima"]
    assert result.output == "Done."


@pytest.mark.parametrize(
    ("kind", "told"),
    [("malformed_arguments", "are not JSON"), ("unknown_tool", "There is no tool")],
)
def test_llmock_reads_the_problem_of_its_call(
    client: Client, llmock_server: LLMockServer, kind: str, told: str
) -> None:
    llmock_server.scenario({"type": "tool_fault", "kind": kind})

    result = client.run(llmock_server.url, tools=[get_weather])

    [text] = results(result)
    assert told in text
    assert result.output


def test_llmock_is_asked_again_when_it_said(client: Client, llmock_server: LLMockServer) -> None:
    llmock_server.scenario(
        {"type": "fail", "status": 429, "retry_after": 7, "times": 2},
        {"type": "reply", "text": "Done."},
    )

    result = client.run(llmock_server.url, retries=True)

    assert result.output == "Done."
    assert client.waits == [7, 7]
    assert len(llmock_server.requests()) == 3


def test_llmock_refuses_once_and_for_all(client: Client, llmock_server: LLMockServer) -> None:
    llmock_server.scenario({"type": "fail", "status": 401})
    conversation = Conversation()

    with pytest.raises(ProviderError) as failed:
        client.run(llmock_server.url, conversation=conversation, retries=True)

    assert failed.value.status == 401
    assert not failed.value.retryable
    assert conversation.messages == (GO,)
    assert client.waits == []
    assert llmock_server.verdict()["findings"] == []


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("disconnect", IncompleteResponse),
        ("truncate", IncompleteResponse),
        ("malformed", MalformedResponse),
    ],
)
def test_run_continues_after_a_broken_answer_of_llmock(
    client: Client, llmock_server: LLMockServer, kind: str, error: type[IncompleteResponse]
) -> None:
    text = "one two three four five six seven"
    llmock_server.scenario(
        {"type": "reply", "text": text}, {"type": "stream_fault", "kind": kind, "after_chunks": 3}
    )
    conversation = Conversation()

    with pytest.raises(error) as broken:
        client.run(llmock_server.url, conversation=conversation, retries=True)

    partial = broken.value.partial
    assert partial is not None
    assert partial.text == "".join(texts(client.items))
    assert text.startswith(partial.text)
    assert partial.text
    assert broken.value.messages == conversation.messages == (GO,)
    assert len(llmock_server.requests()) == 1  # never again after the first byte

    llmock_server.reset()
    llmock_server.scenario({"type": "reply", "text": text})
    assert client.run(llmock_server.url, prompt=None, conversation=conversation).output == text


def test_llmock_breaks_off_a_tool_call_and_nothing_runs(
    client: Client, llmock_server: LLMockServer
) -> None:
    ran: list[str] = []

    @tool
    def charge(city: str) -> None:
        """Charge a card."""
        ran.append(city)

    llmock_server.scenario(
        {"type": "reply", "tool_calls": [{"name": "charge", "arguments": {"city": "Oslo"}}]},
        {"type": "stream_fault", "kind": "disconnect", "after_chunks": 2},
    )

    with pytest.raises(IncompleteResponse):
        client.run(llmock_server.url, tools=[charge])

    assert ran == []


# - fakellm


@FORMS
def test_fakellm_answers(
    client: Client, fakellm_server: FakeLLMServer, options: ModelOptions | None
) -> None:
    fakellm_server.rules({"name": "hello", "respond": {"content": "It is warm. Ça va ?"}})

    result = client.run(fakellm_server.url, options=options)

    assert result.output == "It is warm. Ça va ?" == "".join(texts(client.items))
    assert result.finish_reason == "stop"


@FORMS
def test_fakellm_runs_a_flow_of_parallel_tools(
    client: Client, fakellm_server: FakeLLMServer, options: ModelOptions | None
) -> None:
    parallel = [
        {"name": "get_weather", "arguments": {"city": "Oslo"}},
        {"name": "get_time", "arguments": {"city": "Lima"}},
    ]
    once_more = [{"name": "get_time", "arguments": {"city": "Oslo"}}]
    fakellm_server.rules(
        {
            "name": "third",
            "when": {"tool_result_contains": "noon in Oslo"},
            "respond": {"content": "Done."},
        },
        {
            "name": "second",
            "when": {"tool_result_contains": "noon in Lima"},
            "respond": {"tool_calls": once_more},
        },
        {
            "name": "first",
            "when": {"tools_include": "get_weather"},
            "respond": {"tool_calls": parallel},
        },
    )

    result = client.run(fakellm_server.url, tools=[get_weather, get_time], options=options)

    assert results(result) == ["21 degrees in Oslo", "noon in Lima", "noon in Oslo"]
    assert result.output == "Done."


def test_fakellm_fails_with_its_words(client: Client, fakellm_server: FakeLLMServer) -> None:
    fakellm_server.rules({"name": "busy", "respond": {"status": 429, "error": "slow down"}})

    with pytest.raises(ProviderError, match="slow down") as failed:
        # A rule's status counts only for what is not streamed.
        client.run(fakellm_server.url, retries=True, options=UNSTREAMED)

    assert failed.value.status == 429
    assert len(client.waits) == 3
