"""Agents: the loop, its drivers, and what a run returns."""

from typing import TYPE_CHECKING

from pathors_agent.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathors_agent.agents.agent import AsyncInstructions, Instructions
    from pathors_agent.agents.budgets import Amounts, Price
    from pathors_agent.agents.hooks import (
        AsyncModelHook,
        AsyncNextModel,
        AsyncNextTool,
        AsyncToolHook,
        ModelContext,
        ModelHook,
        ModelRequest,
        NextModel,
        NextTool,
        ToolHook,
    )
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "agents.agent": ("AsyncInstructions", "Instructions"),
            "agents.budgets": ("Amounts", "Price"),
            "agents.hooks": (
                "AsyncModelHook",
                "AsyncNextModel",
                "AsyncNextTool",
                "AsyncToolHook",
                "ModelContext",
                "ModelHook",
                "ModelRequest",
                "NextModel",
                "NextTool",
                "ToolHook",
            ),
        },
    )

__all__ = [
    "Amounts",
    "AsyncInstructions",
    "AsyncModelHook",
    "AsyncNextModel",
    "AsyncNextTool",
    "AsyncToolHook",
    "Instructions",
    "ModelContext",
    "ModelHook",
    "ModelRequest",
    "NextModel",
    "NextTool",
    "Price",
    "ToolHook",
]
