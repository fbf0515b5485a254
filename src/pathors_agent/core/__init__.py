"""The state machine: conversations, runs and limits. No I/O, no clock."""

from typing import TYPE_CHECKING

from pathors_agent.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathors_agent.core.run import CallModel, CallTool, GiveFeedback, Run, Status
else:
    __getattr__, __dir__ = lazy_names(
        __name__, {"core.run": ("CallModel", "CallTool", "GiveFeedback", "Run", "Status")}
    )

__all__ = ["CallModel", "CallTool", "GiveFeedback", "Run", "Status"]
