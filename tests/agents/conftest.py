"""Fixtures of the tests of agents."""

from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dispatched_calls import Dispatch, Function, bound
from pathors_agent.agents.perform.bound import call_tool, call_tool_async
from pathors_agent.agents.perform.tool_thread import ToolThread
from pathors_agent.messages import ToolMessage
from ways import WAYS


@pytest.fixture(params=WAYS)
def dispatch(request: pytest.FixtureRequest) -> "Dispatch":
    """Call a function as a tool, in one of the three ways."""

    def blocking(
        function: Function, *, seconds: float | None = None, **options: Any
    ) -> ToolMessage:
        with ToolThread() as thread:
            return call_tool(bound(function, **options), thread, seconds=seconds)

    def on_loop(function: Function, *, seconds: float | None = None, **options: Any) -> ToolMessage:
        call = partial(call_tool_async, bound(function, **options), seconds=seconds)
        return anyio.run(call, backend=request.param)

    return blocking if request.param == "blocking" else on_loop
