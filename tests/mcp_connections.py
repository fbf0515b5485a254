"""Connections to MCP servers, for tests."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from pathors_agent import MCPTools, ToolCall, ToolMessage, ToolRegistry
from pathors_agent.agents.perform.bound import call_tool_async
from pathors_agent.tools.registry import BoundCall
from servers import PATIENCE_SECONDS, ended, free_port

# The mcp package (2.3) leaves the generators of an event stream to the garbage collector, and trio
# says so.
LEAVES_GENERATORS = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <async_generator:pytest.PytestUnraisableExceptionWarning",
    "ignore:Async generator:ResourceWarning",
)

SERVER = str(Path(__file__).with_name("mcp_server.py"))
ASKING_SERVER = str(Path(__file__).with_name("mcp_asking_server.py"))
PLAIN_SERVER = str(Path(__file__).with_name("plain_mcp_server.py"))


class HTTPServerProcess:
    """The test server over HTTP on a port of its own."""

    def __init__(self, kind: str, program: str = SERVER) -> None:
        self._kind = kind
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/mcp"
        self.start()

    def start(self) -> None:
        self.kill()
        self._process = subprocess.Popen(
            [sys.executable, self._program, self._kind, str(self._port)]
        )
        for _ in range(int(PATIENCE_SECONDS / 0.05)):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            assert not ended(self._process, within=0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def over_stdio(**options: Any) -> MCPTools:
    return MCPTools.stdio(sys.executable, [SERVER, "stdio"], **options)


def plain_server() -> MCPTools:
    """Name a server that starts at once, and whose tool `process` answers with its process id."""
    script = {"tools": [{"name": "process", "inputSchema": {"type": "object"}}]}
    return MCPTools.stdio(sys.executable, ["-S", PLAIN_SERVER, json.dumps(script)])


async def call(tools: ToolRegistry, name: str, **arguments: object) -> ToolMessage:
    bound = tools.bind(ToolCall(id="call_1", name=name, arguments=json.dumps(arguments)))
    assert isinstance(bound, BoundCall), bound.content
    return await call_tool_async(bound)


def is_alive(process: int) -> bool:
    """Return True if there is a process with this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


async def wait_for(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110  (a file, or another task's log)
            await anyio.sleep(0.01)
