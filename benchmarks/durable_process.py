"""One run of many turns, plain or durable, in a process of its own: DBOS allows one engine in each.

Arguments: whose run, a database, and how many turns. Written is when each turn's tool ran.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pathors_agent import AsyncAgent, AsyncResponse, AsyncTransport, Limits, Request, tool

# A result as tools give them: some lines of text.
RESULT = "It is sunny, with some clouds in the evening. " * 10
DONE = "done"


class Model(AsyncTransport):
    """Calls the tool so many times, then answers; it answers at once, whatever it is told."""

    def __init__(self, turns: int) -> None:
        self._left = turns

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        self._left -= 1
        yield AsyncResponse(status=200, pieces=self._pieces(self._left))

    async def _pieces(self, left: int) -> AsyncIterator[bytes]:
        call = {
            "id": f"c{left}",
            "type": "function",
            "function": {"name": "tick", "arguments": "{}"},
        }
        asks = {"role": "assistant", "content": None, "tool_calls": [call]}
        says = {"role": "assistant", "content": DONE}
        message, reason = (asks, "tool_calls") if left >= 0 else (says, "stop")
        choice = {"index": 0, "message": message, "finish_reason": reason}
        completion = {"id": "1", "object": "chat.completion", "created": 1, "model": "fake"}
        yield json.dumps({**completion, "choices": [choice]}).encode()


def ticking(ticks: list[float]) -> Any:
    """Make a tool that notes when it ran."""

    async def tick() -> str:
        """Tell the weather."""
        ticks.append(time.perf_counter())
        return RESULT

    return tick


def make_agent(turns: int, ticks: list[float]) -> AsyncAgent[str]:
    limits = Limits(turns=turns + 1, tool_calls=turns + 1, repeats=None)
    return AsyncAgent(Model(turns), tools=[tool(ticking(ticks))], limits=limits)


async def plain(database: str, turns: int, ticks: list[float]) -> str:
    return (await make_agent(turns, ticks).run("go")).output


async def durable(database: str, turns: int, ticks: list[float]) -> str:
    from pathors_agent.durable import DurableAgent

    async with DurableAgent(make_agent(turns, ticks), database=database) as agent:
        return (await (await agent.start("go")).result()).output


async def pydantic_ai(database: str, turns: int, ticks: list[float]) -> str:
    from dbos import DBOS
    from pydantic_ai import Agent, UsageLimits
    from pydantic_ai.durable_exec.dbos import DBOSDurability
    from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel

    left = turns

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        nonlocal left
        left -= 1
        said = ToolCallPart("tick", {}, f"c{left}") if left >= 0 else TextPart(DONE)
        return ModelResponse(parts=[said])

    DBOS(
        config={
            "name": "bench",
            "system_database_url": database,
            "enable_otlp": False,
            "log_level": "ERROR",
        }
    )
    # Its tools are recorded where they say so themselves.
    recorded = DBOS.step()(ticking(ticks))
    agent = Agent(
        FunctionModel(answer), name="bench", tools=[recorded], capabilities=[DBOSDurability()]
    )

    @DBOS.workflow()
    async def run(prompt: str) -> str:
        limits = UsageLimits(request_limit=None)
        return (await agent.run(prompt, usage_limits=limits)).output

    DBOS.launch()
    try:
        return await run("go")
    finally:
        await asyncio.to_thread(DBOS.destroy)


RUNS = {"plain": plain, "durable": durable, "pydantic-ai": pydantic_ai}


def main() -> None:
    kind, database, turns = sys.argv[1], sys.argv[2], int(sys.argv[3])
    ticks: list[float] = []
    output = asyncio.run(RUNS[kind](database, turns, ticks))
    assert (output, len(ticks)) == (DONE, turns)
    print(json.dumps(ticks))


if __name__ == "__main__":
    main()
