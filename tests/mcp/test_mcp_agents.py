"""MCP servers as the tools of agents: turns, tasks, event loops, progress."""

import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_connections import (
    LEAVES_GENERATORS,
    HTTPServerProcess,
    call,
    is_alive,
    over_stdio,
    plain_server,
    wait_for,
)
from pathors_agent import Agent, AsyncAgent, Limits, MCPTools, ToolMessage, ToolProgressDelta
from pathors_agent.errors import WrongEventLoop
from pathors_agent.mcp.connection import MAX_WAITING_PROGRESS
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, calls

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

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


async def test_agent_sends_the_tools_of_a_restarted_server(tmp_path: Path) -> None:
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
async def test_http_server_announces_its_new_tools(
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

    await wait_for(lambda: not is_alive(process))


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

    await wait_for(lambda: not is_alive(int(number.read_text())))


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


async def test_unread_progress_blocks_no_call() -> None:
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
