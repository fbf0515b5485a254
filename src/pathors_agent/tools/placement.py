"""Check where a tool's function is to run, and what it may take there."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

from pathors_agent.tools.interpreter import no_python, python_executable
from pathors_agent.tools.signature import refused


def check_placement(
    tool: str,
    *,
    function: Callable[..., Any] | None,
    run_in: str,
    timeout: float | None,
    memory: int | None,
) -> None:
    """Raise `ToolDefinitionError` for a placement that cannot be kept."""
    if timeout is not None and not timeout > 0:
        raise refused(tool, "timeout", "should be over 0, or None")
    if run_in not in ("thread", "process"):
        raise refused(tool, "run_in", 'should be "thread" or "process"')
    if memory is not None and run_in != "process":
        raise refused(tool, "memory", 'needs run_in="process"')
    if memory is not None and not memory > 0:
        raise refused(tool, "memory", "should be over 0, or None")
    if run_in == "process" and (problem := _problem(function)):
        raise refused(tool, "run_in", problem)


def _problem(function: Callable[..., Any] | None) -> str | None:
    """Return why a function cannot run in a process, which finds it by its module and name."""
    if function is None:
        return "has no function to run in a process"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "should be a thread: a process cannot run an async function"
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module == "__main__":
        # The process would have to run the whole script, and with it the agent, once more.
        return "needs a function of a module that can be imported, not of the script that runs"
    if not module or not name or getattr(sys.modules.get(module), name, None) is not function:
        return "needs a function at the top level of its module, under its own name"
    return no_python() if python_executable() is None else None
