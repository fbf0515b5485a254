"""Define tools, read their signatures, bind calls to them and write their results. Pure."""

from typing import TYPE_CHECKING

from pathors_agent.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathors_agent.tools.registry import AsyncToolChoice, GivenTool, ToolChoice, Tools
    from pathors_agent.tools.tool import NOT_HAPPENED, Happened, Reconcile
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "tools.registry": ("AsyncToolChoice", "GivenTool", "ToolChoice", "Tools"),
            "tools.tool": ("NOT_HAPPENED", "Happened", "Reconcile"),
        },
    )

__all__ = [
    "NOT_HAPPENED",
    "AsyncToolChoice",
    "GivenTool",
    "Happened",
    "Reconcile",
    "ToolChoice",
    "Tools",
]
