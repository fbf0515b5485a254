"""The plain MCP server in this process, behind streams in memory: tests of it start no program."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from mcp import MCPError
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCMessage
from pydantic import TypeAdapter

from pathors_agent import MCPTools
from plain_mcp_server import PlainServer

_MESSAGE: TypeAdapter[JSONRPCMessage] = TypeAdapter(JSONRPCMessage)


class InProcess:
    """A server for `MCPTools`; its messages pass through JSON as they do on a pipe."""

    shown = "plain server"

    def __init__(self, script: dict[str, Any]) -> None:
        self._script = script

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[tuple[Any, Any]]:
        """Start the server as a task."""
        to_client, incoming = anyio.create_memory_object_stream[SessionMessage](100)
        outgoing, from_client = anyio.create_memory_object_stream[SessionMessage](100)
        server = PlainServer(json.loads(json.dumps(self._script)))

        async def serve() -> None:
            async with to_client, from_client:
                async for item in from_client:
                    sent = item.message.model_dump(by_alias=True, exclude_none=True, mode="json")
                    for answer in server.answers(sent):
                        text = json.dumps({"jsonrpc": "2.0", **answer})
                        message = _MESSAGE.validate_json(text, by_name=False)
                        await to_client.send(SessionMessage(message))

        async with anyio.create_task_group() as tasks, incoming, outgoing:
            tasks.start_soon(serve)
            yield incoming, outgoing
            tasks.cancel_scope.cancel()

    def breaks_by(self, error: MCPError) -> bool:
        """Return False, as a server in a child process."""
        return False


def plain_server(**script: Any) -> MCPTools:
    """Return the tools of a server with this script."""
    return MCPTools(InProcess(script), prefix="", timeout=60)
