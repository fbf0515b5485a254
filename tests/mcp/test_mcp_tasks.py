"""MCP tools belong to an event loop, and to no task of it."""

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from mcp_in_process import plain_server
from pathors_agent import AsyncAgent, ToolMessage
from pathors_agent.errors import WrongEventLoop
from pathors_agent.testing import AsyncScriptedTransport, calls

PING = {
    "tools": [{"name": "ping", "inputSchema": {"type": "object"}}],
    "results": {"ping": {"content": [{"type": "text", "text": "pong"}]}},
}
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def agent_with(tools: Any) -> AsyncAgent[Any]:
    return AsyncAgent(AsyncScriptedTransport(calls(("ping", {})), "Done."), tools=tools)


async def in_another_task(function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(function)


async def pong(agent: AsyncAgent[Any]) -> str:
    [message] = [m for m in (await agent.run("Go.")).messages if isinstance(m, ToolMessage)]
    return message.text


@pytest.mark.anyio
async def test_agent_is_opened_used_and_closed_in_three_tasks() -> None:
    agent = agent_with(plain_server(**PING))
    said: list[str] = []

    async def use() -> None:
        said.append(await pong(agent))

    await in_another_task(agent.__aenter__)
    await in_another_task(use)
    await in_another_task(lambda: agent.__aexit__(None, None, None))

    assert said == ["pong"]


@pytest.mark.anyio
async def test_tools_entered_inside_of_a_cancelled_scope_stay_open() -> None:
    tools = plain_server(**PING)
    with anyio.CancelScope() as scope:
        await tools.__aenter__()
        scope.cancel()

    assert await pong(agent_with(tools)) == "pong"
    await tools.__aexit__(None, None, None)


@pytest.mark.anyio
async def test_error_of_the_task_that_entered_closes_nothing_of_another() -> None:
    tools = plain_server(**PING)

    async def enter_and_fail() -> None:
        await tools.__aenter__()
        raise KeyError("mine")

    with pytest.raises(ExceptionGroup):
        await in_another_task(enter_and_fail)

    assert await pong(agent_with(tools)) == "pong"
    await tools.__aexit__(None, None, None)


@BACKENDS
def test_model_reads_that_a_tool_belongs_to_another_event_loop(backend: str) -> None:
    tools = plain_server(**PING)
    anyio.run(tools.__aenter__, backend=backend)

    assert "connected on another event loop" in anyio.run(pong, agent_with(tools), backend=backend)


@BACKENDS
def test_tools_left_on_another_event_loop_raise_and_can_be_connected_again(backend: str) -> None:
    tools = plain_server(**PING)
    anyio.run(tools.__aenter__, backend=backend)
    with pytest.raises(WrongEventLoop, match="call and close them on that loop"):
        anyio.run(tools.__aexit__, None, None, None, backend=backend)

    async def again() -> str:
        async with tools:
            return await pong(agent_with(tools))

    assert anyio.run(again, backend=backend) == "pong"
    assert anyio.run(again, backend=backend) == "pong"
