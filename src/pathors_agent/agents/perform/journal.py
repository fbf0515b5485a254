"""What is written down of a run's calls, so that a process that comes after knows of them."""

from typing import Protocol

from pathors_agent.core.run import CallTool, Run
from pathors_agent.messages import ToolMessage
from pathors_agent.tools.registry import BoundCall


class Journal(Protocol):
    """Told of each call before it begins, and of its result before it is recorded."""

    async def begin(self, run: Run, effect: CallTool, bound: BoundCall) -> ToolMessage | None:
        """Write down that a call begins; a message where it is not to run: what became of it."""

    async def end(self, message: ToolMessage) -> None:
        """Write down what a call gave."""
