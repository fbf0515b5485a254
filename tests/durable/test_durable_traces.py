"""Durable runs in traces: each segment is linked to the trace in which it was asked for."""

from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan

from pathors_agent import AsyncAgent, tool
from pathors_agent.durable import DurableAgent
from pathors_agent.testing import AsyncScriptedTransport, calls
from tracing import Exported, attributes, ids, is_below

pytestmark = pytest.mark.anyio


@tool(approve=True)
async def pay(cents: int) -> str:
    """Pay."""
    return f"paid {cents}"


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def durable_agent(folder: Path, *script: Any) -> DurableAgent[Any]:
    agent = AsyncAgent(AsyncScriptedTransport(*script), tools=[pay], name="Cashier")
    return DurableAgent(agent, database=f"sqlite:///{folder / 'runs.db'}")


async def test_segments_are_linked_to_the_traces_that_asked_for_them(
    exported: Exported, tmp_path: Path
) -> None:
    tracer = trace.get_tracer("program")
    async with durable_agent(tmp_path, calls(("pay", {"cents": 5})), "Paid.") as durable:
        with tracer.start_as_current_span("order"):
            handle = await durable.start("Pay 5 cents.")
        await handle.result()
        with tracer.start_as_current_span("approval"):
            [approval] = await durable.approvals(handle.id)
            await durable.approve(handle.id, approval)
        assert (await handle.result()).output == "Paid."

    first, second = [span for span in exported.spans if span.name == "invoke_agent Cashier"]
    assert linked(first) == [ids(exported.named("order"))]
    assert linked(second) == [ids(exported.named("approval"))]
    assert first.parent is second.parent is None
    assert is_below(exported.named("execute_tool pay"), second)


async def test_run_that_nothing_traced_is_linked_to_nothing(
    exported: Exported, tmp_path: Path
) -> None:
    async with durable_agent(tmp_path, "Hello.") as durable:
        await (await durable.start("Hi.")).result()

    assert linked(exported.named("invoke_agent Cashier")) == []


async def test_continued_run_has_the_denied_call(exported: Exported, tmp_path: Path) -> None:
    async with durable_agent(tmp_path, calls(("pay", {"cents": 5})), "Well.") as durable:
        handle = await durable.start("Pay 5 cents.")
        [approval] = await durable.approvals(handle.id)
        await durable.deny(handle.id, approval)
        assert (await handle.result()).output == "Well."

    told = attributes(exported.named("execute_tool pay"))
    assert (told["pathors_agent.effect"], told["pathors_agent.outcome"]) == ("tool/0/0", "not_run")
