"""Resources, prompts, questions and logins of real servers of the mcp package."""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx2
import pytest
from mcp import MCPError
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from mcp.types import CreateMessageRequestParams, ElicitRequestFormParams, ElicitRequestParams

from mcp_connections import ASKING_SERVER, LEAVES_GENERATORS, HTTPServerProcess, call, wait_for
from pathors_agent import (
    Agent,
    AssistantMessage,
    AsyncAgent,
    ContentPart,
    MCPTools,
    SystemMessage,
    UserMessage,
)
from pathors_agent.messages import Message
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, calls
from servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.anyio, LEAVES_GENERATORS]

Connect = Callable[..., MCPTools]


def over_stdio(**options: Any) -> MCPTools:
    return MCPTools.stdio(sys.executable, [ASKING_SERVER, "stdio"], **options)


@pytest.fixture(scope="module")
def http_servers() -> Iterator[dict[str, HTTPServerProcess]]:
    kinds = ("old-http", "guarded")
    servers = {kind: HTTPServerProcess(kind, ASKING_SERVER) for kind in kinds}
    yield servers
    for server in servers.values():
        server.kill()


@pytest.fixture
def connect(
    anyio_backend_name: str, http_servers: dict[str, HTTPServerProcess]
) -> Callable[..., MCPTools]:
    """Name a server of the newest protocol, over stdio, or one of the protocol before, over HTTP."""
    if anyio_backend_name == "asyncio":
        return over_stdio
    return lambda **options: MCPTools.http(http_servers["old-http"].url, **options)


# - resources and prompts -


async def test_resources_and_prompts_are_listed(connect: Connect) -> None:
    server = connect()
    async with server:
        resources = await server.list_resources()
        [template] = await server.list_resource_templates()
        [prompt] = await server.list_prompts()

    assert [resource.uri for resource in resources] == [
        "notes://all",
        "pictures://dot.gif",
        "papers://a/paper.pdf",
        "slow://all",
    ]
    assert template.uri_template == "rooms://{number}"
    assert prompt.name == "review"
    assert [argument.name for argument in prompt.arguments or ()] == ["text"]


async def test_contents_of_resources_are_parts_for_a_prompt(connect: Connect) -> None:
    server = connect()
    async with server:
        parts = [
            *await server.read_resource("notes://all"),
            *await server.read_resource("pictures://dot.gif"),
            *await server.read_resource("papers://a/paper.pdf"),
            *await server.read_resource("rooms://7"),
        ]

    assert parts == [
        ContentPart(type="text", text="Buy milk."),
        ContentPart.image("data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAAC"),
        ContentPart.file(b"%PDF-1.7", filename="paper.pdf"),
        ContentPart(type="text", text="room 7 is free"),
    ]
    model = ScriptedTransport("Milk.")
    assert Agent(model).run(["What is there?", *parts]).output == "Milk."


async def test_prompt_is_a_conversation(connect: Connect) -> None:
    server = connect()
    async with server:
        messages = await server.get_prompt("review", {"text": "Ode"})

    assert messages == [
        UserMessage(content="Review: Ode"),
        AssistantMessage(content="Of what kind?"),
        UserMessage(content="Brief."),
    ]
    assert Agent(ScriptedTransport("Good.")).run(conversation=messages).output == "Good."


async def test_server_names_unknown_addresses(connect: Connect) -> None:
    server = connect()
    async with server:
        with pytest.raises(MCPError, match=r"(?i)unknown|not found"):
            await server.read_resource("notes://none")
        with pytest.raises(MCPError):
            await server.get_prompt("none")


async def test_resource_that_takes_too_long_is_a_timeout() -> None:
    server = over_stdio(timeout=0.3)
    async with server:
        with pytest.raises(TimeoutError, match=r"sent no answer within 0\.3 s"):
            await server.read_resource("slow://all")


async def test_resource_is_read_again_on_a_new_connection() -> None:
    process = HTTPServerProcess("http", ASKING_SERVER)
    server = MCPTools.http(process.url)
    try:
        async with server:
            process.start()
            [part] = await server.read_resource("notes://all")
            process.kill()
            with pytest.raises(ConnectionError):
                await server.read_resource("notes://all")
    finally:
        process.kill()

    assert part.text == "Buy milk."


async def test_server_that_is_not_connected_says_what_to_do() -> None:
    with pytest.raises(
        RuntimeError, match="is not connected; use it, or the agent, in `async with`"
    ):
        await over_stdio().list_resources()


def test_resources_are_read_in_blocking_code() -> None:
    server = over_stdio()
    with server:
        [part] = asyncio.run(server.read_resource("notes://all"))

    assert part.text == "Buy milk."


# - questions -


async def test_question_to_the_user_is_answered(connect: Connect) -> None:
    asked: list[ElicitRequestParams] = []

    async def elicit(request: ElicitRequestParams) -> dict[str, str | int]:
        asked.append(request)
        return {"name": "Ada", "nights": 3}

    async with connect(elicit=elicit) as tools:
        result = await call(tools, "book")

    assert result.text == "Ada stays 3 nights"
    [request] = asked
    assert isinstance(request, ElicitRequestFormParams)
    assert request.message == "Who stays how long?"
    assert list(request.requested_schema["properties"]) == ["name", "nights"]


async def test_sync_function_answers_in_a_thread(connect: Connect) -> None:
    threads: list[int] = []

    def elicit(request: ElicitRequestParams) -> None:
        threads.append(threading.get_ident())

    async with connect(elicit=elicit) as tools:
        result = await call(tools, "book")

    assert result.text == "no guest: decline"
    assert threads != [threading.get_ident()]


