"""A real server of the mcp package for tests, over stdio, or over HTTP on the port that is named.

python mcp_server.py [stdio | http PORT] [legacy]
"""

import base64
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ResourceLink, TextContent
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

server = MCPServer("test", log_level="CRITICAL")

# The smallest GIF there is.
GIF = base64.b64decode("R0lGODlhAQABAAAAACwAAAAAAQABAAAC")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool(name="wetter.für morgen")
def weather(city: str) -> dict[str, Any]:
    """Say what the weather will be."""
    return {"city": city, "sun": True}


@server.tool(name="wetter f_r morgen")
def other_weather() -> str:
    """Have nearly the name of the other."""
    return "the other one"


@server.tool()
def fail() -> str:
    """Fail."""
    raise ToolError("it is broken")


@server.tool(structured_output=False)
def picture() -> list[Any]:
    """Draw a dot."""
    return ["a dot:", Image(data=GIF, format="gif")]


@server.tool()
def summary() -> CallToolResult:
    """Say little, and send all."""
    return CallToolResult(
        content=[
            TextContent(type="text", text="2 words"),
            ResourceLink(type="resource_link", name="list", uri="file:///words"),
        ],
        structured_content={"words": ["a", "b"]},
    )


@server.tool()
def variable(key: str) -> str:
    """Read a variable of the environment."""
    return os.environ.get(key, "(none)")


@server.tool()
def process() -> int:
    """Give the number of the server's process."""
    return os.getpid()


@server.tool()
def learn() -> str:
    """Have one tool more after the next start."""
    Path(os.environ["LEARNED"]).touch()
    return "learned"


@server.tool()
def die() -> str:
    """End the server before there is a result."""
    os._exit(1)


@server.tool()
async def wait(started: str, stopped: str) -> str:
    """Wait without end; leave files behind at the start, and when told to stop."""
    await anyio.Path(started).touch()
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await anyio.Path(stopped).touch()
        raise
    return "never"


@server.tool()
async def learn_now(context: Context) -> str:
    """Have one tool more from now on, and tell."""
    server.add_tool(process, name="learned_now")
    await context.notify_tools_changed()
    await context.session.send_tool_list_changed()  # how older clients are told
    return "learned"


@server.tool()
async def count(steps: int, context: Context) -> int:
    """Count, and report each step; the last report has neither total nor message."""
    for step in range(1, steps):
        await context.report_progress(step, steps, f"step {step}")
    await context.report_progress(steps)
    return steps


@server.tool()
def bad(x: int) -> int:
    """Have a definition that no registry takes."""
    return x


def spoil(tool: Any, schema: Mapping[str, Any]) -> None:
    tool.parameters = dict(schema)


spoil(server._tool_manager.get_tool("bad"), {"type": "object", "properties": {"x": {"type": 5}}})


if Path(os.environ.get("LEARNED", "/nowhere")).exists():
    server.tool(name="learned")(learn)


def without_discovery(app: Starlette) -> ASGIApp:
    """Refuse what only newer servers know, so that a client begins a session."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if (b"mcp-method", b"server/discover") in scope.get("headers", []):
            await PlainTextResponse("what?", status_code=400)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return wrapped


def main() -> None:
    match sys.argv[1:]:
        case ["http", port]:
            server.run("streamable-http", port=int(port))
        case ["old-http", port]:
            app = without_discovery(server.streamable_http_app())
            uvicorn.run(app, port=int(port), log_level="critical")
        case _:
            server.run("stdio")


if __name__ == "__main__":
    main()
