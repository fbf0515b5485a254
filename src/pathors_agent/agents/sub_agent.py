"""An agent as a tool of another agent."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from pathors_agent.agents.result import RunResult
from pathors_agent.agents.stream import AsyncRunStream
from pathors_agent.core.run import Status
from pathors_agent.errors import ToolError
from pathors_agent.history.loading import Prompt
from pathors_agent.history.trim import spend
from pathors_agent.tools.signature import ToolContext


class Streaming(Protocol):
    """An agent whose runs can be streamed."""

    def stream(self, prompt: Prompt, *, context: object) -> AsyncRunStream[Any]:
        """Run, and stream deltas and messages."""


class SubAgent:
    """The function of a tool that runs an agent: each call is a run of its own.

    The deltas and messages of the run are the tool's progress, and its answer is the result. Its
    tokens count to the run that called it, and the context of that run reaches its tools.
    Cancelling the call cancels the run.
    """

    def __init__(self, agent: Streaming) -> None:
        self.agent = agent

    async def __call__(self, prompt: str, context: ToolContext) -> AsyncGenerator[object, None]:
        """Run the agent.

        Args:
            prompt: The task, with everything that is needed to do it.
            context: The context of the outer run.
        """
        stream = self.agent.stream(prompt, context=context.context)
        try:
            async with stream:
                async for item in stream:
                    yield item
        finally:
            spend(stream.result.usage)
        yield answer_of(stream.result)


def answer_of(result: RunResult[Any]) -> object:
    """Return the answer of a sub-agent's run; raise `ToolError` if there is none."""
    match result.status:
        case Status.FINISHED:
            return result.output
        case Status.LIMIT_REACHED:
            raise ToolError(f"The agent has no answer: it reached its limit of {result.limit}.")
        case Status.SUSPENDED:
            names = ", ".join(call.name for call in result.open_calls)
            raise ToolError(f"The agent has no answer: its calls of {names} wait for a person.")
        case Status.NO_ANSWER | Status.RUNNING:
            raise ToolError("The agent has no answer.")
