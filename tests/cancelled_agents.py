"""Tools that note that they began, and runs that are cancelled."""

from typing import Any

import anyio
import anyio.to_thread

from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.agents.stream import AsyncRunStream, RunStream
from pathors_agent.core.conversation import Conversation
from pathors_agent.messages import ToolMessage
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport
from pathors_agent.tools.tool import tool

# Reached only when something hangs.
LONG = 50.0


def closed(conversation: Conversation) -> list[tuple[str, str]]:
    """Return outcome and text of each result."""
    return [(m.outcome, m.text) for m in conversation.messages if isinstance(m, ToolMessage)]


BEGUN: list[str] = []


async def begun(path: Any = None) -> None:
    """Wait until a tool notes that it has begun, or a file is there."""
    while not (BEGUN or (path is not None and path.exists())):  # noqa: ASYNC110  (a thread notes it)
        await anyio.sleep(0.005)


def followed(
    way: str,
    *script: Any,
    at: tuple[int, str],
    conversation: Conversation | None = None,
    tools: Any = (),
) -> list[Any]:
    """Read a stream; after so many items, cancel it or say something."""
    items: list[Any] = []
    kept = Conversation() if conversation is None else conversation

    def act(stream: RunStream[Any] | AsyncRunStream[Any]) -> None:
        if len(items) == at[0]:
            stream.cancel() if at[1] == "cancel" else stream.say(at[1])

    async def main() -> None:
        agent = AsyncAgent(AsyncScriptedTransport(*script), tools=tools)
        async with agent.stream("Go.", conversation=kept) as stream:
            act(stream)
            async for item in stream:
                items.append(item)
                act(stream)

    if way != "blocking":
        anyio.run(main, backend=way)
        return items
    with Agent(ScriptedTransport(*script), tools=tools).stream("Go.", conversation=kept) as stream:
        act(stream)
        for item in stream:
            items.append(item)
            act(stream)
    return items


@tool
def look(n: int) -> str:
    """Look."""
    return f"seen {n}"
