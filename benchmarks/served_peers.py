"""CPU of a served turn in process over ASGI, beside what others build with FastAPI.

Each takes a user message in a new conversation, asks a model that answers at once, and answers with a
completion. pydantic-ai stores nothing. openai-agents stores the turn with its `SQLAlchemySession`, on
SQLite as ours.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from importlib.util import find_spec
from typing import Any
from uuid import uuid4

from benchmarks.results import Cost, Measured, Row, Settings
from benchmarks.rounds import measure
from benchmarks.server_turns import ANSWER, NEEDED, PATH, Turn, ask, floor, repeat, serve
from pathors_agent.stores import MemoryStore, SQLStore

TURNS = 20
OURS, IN_MEMORY = "pathors_agent, SQLite", "pathors_agent, in memory"
FLOOR = "floor: Starlette and sqlite3"
PYDANTIC_AI = "pydantic-ai behind FastAPI, nothing stored"
OPENAI_AGENTS = "openai-agents behind FastAPI, SQLAlchemySession"

Answer = Callable[[str], Awaitable[str]]
"""An async function from a user's message to the answer."""


def run(settings: Settings) -> Measured:
    if absent := [name for name in NEEDED if find_spec(name) is None]:
        return Measured(skipped=[f"served_peers: {', '.join(absent)} is not installed"])
    measured = Measured()
    turns = 2 if settings.quick else TURNS
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        stack = AsyncExitStack()
        contenders = runner.run(_contenders(stack, folder, measured))
        timed = {
            name: partial(lambda turn: runner.run(repeat(turn, turns)), turn)
            for name, turn in contenders.items()
        }
        timings = measure(
            "served_peers", timed, rounds=settings.rounds, check=lambda done: done == turns
        )
        runner.run(stack.aclose())
    for name in (PYDANTIC_AI, OPENAI_AGENTS):
        if name in timings:
            measured.rows += [
                Row("", f"CPU of a turn: {name} / {ours}", timings.ratio(name, ours))
                for ours in (OURS, IN_MEMORY)
            ]
    for name, seconds in timings.seconds.items():
        each = [s / turns * 1e3 for s in seconds]
        measured.rows.append(Row("", f"ms of CPU of a served turn, {name}", each))
    measured.turns = [
        Cost("one user message, one answer", name, timings.median(name) / turns * 1e6)
        for name in contenders
    ]
    return measured


async def _contenders(stack: AsyncExitStack, folder: str, measured: Measured) -> dict[str, Turn]:
    contenders = {
        FLOOR: ask(stack.enter_context(floor(f"{folder}/floor.db"))),
        OURS: await serve(stack, SQLStore(f"sqlite:///{folder}/ours.db")),
        IN_MEMORY: await serve(stack, MemoryStore()),
    }
    try:
        contenders[PYDANTIC_AI] = ask(_app(_pydantic_ai()))
    except ImportError as error:
        measured.skipped.append(f"{PYDANTIC_AI}: {error}")
    try:
        answer = await _openai_agents(stack, f"sqlite+aiosqlite:///{folder}/agents.db")
        contenders[OPENAI_AGENTS] = ask(_app(answer))
    except ImportError as error:
        measured.skipped.append(f"{OPENAI_AGENTS}: {error}")
    return contenders


def _app(answer: Answer) -> Any:
    """Serve an agent as a FastAPI program does: a model of the body, and a completion."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Message(BaseModel):
        role: str
        content: str

    class Body(BaseModel):
        model: str
        messages: list[Message]

    app = FastAPI()

    async def complete(body: Body) -> dict[str, Any]:
        message = {"role": "assistant", "content": await answer(body.messages[-1].content)}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}

    app.post(PATH)(complete)
    return app


def _pydantic_ai() -> Answer:
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel

    async def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart(ANSWER)])

    agent = Agent(FunctionModel(model))

    async def answer(text: str) -> str:
        return (await agent.run(text)).output

    return answer


async def _openai_agents(stack: AsyncExitStack, database: str) -> Answer:
    import agents
    from agents.extensions.memory import SQLAlchemySession
    from agents.models.interface import Model
    from openai.types.responses import ResponseOutputMessage, ResponseOutputText
    from sqlalchemy.ext.asyncio import create_async_engine

    agents.set_tracing_disabled(True)
    engine = create_async_engine(database)
    stack.push_async_callback(engine.dispose)
    first = SQLAlchemySession("first", engine=engine, create_tables=True)
    assert await first.get_items() == []
    said = ResponseOutputText(annotations=[], text=ANSWER, type="output_text")

    class Instant(Model):
        async def get_response(self, *args: Any, **options: Any) -> Any:
            message = ResponseOutputMessage(
                id="1", content=[said], role="assistant", status="completed", type="message"
            )
            return agents.ModelResponse([message], agents.Usage(), None)

        def stream_response(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    agent = agents.Agent(name="a", model=Instant())

    async def answer(text: str) -> str:
        session = SQLAlchemySession(uuid4().hex, engine=engine)
        return str((await agents.Runner.run(agent, text, session=session)).final_output)

    return answer
