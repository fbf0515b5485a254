"""Tools that run in processes of their own, called in each way."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import anyio

from pathors_agent.agents.perform.bound import call_tool, call_tool_async
from pathors_agent.agents.perform.tool_thread import ToolThread
from pathors_agent.messages import ToolCall, ToolMessage
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.tool import Tool

Function = Callable[..., Any]
Dispatch = Callable[..., ToolMessage]

# Three hundred times what the functions here need; never waited for when all is well.
LONG = 50.0


def in_process(function: Function, **options: Any) -> Tool:
    """Build a tool that runs in a process of its own."""
    options = {"name": "look", "timeout": LONG, **options}
    return Tool.from_function(function, run_in="process", **options)


def bound(
    function: Function, arguments: dict[str, Any], context: object, **options: Any
) -> BoundCall:
    """Bind a call of a function that runs in a process."""
    registry = ToolRegistry([in_process(function, **options)])
    call = ToolCall(id="call_1", name="look", arguments=json.dumps(arguments))
    made = registry.bind(call, context, session_id="session_1", key="key_1")
    assert isinstance(made, BoundCall)
    return made


def call_in_process(
    way: str,
    function: Function,
    arguments: dict[str, Any] | None = None,
    context: object = None,
    **options: Any,
) -> ToolMessage:
    """Call a function in a process: from blocking code, on asyncio or on trio."""
    made = bound(function, arguments or {}, context, **options)
    if way == "blocking":
        with ToolThread() as thread:
            return call_tool(made, thread)
    return anyio.run(call_tool_async, made, backend=way)


PARENT = """
import sys
import threading
import process_tools
from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, calls
from pathors_agent.tools.tool import Tool

tool = Tool.from_function(getattr(process_tools, sys.argv[2]), name="look", run_in="process")
script = calls(("look", {"path": sys.argv[3]} if len(sys.argv) > 3 else {"number": 21})), "Done."
if sys.argv[1] == "blocking":
    result = Agent(ScriptedTransport(*script), tools=[tool]).run("Go.")
else:
    import anyio
    agent = AsyncAgent(AsyncScriptedTransport(*script), tools=[tool])
    result = anyio.run(agent.run, "Go.", backend=sys.argv[1])
print(result.messages[2].text)
"""


def start_parent(*arguments: str) -> "subprocess.Popen[str]":
    """Start a program that calls tools in processes of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
