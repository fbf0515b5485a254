"""Tools of real servers of the mcp package, in child processes, over stdio and over HTTP."""

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from pathors_agent import (
    Agent,
    AsyncAgent,
    ContentPart,
    Limits,
    MCPTools,
    ToolCall,
    ToolError,
    ToolMessage,
    ToolProgressDelta,
    ToolRegistry,
    tool,
)
from pathors_agent.agents.perform.calls import call_tool_async
from pathors_agent.errors import WrongEventLoop
from pathors_agent.mcp import connection as connection_module
from pathors_agent.mcp.connection import MAX_WAITING_PROGRESS
from pathors_agent.mcp.content import value_of
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, calls
from pathors_agent.tools.registry import BoundCall
from servers import PATIENCE_SECONDS, ended, free_port

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

# The mcp package (2.3) leaves the generators of an event stream to the garbage collector, and trio
# says so.
LEAVES_GENERATORS = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <async_generator:pytest.PytestUnraisableExceptionWarning",
    "ignore:Async generator:ResourceWarning",
)

SERVER = str(Path(__file__).parent.with_name("mcp_server.py"))
PLAIN_SERVER = str(Path(__file__).parent.with_name("plain_mcp_server.py"))


class HTTPServerProcess:
    """The test server over HTTP on a port of its own."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/mcp"
        self.start()

    def start(self) -> None:
        self.kill()
        self._process = subprocess.Popen([sys.executable, SERVER, self._kind, str(self._port)])
        for _ in range(int(PATIENCE_SECONDS / 0.05)):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            assert not ended(self._process, within=0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def shared_server() -> Iterator[HTTPServerProcess]:
    """One server for the tests that leave it alive."""
    server = HTTPServerProcess("http")
    yield server
    server.kill()


@pytest.fixture
def start_server() -> Iterator[Callable[[str], HTTPServerProcess]]:
    servers: list[HTTPServerProcess] = []

    def start(kind: str) -> HTTPServerProcess:
        servers.append(HTTPServerProcess(kind))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def over_stdio(**options: Any) -> MCPTools:
    return MCPTools.stdio(sys.executable, [SERVER, "stdio"], **options)


def plain_server() -> MCPTools:
    """Name a server that starts at once, and whose tool `process` answers with its process id."""
    script = {"tools": [{"name": "process", "inputSchema": {"type": "object"}}]}
    return MCPTools.stdio(sys.executable, ["-S", PLAIN_SERVER, json.dumps(script)])


@pytest.fixture
def over_http(shared_server: HTTPServerProcess) -> Callable[..., MCPTools]:
    return lambda **options: MCPTools.http(shared_server.url, **options)


@pytest.fixture(params=["stdio", "http"])
def connect(request: pytest.FixtureRequest) -> Callable[..., MCPTools]:
    """Name a server in each way."""
    if request.param == "stdio":
        return over_stdio
    return request.getfixturevalue("over_http")  # type: ignore[no-any-return]  # as above


async def call(tools: ToolRegistry, name: str, **arguments: object) -> ToolMessage:
    bound = tools.bind(ToolCall(id="call_1", name=name, arguments=json.dumps(arguments)))
    assert isinstance(bound, BoundCall), bound.content
    return await call_tool_async(bound)


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[dict[str, object]]]:
    """Give the fields of the events of a name."""
    caplog.set_level(logging.INFO, logger="pathors_agent")

    def named(event: str) -> list[dict[str, object]]:
        return [vars(r)["fields"] for r in caplog.records if getattr(r, "event", "") == event]

    return named


async def wait_for(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110  (a file, or another task's log)
            await anyio.sleep(0.01)


# - the registry -


async def test_registry_holds_the_tools_of_the_server(over_http: Callable[..., MCPTools]) -> None:
    async with over_http() as tools:
        definition = tools["add"].definition["function"]

    assert definition["description"] == "Add two numbers."
    assert definition["parameters"]["required"] == ["a", "b"]


async def test_names_are_prefixed_and_mended(connect: Callable[..., MCPTools]) -> None:
    async with connect(prefix="test_") as tools:
        names = [tool.name for tool in tools]
        message = await call(tools, "test_wetter_f_r_morgen", city="Rome")

    assert names == [
        "test_add",
        "test_wetter_f_r_morgen",
        "test_wetter_f_r_morgen_2",
        "test_fail",
        "test_picture",
        "test_summary",
        "test_variable",
        "test_process",
        "test_learn",
        "test_die",
        "test_wait",
        "test_learn_now",
        "test_count",
    ]
    assert json.loads(message.text) == {"city": "Rome", "sun": True}


async def test_names_that_become_the_same_are_told_apart(
    over_http: Callable[..., MCPTools],
) -> None:
    async with over_http() as tools:
        assert (await call(tools, "wetter_f_r_morgen_2")).text == "the other one"


async def test_unusable_definition_is_left_out_with_an_event(
    over_http: Callable[..., MCPTools], events: Callable[[str], list[dict[str, object]]]
) -> None:
    server = over_http(prefix="test_")
    async with server as tools:
        assert "test_bad" not in tools

    assert events("mcp_tool_refused") == [
        {"server": server._shown, "tool": "bad", "path": "parameters/properties/x/type"}
    ]


async def test_registry_composes_with_others(over_http: Callable[..., MCPTools]) -> None:
    @tool
    def double(number: int) -> int:
        """Double a number."""
        return 2 * number

    async with over_http() as tools:
        both = tools.filtered(lambda tool: tool.name == "add") + ToolRegistry([double])

        assert [tool.name for tool in both] == ["add", "double"]
        assert (await call(both, "add", a=1, b=2)).content == "3"


def test_prefix_that_no_name_may_have_is_refused() -> None:
    with pytest.raises(ValueError, match="prefix should be at most 32 of the characters"):
        over_stdio(prefix="my.")


# - results -


async def test_wrong_arguments_are_told_without_asking_the_server(
    over_http: Callable[..., MCPTools],
) -> None:
    async with over_http() as tools:
        message = tools.bind(ToolCall(id="call_1", name="add", arguments='{"a": 1, "b": "2"}'))

    assert not isinstance(message, BoundCall)
    assert str(message.content).startswith("The arguments of add ")


async def test_failure_is_an_error_in_the_servers_words(over_http: Callable[..., MCPTools]) -> None:
    async with over_http() as tools:
        message = await call(tools, "fail")

    assert (message.outcome, message.content) == (
        "error",
        "Error executing tool fail: it is broken",
    )


async def test_picture_is_an_image_part(connect: Callable[..., MCPTools]) -> None:
    async with connect() as tools:
        message = await call(tools, "picture")

    gif = "R0lGODlhAQABAAAAACwAAAAAAQABAAAC"
    assert message.content == (
        ContentPart(type="text", text="a dot:"),
        ContentPart.model_validate(
            {"type": "image_url", "image_url": {"url": f"data:image/gif;base64,{gif}"}}
        ),
    )


async def test_picture_is_sent_in_a_user_message(connect: Callable[..., MCPTools]) -> None:
    model = AsyncScriptedTransport(calls(("picture", {})), "A dot.")

    async with connect() as tools, AsyncAgent(model, tools=tools) as agent:
        await agent.run("Look.")

    tool_message, carrying = model.requests[1]["messages"][-2:]
    assert tool_message["content"] == "a dot:\n[image: in the next user message]"
    assert [carrying["role"], *(part["type"] for part in carrying["content"])] == [
        *("user", "image_url")
    ]


async def test_links_are_text_and_structured_content_is_added_to_what_says_less(
    over_http: Callable[..., MCPTools],
) -> None:
    async with over_http() as tools:
        message = await call(tools, "summary")

    assert message.content == '2 words\n[resource list at file:///words]\n{"words":["a","b"]}'


def result(*content: ContentBlock, structured: Any = None) -> CallToolResult:
    return CallToolResult(content=list(content), structured_content=structured)


def text(said: str) -> TextContent:
    return TextContent(type="text", text=said)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (result(), None),
        (result(text("one"), text("two")), "one\ntwo"),
        (result(structured={"a": [1]}), '{"a":[1]}'),
        (result(text('{"a": [1]}'), structured={"a": [1]}), '{"a": [1]}'),
        (result(text("5"), structured={"result": 5}), "5"),
        (result(text("5"), structured={"result": "5"}), "5"),
        (result(text("x"), text("y"), structured={"result": ["x", "y"]}), "x\ny"),
        (result(structured={"result": None}), None),
        (result(text("two"), structured=2), "two\n2"),
        # The text, or all of the content, as a field.
        (result(text("a\nb"), structured={"content": "a\nb"}), "a\nb"),
        (result(text("a\n"), structured={"text": "a"}), "a\n"),
        (result(text("a"), structured={"data": {"content": "a"}}), "a"),
        (result(text("a"), structured={"content": [{"type": "text", "text": "a"}]}), "a"),
        (result(text("a"), text("b"), structured={"lines": ["a", "b"]}), "a\nb"),
        (result(text('{"a": 1}'), structured={"data": {"a": 1}}), '{"a": 1}'),
        (result(text("a"), structured={"content": "a", "path": "/x"}), 'a\n{"path":"/x"}'),
        (
            result(
                text("Contents:\nthe first line\nthe second"),
                structured={
                    "content": "the first line\nthe second",
                    "lines": 2,
                },
            ),
            'Contents:\nthe first line\nthe second\n{"lines":2}',
        ),
        (result(text("ok"), structured={}), "ok"),
        # What only looks the same is sent.
        (result(text("5"), structured={"count": 5, "offset": 5}), '5\n{"count":5,"offset":5}'),
        (result(text("1"), structured={"ok": True}), '1\n{"ok":true}'),
        (
            result(text("a\nb"), structured={"files": [{"name": "a", "size": 1}]}),
            'a\nb\n{"files":[{"name":"a","size":1}]}',
        ),
    ],
)
def test_structured_content_is_said_once(given: CallToolResult, value: object) -> None:
    assert value_of(given) == value


def image(data: str) -> ImageContent:
    return ImageContent(type="image", data=data, mime_type="image/png")


@pytest.mark.parametrize(
    "structured",
    [
        {"content": [{"type": "image", "data": "AAAA", "mimeType": "image/png"}]},
        {"image": "AAAA"},
        {"result": {"data": "AAAA"}},
    ],
)
def test_picture_in_structured_content_is_not_sent_as_text(structured: object) -> None:
    value = value_of(result(image("AAAA"), structured=structured))

    assert isinstance(value, list)
    assert [part.type for part in value] == ["image_url"]


def test_picture_among_other_structured_content_is_named() -> None:
    structured = {"items": [{"name": "dot", "data": "AAAA"}]}

    value = value_of(result(image("AAAA"), structured=structured))

    assert isinstance(value, list)
    assert [part.text for part in value] == [
        None,
        '{"items":[{"name":"dot","data":"(shown above)"}]}',
    ]


def test_error_tells_its_structured_content() -> None:
    failed = CallToolResult(content=[], structured_content={"code": 7}, is_error=True)
    with pytest.raises(ToolError, match=r'^\{"code":7\}$'):
        value_of(failed)


RESOURCE = "file:///notes"


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (
            AudioContent(type="audio", data="AAAA", mime_type="audio/mpeg"),
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
        ),
        (
            EmbeddedResource(
                type="resource",
                resource=BlobResourceContents(uri=RESOURCE, blob="AAAA", mime_type="image/png"),
            ),
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        ),
    ],
)
def test_media_are_content_parts(block: ContentBlock, part: dict[str, object]) -> None:
    assert value_of(result(block)) == [ContentPart.model_validate(part)]


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (
            EmbeddedResource(
                type="resource", resource=TextResourceContents(uri=RESOURCE, text="buy milk")
            ),
            "buy milk",
        ),
        (
            EmbeddedResource(
                type="resource",
                resource=BlobResourceContents(uri=RESOURCE, blob="AAAA", mime_type="text/x"),
            ),
            "[resource file:///notes, text/x, not shown]",
        ),
        (
            ResourceLink(type="resource_link", name="notes", uri=RESOURCE, description="my notes"),
            "[resource notes at file:///notes: my notes]",
        ),
    ],
)
def test_resources_are_text(block: ContentBlock, said: str) -> None:
    assert value_of(result(block)) == said


def test_error_without_words_says_that() -> None:
    with pytest.raises(ToolError, match="failed without an error message"):
        value_of(CallToolResult(content=[], is_error=True))


# - a lost connection -


async def test_call_that_the_server_died_in_is_unknown_and_the_next_one_reconnects(
    events: Callable[[str], list[dict[str, object]]],
) -> None:
    async with over_stdio() as tools:
        before = await call(tools, "process")
        broken = await call(tools, "die")
        after = await call(tools, "process")

    assert (broken.outcome, broken.content) == (
        "unknown",
        "The connection to the tool's server broke (Connection closed). "
        "It is unknown whether the tool did its work.",
    )
    assert (after.outcome, before.text != after.text) == ("value", True)
    assert len(events("mcp_connected")) == 2


async def test_server_killed_between_calls_is_started_again_without_a_lost_call(
    events: Callable[[str], list[dict[str, object]]],
) -> None:
    async with over_stdio() as tools:
        process = int((await call(tools, "process")).text)
        os.kill(process, 9)
        await wait_for(lambda: events("mcp_connection_lost"))
        after = await call(tools, "process")

    assert after.outcome == "value"
    assert int(after.text) != process


@LEAVES_GENERATORS
@pytest.mark.parametrize("kind", ["http", "old-http"])
async def test_http_server_that_died_in_a_call_leaves_it_unknown_and_is_found_again(
    kind: str, start_server: Callable[[str], HTTPServerProcess]
) -> None:
    server = start_server(kind)
    async with MCPTools.http(server.url) as tools:
        broken = await call(tools, "die")
        down = await call(tools, "add", a=1, b=2)
        server.start()
        after = await call(tools, "add", a=1, b=2)

    assert (broken.outcome, after.content) == ("unknown", "3")
    assert (down.outcome, f"no MCP server answers at {server.url}" in down.text) == ("error", True)


@LEAVES_GENERATORS
@pytest.mark.parametrize("kind", ["http", "old-http"])
async def test_http_server_started_anew_between_calls_is_not_noticed(
    kind: str, start_server: Callable[[str], HTTPServerProcess]
) -> None:
    server = start_server(kind)
    async with MCPTools.http(server.url) as tools:
        await call(tools, "add", a=1, b=2)
        server.kill()
        server.start()
        after = await call(tools, "add", a=1, b=2)

    assert (after.outcome, after.content) == ("value", "3")


async def test_http_server_that_is_gone_between_calls_is_told_as_not_reached(
    start_server: Callable[[str], HTTPServerProcess],
) -> None:
    server = start_server("http")
    async with MCPTools.http(server.url) as tools:
        server.kill()
        message = await call(tools, "add", a=1, b=2)

    assert message.outcome == "error"
    assert f"no MCP server answers at {server.url}" in message.text


# - time -


async def test_call_over_its_time_is_a_timeout_and_the_server_is_told(
    connect: Callable[..., MCPTools], tmp_path: Path
) -> None:
    async with connect(timeout=0.5) as tools:
        message = await call(
            tools, "wait", started=str(tmp_path / "started"), stopped=str(tmp_path / "stopped")
        )
        await wait_for((tmp_path / "stopped").exists)

    assert (message.outcome, message.content) == (
        "timeout",
        "The tool returned no result within 0.5 s. It is unknown whether the tool did its work.",
    )


async def test_cancelled_call_tells_the_server(
    connect: Callable[..., MCPTools], tmp_path: Path
) -> None:
    async with connect() as tools:
        async with anyio.create_task_group() as tasks:
            files = {name: str(tmp_path / name) for name in ("started", "stopped")}
            tasks.start_soon(lambda: call(tools, "wait", **files))
            await wait_for((tmp_path / "started").exists)
            tasks.cancel_scope.cancel()
        await wait_for((tmp_path / "stopped").exists)

        assert (await call(tools, "add", a=1, b=2)).content == "3"


# - connecting -


async def test_command_that_does_not_exist_is_a_connection_error() -> None:
    with pytest.raises(ConnectionError, match="no MCP server answers at no-such-command: File"):
        async with MCPTools.stdio("no-such-command"):
            pass


async def test_process_that_is_no_server_is_a_connection_error() -> None:
    with pytest.raises(ConnectionError, match="Connection closed"):
        async with MCPTools.stdio(sys.executable, ["-c", ""]):
            pass


async def test_server_that_says_nothing_is_a_connection_error_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "CONNECT_SECONDS", 0.2)
    # It ends with its input, as servers do.
    silent = "import sys; sys.stdin.read()"

    with pytest.raises(ConnectionError, match=r"within 0\.2 s"):
        async with MCPTools.stdio(sys.executable, ["-c", silent]):
            pass


async def test_no_server_at_the_port_is_a_connection_error() -> None:
    url = f"http://127.0.0.1:{free_port()}/mcp"

    with pytest.raises(ConnectionError, match=f"no MCP server answers at {url}"):
        async with MCPTools.http(url):
            pass


async def test_keys_are_not_shown() -> None:
    key = "sk-secret"
    url = f"http://user:{key}@127.0.0.1:{free_port()}/mcp?key={key}"
    tools = MCPTools.http(url, headers={"Authorization": key})

    with pytest.raises(ConnectionError) as caught:
        async with tools:
            pass

    assert key not in f"{tools!r} {caught.value} {tools._connection._server!r}"
    assert key not in repr(MCPTools.stdio("server", [key], env={"KEY": key}))


async def test_server_gets_the_environment_that_is_given_and_little_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OUR_KEY", "secret")

    async with over_stdio(env={"ITS_KEY": "given"}) as tools:
        assert (await call(tools, "variable", key="ITS_KEY")).content == "given"
        assert (await call(tools, "variable", key="OUR_KEY")).content == "(none)"


async def test_process_has_ended_when_the_tools_are_closed() -> None:
    async with over_stdio() as tools:
        process = int((await call(tools, "process")).text)

    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


async def test_error_in_the_block_comes_out_as_it_is(connect: Callable[..., MCPTools]) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with connect():
            raise KeyError("mine")


async def test_tools_may_be_connected_again_after_they_were_closed(
    over_http: Callable[..., MCPTools],
) -> None:
    server = over_http()
    for _ in range(2):
        async with server as tools:
            assert (await call(tools, "add", a=1, b=2)).content == "3"


async def test_second_connection_at_the_same_time_is_refused(
    over_http: Callable[..., MCPTools],
) -> None:
    server = over_http()
    async with server:
        with pytest.raises(RuntimeError, match="is already connected"):
            async with server:
                pass


# - agents -


async def test_agent_connects_its_tools_and_closes_them(connect: Callable[..., MCPTools]) -> None:
    transport = AsyncScriptedTransport(calls(("add", {"a": 1, "b": 2})), "Three.")
    tools = connect()

    async with AsyncAgent(transport, tools=tools) as agent:
        result = await agent.run("What is 1 + 2?")

    assert [m.content for m in result.messages if isinstance(m, ToolMessage)] == ["3"]
    assert result.output == "Three."
    with pytest.raises(RuntimeError, match="is not connected"):
        tools()


class ClosingTransport(AsyncScriptedTransport):
    closed = False

    async def __aexit__(self, *exception: Any) -> None:
        self.closed = True


async def test_agent_closes_its_transport() -> None:
    transport = ClosingTransport()

    async with AsyncAgent(transport):
        assert not transport.closed

    assert transport.closed


async def test_agent_that_was_not_opened_says_what_to_do(
    over_http: Callable[..., MCPTools],
) -> None:
    agent = AsyncAgent(AsyncScriptedTransport("Hi."), tools=over_http())

    with pytest.raises(RuntimeError, match="use it, or the agent, in `async with`"):
        await agent.run("Hi")


async def test_agent_sends_the_tools_that_a_server_has_after_it_was_started_anew(
    tmp_path: Path,
) -> None:
    learn, die, add = calls(("learn", {})), calls(("die", {})), calls(("add", {"a": 1, "b": 2}))
    transport = AsyncScriptedTransport(learn, die, add, "Done.")

    tools = over_stdio(env={"LEARNED": str(tmp_path / "learned")})
    async with AsyncAgent(transport, tools=tools) as agent:
        await agent.run("Go.")

    sent = [[tool["function"]["name"] for tool in each["tools"]] for each in transport.requests]
    assert ["learned" in names for names in sent] == [False, False, False, True]


@pytest.mark.parametrize("kind", ["stdio", "old-http"])
@LEAVES_GENERATORS
async def test_next_turn_has_the_tools_that_a_call_brought(
    kind: str, start_server: Callable[[str], HTTPServerProcess]
) -> None:
    transport = AsyncScriptedTransport(
        calls(("learn_now", {})), calls(("learned_now", {})), "Done."
    )

    tools = over_stdio() if kind == "stdio" else MCPTools.http(start_server(kind).url)
    async with AsyncAgent(transport, tools=tools) as agent:
        result = await agent.run("Go.")

    sent = [[tool["function"]["name"] for tool in each["tools"]] for each in transport.requests]
    assert ["learned_now" in names for names in sent] == [False, True, True]
    [_, found] = [m for m in result.messages if isinstance(m, ToolMessage)]
    assert found.text.isdigit()


@LEAVES_GENERATORS
async def test_server_tells_by_http_of_its_new_tools(
    start_server: Callable[[str], HTTPServerProcess],
) -> None:
    tools = MCPTools.http(start_server("http").url)
    async with tools as before:
        await call(before, "learn_now")
        await wait_for(lambda: "learned_now" in tools())
        learned = await call(tools(), "learned_now")

    assert "learned_now" not in before
    assert learned.text.isdigit()


def test_blocking_agent_connects_its_tools_and_closes_them(
    connect: Callable[..., MCPTools],
) -> None:
    transport = ScriptedTransport(calls(("add", {"a": 1, "b": 2})), "Three.")

    with Agent(transport, tools=connect()) as agent:
        result = agent.run("What is 1 + 2?")

    assert [m.content for m in result.messages if isinstance(m, ToolMessage)] == ["3"]


async def test_tools_connected_by_with_work_on_any_event_loop() -> None:
    with over_stdio() as tools:
        assert (await call(tools, "add", a=1, b=2)).content == "3"


def test_blocking_tool_out_of_time_is_stopped_on_the_server(tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("started", "stopped")}
    transport = ScriptedTransport(calls(("wait", files)), "Too slow.")

    with over_stdio() as tools:
        result = Agent(transport, tools=tools, limits=Limits(seconds=1)).run("Wait.")
        anyio.run(wait_for, (tmp_path / "stopped").exists)

    [message] = [m for m in result.messages if isinstance(m, ToolMessage)]
    assert message.outcome == "timeout"


async def test_async_tools_in_another_loop_say_what_to_do() -> None:
    transport = ScriptedTransport(calls(("add", {"a": 1, "b": 2})), "Three.")

    async with over_stdio() as tools:
        result = await anyio.to_thread.run_sync(Agent(transport, tools=tools).run, "1 + 2?")

    [message] = [m for m in result.messages if isinstance(m, ToolMessage)]
    assert "were connected on another event loop" in message.text
    assert "connect them with `with`" in message.text


# - tasks and event loops -


async def in_another_task(function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(function)


async def test_agent_may_be_opened_in_one_task_and_closed_in_another(
    connect: Callable[..., MCPTools],
) -> None:
    transport = AsyncScriptedTransport(calls(("add", {"a": 1, "b": 2})), "Three.")
    agent = AsyncAgent(transport, tools=connect())

    await in_another_task(agent.__aenter__)
    result = await agent.run("What is 1 + 2?")
    await in_another_task(lambda: agent.__aexit__(None, None, None))

    assert [m.content for m in result.messages if isinstance(m, ToolMessage)] == ["3"]


async def test_process_has_ended_when_another_task_closed_the_tools() -> None:
    server = plain_server()
    await in_another_task(server.__aenter__)
    process = int((await call(server(), "process")).text)

    await in_another_task(lambda: server.__aexit__(None, None, None))

    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


async def test_several_servers_may_be_left_in_any_order() -> None:
    first, second = plain_server(), plain_server()
    await first.__aenter__()
    await second.__aenter__()

    await first.__aexit__(None, None, None)
    assert (await call(second(), "process")).outcome == "value"
    await second.__aexit__(None, None, None)


async def test_entering_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    number = tmp_path / "number"
    silent = f"import os, sys; open({str(number)!r}, 'w').write(str(os.getpid())); sys.stdin.read()"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(MCPTools.stdio(sys.executable, ["-c", silent]).__aenter__)
        await wait_for(lambda: number.exists() and number.read_text())
        tasks.cancel_scope.cancel()

    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tools_left_on_another_event_loop_say_what_to_do_and_connect_again(backend: str) -> None:
    server = plain_server()
    anyio.run(server.__aenter__, backend=backend)

    with pytest.raises(WrongEventLoop, match="connected on another event loop; call and close"):
        anyio.run(server.__aexit__, None, None, None, backend=backend)

    async def use_again() -> ToolMessage:
        async with server as tools:
            return await call(tools, "process")

    assert anyio.run(use_again, backend=backend).outcome == "value"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tools_whose_event_loop_has_ended_connect_again(backend: str) -> None:
    server = plain_server()
    anyio.run(server.__aenter__, backend=backend)

    async def use_again() -> ToolMessage:
        async with server as tools:
            return await call(tools, "process")

    assert anyio.run(use_again, backend=backend).outcome == "value"


# - progress -


@LEAVES_GENERATORS
async def test_progress_reaches_the_stream_before_the_result(
    connect: Callable[..., MCPTools],
) -> None:
    transport = AsyncScriptedTransport(calls(("count", {"steps": 3})), "Counted.")
    async with AsyncAgent(transport, tools=connect()) as agent, agent.stream("Count.") as stream:
        items = [i async for i in stream if isinstance(i, ToolProgressDelta | ToolMessage)]

    assert [i.value if isinstance(i, ToolProgressDelta) else i.content for i in items] == [
        {"progress": 1.0, "total": 3.0, "message": "step 1"},
        {"progress": 2.0, "total": 3.0, "message": "step 2"},
        {"progress": 3.0},
        "3",
    ]
    assert [str(i.value) for i in items if isinstance(i, ToolProgressDelta)] == [
        "step 1 (1/3)",
        "step 2 (2/3)",
        "3",
    ]


def test_progress_reaches_the_blocking_stream(connect: Callable[..., MCPTools]) -> None:
    transport = ScriptedTransport(calls(("count", {"steps": 2})), "Counted.")
    with Agent(transport, tools=connect()) as agent, agent.stream("Count.") as stream:
        reports = [i.value for i in stream if isinstance(i, ToolProgressDelta)]

    assert reports == [{"progress": 1.0, "total": 2.0, "message": "step 1"}, {"progress": 2.0}]


async def test_progress_that_nobody_reads_holds_up_no_call() -> None:
    async with over_stdio() as tools:
        assert (await call(tools, "count", steps=3 * MAX_WAITING_PROGRESS)).content == "300"


# - without the package -


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)

    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pathors-agent\[mcp\]'"):
        MCPTools.stdio("server")


def test_importing_the_class_does_not_import_the_package() -> None:
    code = "import sys; from pathors_agent import MCPTools; print('mcp' in sys.modules)"

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout

    assert printed == b"False\n"
