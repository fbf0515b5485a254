"""An agent of three turns with parallel tools that write into files, for programs that are killed.

`Boundaries` is told of each place that a run passes: around each record, and inside the model's
calls and the tools'.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from dbos._sys_db import SystemDatabase

from pathors_agent import AsyncAgent, ToolContext, tool
from pathors_agent.testing import calls
from pathors_agent.testing.script import Asked, Entry
from pathors_agent.testing.scripted_transport import AsyncPlayerTransport
from pathors_agent.tools import NOT_HAPPENED, Happened
from pathors_agent.transports.base import AsyncResponse, Request
from pathors_agent.wire.profiles import DEFAULT_PROFILE

Pass = Callable[[str], None]

SCRIPT: list[Entry] = [
    calls(("write", {"line": "a"}), ("write", {"line": "b"}), ("put", {"line": "c"})),
    calls(("charge", {"cents": 1}), ("charge", {"cents": 2})),
    calls(("write", {"line": "d"})),
    "done",
]


class Boundaries:
    """Counts what this process passes, and kills it at one of them."""

    def __init__(self, last: int | None = None) -> None:
        self.passed: list[str] = []
        self._last = last

    def __call__(self, name: str) -> None:
        self.passed.append(name)
        if len(self.passed) == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch_records(self) -> None:
        """Pass a boundary before and after each record of the engine."""
        record = SystemDatabase.record_operation_result
        outcome = SystemDatabase.update_workflow_outcome

        def recorded(self_: SystemDatabase, result: Any, **rest: Any) -> None:
            self(f"before {result['function_name']}")
            record(self_, result, **rest)
            self(f"after {result['function_name']}")

        def ended(self_: SystemDatabase, *arguments: Any, **rest: Any) -> bool:
            self("before the end")
            done = outcome(self_, *arguments, **rest)
            self("after the end")
            return done

        SystemDatabase.record_operation_result = recorded  # type: ignore[assignment, method-assign]
        SystemDatabase.update_workflow_outcome = ended  # type: ignore[assignment, method-assign]


class Model(AsyncPlayerTransport):
    """Answers by how many answers the history holds, so that a restart changes nothing."""

    def __init__(self, passes: Pass) -> None:
        super().__init__(cut=None, profile=DEFAULT_PROFILE)
        self._passes = passes

    def _entry(self, number: int, body: Mapping[str, Any]) -> Entry:
        return SCRIPT[answers_in(body)]

    def _asked(self, number: int, body: dict[str, Any]) -> Asked:
        made = sum(len(message.get("tool_calls") or ()) for message in body["messages"])
        asked = super()._asked(number, body)
        return replace(asked, number=answers_in(body) + 1, first_call=made + 1)

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        self._passes("model asked")
        async with super().send(request) as response:
            self._passes("model answers")
            yield response


def answers_in(body: Mapping[str, Any]) -> int:
    return sum(message["role"] == "assistant" for message in body["messages"])


def append(path: Path, line: str) -> None:
    """Write a line at once, whole, and for good."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def lines(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines()) if path.exists() else []


def make_agent(folder: Path, passes: Pass, *, seconds: float = 0) -> AsyncAgent[str]:
    """Build the agent; its tools write to `lines`, `put` and `ledger` in the folder.

    `seconds` go by before each of them writes, and after.
    """

    @tool
    async def write(line: str, context: ToolContext) -> str:
        """Write a line, which must not be there twice."""
        passes(f"before writing {line}")
        await asyncio.sleep(seconds)
        append(folder / "lines", f"{context.key} {line}")
        passes(f"after writing {line}")
        await asyncio.sleep(seconds)
        return f"wrote {line}"

    @tool(idempotent=True)
    async def put(line: str, context: ToolContext) -> str:
        """Write a line, which may be there twice under the same key."""
        passes(f"before putting {line}")
        await asyncio.sleep(seconds)
        append(folder / "put", f"{context.key} {line}")
        passes(f"after putting {line}")
        await asyncio.sleep(seconds)
        return f"put {line}"

    def look_into_ledger(context: ToolContext, arguments: Mapping[str, Any]) -> object:
        entry = f"{context.key} {arguments['cents']}"
        there = entry in lines(folder / "ledger")
        return Happened(f"charged {arguments['cents']}") if there else NOT_HAPPENED

    @tool(reconcile=look_into_ledger)
    async def charge(cents: int, context: ToolContext) -> str:
        """Charge, and note it in a ledger that can be looked into."""
        passes(f"before charging {cents}")
        await asyncio.sleep(seconds)
        append(folder / "ledger", f"{context.key} {cents}")
        passes(f"after charging {cents}")
        await asyncio.sleep(seconds)
        return f"charged {cents}"

    return AsyncAgent(Model(passes), tools=[write, put, charge])
