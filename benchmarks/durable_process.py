"""One run of many turns, or a worker, in a process of its own: DBOS allows one engine in each.

Arguments: whose run, a database, and how many turns; written is when each turn's tool ran. A
worker takes runs of one turn, and says so, until its input ends.
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
QUEUE = "bench"
TURNS_OF_SESSION = 20
# An idle worker is one as it is by default.
POLLS = {"worker": 0.05, "idle": 0.5}


class Model(AsyncTransport):
    """Calls the tool so many times, then answers; it answers at once, whatever it is told."""

    def __init__(self, turns: int) -> None:
        self._left = turns

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        yield AsyncResponse(status=200, pieces=self._pieces(self.left(request)))

    def left(self, request: Request) -> int:
        self._left -= 1
        return self._left

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


class ModelOfMany(Model):
    """The same for runs of one turn, many at once."""

    def left(self, request: Request) -> int:
        return -1 if b'"role":"tool"' in request.body else 0


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


async def dbos(database: str, turns: int, ticks: list[float]) -> str:
    """Record the same steps by the engine alone, in a database that is set up alike."""
    from dbos import DBOS

    from pathors_agent.durable import engine
    from pathors_agent.durable.engine import JSONSerializer

    engine.connect(database).destroy()  # SQLite with a write-ahead log, as ours

    DBOS(
        config={
            "name": "bench",
            "system_database_url": database,
            "enable_otlp": False,
            "log_level": "ERROR",
            "serializer": JSONSerializer(),
        }
    )
    call = {"id": "c1", "type": "function", "function": {"name": "tick", "arguments": "{}"}}
    asked = {"message": {"role": "assistant", "content": None, "tool_calls": [call]}, "by": "w"}
    begun = {"attempt": "0123456789abcdef", "by": "worker-1234-01234567"}
    given = {"message": {"role": "tool", "tool_call_id": "c1", "content": RESULT}, "by": "w"}

    async def record(output: dict[str, Any]) -> dict[str, Any]:
        return output

    async def tick() -> dict[str, Any]:
        ticks.append(time.perf_counter())
        return given

    @DBOS.workflow()
    async def run() -> str:
        for turn in range(turns):
            options = {"name": f"model/{turn}", "preemptible": True}
            await DBOS.run_step_async(options, record, asked)
            await DBOS.run_step_async({"name": f"tool/{turn}/started"}, record, begun)
            await DBOS.run_step_async({"name": f"tool/{turn}", "preemptible": True}, tick)
        return DONE

    DBOS.launch()
    try:
        return await run()
    finally:
        await asyncio.to_thread(DBOS.destroy)


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


async def session(database: str, messages: int, *, kept: bool) -> list[float]:
    """Return the seconds of turns in a session that has so many messages already.

    `kept` leaves the history in the worker's memory, as it is; without it each turn reads it, as
    another worker would.
    """
    from pathors_agent.durable import DurableAgent, history
    from pathors_agent.durable import agent as module

    run_segment, seconds = module.run_segment, []

    async def timed(*arguments: Any) -> dict[str, Any]:
        begun = time.perf_counter()
        output = await run_segment(*arguments)
        seconds.append(time.perf_counter() - begun)
        return output

    module.run_segment = timed
    if not kept:
        history.MAX_KEPT_MESSAGES = 0
    # Each turn of the first run adds two messages; the model only answers from then on.
    agent = make_agent(messages // 2 - 1, [])
    async with DurableAgent(agent, database=database) as durable:
        for number in range(TURNS_OF_SESSION + 1):
            await (await durable.send("s", "go", id=str(number))).result()
    return seconds[1:]


async def work(database: str, poll: float) -> None:
    from pathors_agent.durable import DurableAgent

    agent = AsyncAgent(ModelOfMany(1), tools=[tool(ticking([]))])
    async with DurableAgent(agent, database=database, queue=QUEUE) as worker:
        async with worker.working(concurrency=20, poll=poll):
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.read)


RUNS = {"plain": plain, "durable": durable, "dbos": dbos, "pydantic-ai": pydantic_ai}


def main() -> None:
    kind, database = sys.argv[1:3]
    if kind in POLLS:
        asyncio.run(work(database, POLLS[kind]))
        return
    turns = int(sys.argv[3])
    if kind in ("session", "session-read"):
        print(json.dumps(asyncio.run(session(database, turns, kept=kind == "session"))))
        return
    ticks: list[float] = []
    output = asyncio.run(RUNS[kind](database, turns, ticks))
    assert (output, len(ticks)) == (DONE, turns)
    print(json.dumps(ticks))


if __name__ == "__main__":
    main()
