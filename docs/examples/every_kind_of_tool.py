"""One agent with a tool of each kind: async, sync, process, reporting, client, approved, MCP."""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from pathors_agent import (
    AsyncAgent,
    MCPTools,
    Tool,
    ToolMessage,
    ToolProgressDelta,
    ToolRegistry,
    tool,
)
from pathors_agent.testing import AsyncScriptedTransport, calls

SERVER = """
from mcp.server.mcpserver import MCPServer

server = MCPServer("greeter", log_level="ERROR")


@server.tool()
def greet(name: str) -> str:
    return f"Hello, {name}."


server.run("stdio")
"""


@tool
async def fetch(page: int) -> str:
    """Fetch a page. Async: runs on the event loop, beside others."""
    await asyncio.sleep(0)
    return f"page {page}"


@tool
def add(a: int, b: int) -> int:
    """Add two numbers. Sync: runs in a worker thread."""
    return a + b


# In a process: it can really be stopped. Its function must be one of a module that the process can
# import; this one was written by others, and so was not decorated.
mean = Tool(
    name="mean",
    description="Average numbers.",
    parameters={
        "type": "object",
        "properties": {"data": {"type": "array", "items": {"type": "number"}}},
        "required": ["data"],
    },
    function=statistics.fmean,
    run_in="process",
    timeout=30,
    memory=2 * 1024**3,
)


@tool
async def search(words: str) -> AsyncIterator[str]:
    """Search. An async generator: yields progress, then its result."""
    yield "looking in the cellar"
    yield "looking in the attic"
    yield f"{words}: in the attic"


@tool(approve=True)
def pay(to: str, amount: int) -> str:
    """Pay somebody. Waits for a person's yes."""
    return f"{to} has {amount} more"


# No function: only the caller can run it.
ask = Tool(
    name="ask",
    description="Ask the person at the screen.",
    parameters={
        "type": "object",
        "properties": {"question": {"type": "string"}},
        "required": ["question"],
    },
)

SCRIPT = [
    calls(
        ("fetch", {"page": 1}),
        ("add", {"a": 1, "b": 2}),
        ("mean", {"data": [1, 2, 6]}),
        ("search", {"words": "the hat"}),
        ("greet", {"name": "Ada"}),
        ("pay", {"to": "Ann", "amount": 5}),
        ("ask", {"question": "Which hat?"}),
    ),
    "All done.",
]


async def main(folder: Path) -> None:
    """Run until the person is needed, then with what the person said."""
    server = folder / "greeter.py"
    server.write_text(SERVER)
    async with MCPTools.stdio(sys.executable, [str(server)]) as remote:
        own = ToolRegistry([fetch, add, mean, search, pay, ask])
        agent = AsyncAgent(AsyncScriptedTransport(*SCRIPT), tools=own + remote)

        async with agent.stream("Do all of it.") as stream:
            async for item in stream:
                if isinstance(item, ToolProgressDelta):
                    print("...", item.value)
                elif isinstance(item, ToolMessage):
                    print(item.text)
        # -> ... looking in the cellar
        # -> ... looking in the attic
        # -> page 1
        # -> 3
        # -> 3.0
        # -> the hat: in the attic
        # -> Hello, Ada.

        waiting = stream.result
        print(waiting.status, [call.name for call in waiting.open_calls])
        # -> suspended ['pay', 'ask']

        [asked] = [call for call in waiting.open_calls if call.name == "ask"]
        waiting.conversation.append(ToolMessage(tool_call_id=asked.id, content="The red one."))
        [approval] = waiting.approvals
        result = await agent.run(conversation=waiting.conversation, decisions=[approval.approve()])
        print(result.output)  # -> All done.


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))