async def test_question_to_a_model_is_answered(connect: Connect) -> None:
    asked: list[list[Message]] = []

    async def sample(messages: list[Message], request: CreateMessageRequestParams) -> str:
        asked.append(messages)
        agent = AsyncAgent(AsyncScriptedTransport(f"Hi, {request.max_tokens}."))
        return (await agent.run(conversation=messages)).output

    async with connect(sample=sample) as tools:
        result = await call(tools, "greet")

    assert result.text == "Hi, 10."
    assert asked == [[SystemMessage(content="Be brief."), UserMessage(content="Hello?")]]


@pytest.mark.parametrize("name", ["book", "greet"])
async def test_question_without_a_function_is_an_error_for_the_model(
    connect: Connect, name: str
) -> None:
    async with connect() as tools:
        result = await call(tools, name)
        assert result.is_error
        other = await call(tools, "ping")

    assert other.text == "pong"


async def test_function_that_fails_ends_no_other_call(
    connect: Connect, events: Callable[[str], list[dict[str, object]]]
) -> None:
    def elicit(request: ElicitRequestParams) -> None:
        raise ZeroDivisionError("hunter2")

    def sample(messages: list[Message], request: CreateMessageRequestParams) -> str:
        return 5  # type: ignore[return-value]  # the claim

    async with connect(elicit=elicit, sample=sample) as tools:
        results = [await call(tools, name) for name in ("book", "greet")]

    assert all(result.is_error for result in results)
    assert "hunter2" not in results[0].text
    noted = [(each["function"], each["error"]) for each in events("mcp_request_failed")]
    assert noted == [("elicit", "ZeroDivisionError"), ("sample", "TypeError")]


async def test_function_that_never_answers_is_left_in_time() -> None:
    async def elicit(request: ElicitRequestParams) -> None:
        await anyio.sleep_forever()

    async with over_stdio(elicit=elicit, timeout=0.5) as tools:
        result = await call(tools, "book")

    assert result.is_error


def test_blocking_agent_is_asked_as_well() -> None:
    server = over_stdio(elicit=lambda request: {"name": "Bob", "nights": 1})
    model = ScriptedTransport(calls(("book", {})), "Booked.")

    with Agent(model, tools=server) as agent:
        result = agent.run("Book a room.")

    assert result.messages[2].text == "Bob stays 1 nights"


def test_value_that_is_not_a_function_is_refused() -> None:
    with pytest.raises(TypeError, match="elicit= should be a function, not str"):
        over_stdio(elicit="Ada")


# - lists that change -


async def test_next_request_of_a_run_lacks_a_tool_that_the_server_removed() -> None:
    model = AsyncScriptedTransport(calls(("forget", {})), "Gone.")
    server = over_stdio()
    async with server:
        agent = AsyncAgent(model, tools=lambda context: server() + server().prefixed("x_"))
        await agent.run("Lose it.")
        await wait_for(lambda: "book" not in server())

    sent = [[tool["function"]["name"] for tool in each["tools"]] for each in model.requests]
    assert [("book" in names, "x_book" in names) for names in sent] == [
        (True, True),
        (False, False),
    ]


# - logins -


class Memory:
    """Keeps tokens in memory."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


def login(url: str, secret: str) -> ClientCredentialsOAuthProvider:
    return ClientCredentialsOAuthProvider(
        url,
        storage=Memory(),
        client_id="tests",
        client_secret=secret,
        token_endpoint_auth_method="client_secret_post",
        scope="use",
        issuer=url.removesuffix("/mcp"),
    )


async def test_provider_of_the_package_logs_in(http_servers: dict[str, HTTPServerProcess]) -> None:
    url = http_servers["guarded"].url
    server = MCPTools.http(url, auth=login(url, "secret"))

    async with server as tools:
        [part] = await server.read_resource("notes://all")

    assert "book" in tools
    assert part.text == "Buy milk."


async def test_wrong_secret_is_a_connection_error(
    http_servers: dict[str, HTTPServerProcess],
) -> None:
    url = http_servers["guarded"].url

    with pytest.raises(ConnectionError, match="no MCP server answers") as refused:
        async with MCPTools.http(url, auth=login(url, "hunter2")):
            pass

    assert "hunter2" not in str(refused.value)


async def test_login_that_fails_in_a_function_of_the_caller_is_a_connection_error() -> None:
    class Failing(httpx2.Auth):
        def auth_flow(self, request: httpx2.Request) -> Any:
            raise RuntimeError("the browser was closed")
            yield request

    with pytest.raises(ConnectionError, match="the browser was closed"):
        async with MCPTools.http(f"http://127.0.0.1:{free_port()}/mcp", auth=Failing()):
            pass


async def test_login_that_fails_later_is_an_error_of_that_call_only(
    http_servers: dict[str, HTTPServerProcess],
) -> None:
    class Sometimes(httpx2.Auth):
        fails = False

        def auth_flow(self, request: httpx2.Request) -> Any:
            if self.fails:
                raise RuntimeError("the token is gone")
            yield request

    auth = Sometimes()
    async with MCPTools.http(http_servers["old-http"].url, auth=auth) as tools:
        auth.fails = True
        failed = await call(tools, "ping")
        auth.fails = False
        answered = await call(tools, "ping")

    assert (failed.outcome, failed.text) == ("error", "The login at the tool's server failed.")
    assert answered.text == "pong"
