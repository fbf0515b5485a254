"""T12 and T28: what a call of a tool costs, alone and in the loop around an instant model.

The models here answer at once, each in the form its library takes from a model of one's own:
ours gives bytes through a transport, the peers' give the library's objects.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Self

from jsonschema import Draft202012Validator

from benchmarks.results import Measured, Row, Settings
from benchmarks.rounds import measure
from pathors_agent import AsyncAgent, AsyncResponse, AsyncTransport, Request, ToolCall, tool
from pathors_agent.tools.registry import BoundCall, ToolRegistry

NAME = "round_trip"

CALLS_A_RUN = 200
RUNS_A_RUN = 50
ARGUMENTS = '{"city": "Oslo", "days": 3, "units": "celsius", "tags": ["a", "b"]}'
ANSWER = "It is 3."


@tool
def forecast(city: str, days: int, units: str, tags: list[str]) -> str:
    """Say how the weather will be."""
    return f"{city} {days} {units} {tags}"


@tool
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def run(settings: Settings) -> Measured:
    measured = Measured(rows=[_bind(settings)])
    with asyncio.Runner() as runner:
        contenders = {"ours": Ours().run, **_peers(measured)}
        timings = measure(
            "a tool round trip",
            {name: _several(runner, one) for name, one in contenders.items()},
            rounds=settings.rounds,
            check=lambda answer: answer == ANSWER,
        )
    for name in contenders:
        if name != "ours":
            what = f"{name} / AsyncAgent.run, one tool round trip"
            row = Row("T28", what, timings.ratio(name, "ours"), 20, at_least=True)
            measured.rows.append(row)
    for name, seconds in timings.seconds.items():
        each = [s / RUNS_A_RUN * 1e6 for s in seconds]
        measured.rows.append(Row("-", f"us of CPU for a tool round trip, {name}", each))
    return measured


def _bind(settings: Settings) -> Row:
    registry = ToolRegistry([forecast])
    call = ToolCall(id="call_1", name="forecast", arguments=ARGUMENTS)
    validator = Draft202012Validator(registry["forecast"].parameters)

    def ours() -> dict[str, Any]:
        bound = [registry.bind(call) for _ in range(CALLS_A_RUN)][-1]
        assert isinstance(bound, BoundCall)
        return bound.kwargs

    def kept_validator() -> dict[str, Any]:
        for _ in range(CALLS_A_RUN):
            value: dict[str, Any] = json.loads(ARGUMENTS)
            validator.validate(value)
        return value

    timings = measure(
        "arguments of a call",
        {"ours": ours, "jsonschema": kept_validator},
        rounds=settings.rounds_of_fast,
        check=lambda kwargs: kwargs == json.loads(ARGUMENTS),
    )
    what = "json.loads and a kept jsonschema validator / ToolRegistry.bind"
    return Row("T12", what, timings.ratio("jsonschema", "ours"), 10, at_least=True)


def _several(runner: asyncio.Runner, one: Callable[[], Any]) -> Callable[[], str]:
    async def several() -> str:
        answer = ""
        for _ in range(RUNS_A_RUN):
            answer = await one()
        return answer

    return lambda: runner.run(several())


class Ours(AsyncTransport):
    """A model that calls a tool, then answers; as plain completions."""

    def __init__(self) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": ADD}}
        asks = {"role": "assistant", "content": None, "tool_calls": [call]}
        says = {"role": "assistant", "content": ANSWER}
        self._bodies = [_completion(asks, "tool_calls"), _completion(says, "stop")]
        self._turn = 1
        self._agent = AsyncAgent(self, tools=[add])

    def send(self, request: Request) -> "_Answer":
        self._turn = 1 - self._turn
        return _Answer(self._bodies[self._turn])

    async def run(self) -> str:
        return (await self._agent.run("What is 1 and 2?")).output


class _Answer:
    """An answer of one piece, in the least code: the models of the peers return objects at once."""

    def __init__(self, body: bytes) -> None:
        self._pieces = [body]

    async def __aenter__(self) -> AsyncResponse:
        return AsyncResponse(status=200, pieces=self)

    async def __aexit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.pop()


ADD = '{"a": 1, "b": 2}'


def _completion(message: Mapping[str, object], reason: str) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": reason}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    completion = {"id": "1", "object": "chat.completion", "created": 1, "model": "fake"}
    return json.dumps({**completion, "choices": [choice], "usage": usage}).encode()


def _peers(measured: Measured) -> dict[str, Callable[[], Any]]:
    peers: dict[str, Callable[[], Any]] = {}
    for name, make in {"pydantic-ai": _pydantic_ai, "openai-agents": _openai_agents}.items():
        try:
            peers[name] = make()
        except ImportError as error:
            measured.skipped.append(f"{name}, a tool round trip: {error}")
    return peers


def _pydantic_ai() -> Callable[[], Any]:
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel

    async def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) == 1:
            return ModelResponse(parts=[ToolCallPart("add", ADD)])
        return ModelResponse(parts=[TextPart(ANSWER)])

    agent = Agent(FunctionModel(model), tools=[_plain_add])

    async def run() -> str:
        return str((await agent.run("What is 1 and 2?")).output)

    return run


def _openai_agents() -> Callable[[], Any]:
    import agents
    from agents.models.interface import Model
    from openai.types.responses import (
        ResponseFunctionToolCall,
        ResponseOutputMessage,
        ResponseOutputText,
    )

    agents.set_tracing_disabled(True)

    class Instant(Model):
        async def get_response(self, *args: Any, **options: Any) -> Any:
            items = options["input"] if "input" in options else args[1]
            if isinstance(items, str) or len(items) == 1:
                call = ResponseFunctionToolCall(
                    arguments=ADD, call_id="c1", name="add", type="function_call"
                )
                return agents.ModelResponse([call], agents.Usage(), None)
            text = ResponseOutputText(annotations=[], text=ANSWER, type="output_text")
            said = ResponseOutputMessage(
                id="1", content=[text], role="assistant", status="completed", type="message"
            )
            return agents.ModelResponse([said], agents.Usage(), None)

        def stream_response(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    agent = agents.Agent(name="a", model=Instant(), tools=[agents.function_tool(_plain_add)])

    async def run() -> str:
        return str((await agents.Runner.run(agent, "What is 1 and 2?")).final_output)

    return run


async def _plain_add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


_plain_add.__name__ = "add"
