"""Perform a tool call of a segment: a function, or an agent, whose calls are runs of their own."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from pathors_agent.agents.agent import AsyncAgent
from pathors_agent.agents.perform.bound import settle
from pathors_agent.agents.perform.calls import perform_async
from pathors_agent.agents.perform.tasks import STOPS
from pathors_agent.agents.setup import RunSetup
from pathors_agent.core.run import CallTool, Run
from pathors_agent.durable.deltas import DeltaWriter
from pathors_agent.durable.engine import LostOwnership, write_failure
from pathors_agent.durable.history import Histories
from pathors_agent.durable.journal import StepJournal
from pathors_agent.durable.records import SEPARATOR, Fields, SegmentInput
from pathors_agent.durable.tables import DoubtfulCall, Tables
from pathors_agent.errors import LimitReached, RunFailed, ToolError, named_error
from pathors_agent.messages import JSONValue, Outcome, ToolMessage, write_message
from pathors_agent.telemetry.events import emit, warn
from pathors_agent.tools.registry import BoundCall
from pathors_agent.tools.results import result_message


class Child(Protocol):
    """An agent that is a tool: each call is a durable run of its own, named by the call's key."""

    async def ask(self, run: str, prompt: str, context: JSONValue) -> object:
        """Start the run unless it exists, wait until it ends, and return its answer."""

    async def cancel(self, run: str) -> None:
        """Cancel the run permanently; no effect if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSetup:
    """The parts that segments need in this process."""

    agent: AsyncAgent[Any]
    tables: Tables
    histories: Histories
    name: str
    """The agent's name."""
    worker: str
    context: object = None
    stores_deltas: bool = False
    children: Mapping[str, Child] = field(default_factory=dict)
    """By the names of their tools."""


class SegmentCalls:
    """The tool calls of a segment. `context` is the value that its tools get from the caller."""

    def __init__(
        self,
        setup: SegmentSetup,
        journal: StepJournal,
        segment_input: SegmentInput,
        deltas: DeltaWriter | None,
    ) -> None:
        self._setup = setup
        self._journal = journal
        self._input = segment_input
        self._deltas = deltas
        self.context = setup.context if segment_input.context is None else segment_input.context

    async def perform(
        self,
        run: Run,
        effect: CallTool,
        run_setup: RunSetup,
        left: float | None,
        *,
        began_before: bool,
    ) -> Fields:
        """Perform a call; return its result, or the limit or the failure that ends the run.

        `began_before` is True for a call that an earlier execution may have begun.
        """
        child = self._setup.children.get(effect.call.name)
        if child is not None and effect.verdict.refusal is None:
            message = await self._ask_child(run, effect, run_setup, child, left)
            run_setup.report_answered(effect, message)
            return {"message": write_message(message), "by": self._setup.worker}
        journal = _CallJournal(self._settle if began_before else None)
        try:
            async with self._deltas.writing(effect.key) if self._deltas else nullcontext() as add:
                report = None if add is None else lambda delta: add([delta])
                message = await perform_async(
                    run, effect, run_setup, report=report, left=left, journal=journal
                )
        except LimitReached as stop:
            return {"limit": stop.limit}
        except Exception as error:  # noqa: BLE001  (of a hook: recorded as one of a model call is)
            return {"failure": write_failure(error)}
        except (LostOwnership, *STOPS):
            raise
        except BaseException as error:  # noqa: BLE001
            # The tool itself raised it: a worker handles signals separately, and continues.
            text = named_error(error)
            message = ToolMessage(tool_call_id=effect.call.id, content=text, outcome="error")
        return {"message": write_message(message), "by": self._setup.worker, **journal.facts}

    async def _ask_child(
        self, run: Run, effect: CallTool, run_setup: RunSetup, child: Child, left: float | None
    ) -> ToolMessage:
        """Run an agent that is a tool; a later execution waits for the same run."""
        key = run.call_key(effect)
        bound = run_setup.tools.bind(
            run_setup.approvals.as_approved(effect.call),
            self.context,
            session_id=run.conversation.session_id,
            key=key,
        )
        if isinstance(bound, ToolMessage):
            return bound
        outcome: Outcome = "error"
        try:
            async with asyncio.timeout(left):
                answer = await child.ask(
                    _child_run(key), bound.kwargs["prompt"], self._input.context
                )
            return result_message(bound, answer)
        except TimeoutError:
            await child.cancel(_child_run(key))
            text, outcome = "The time of the run is over; the agent was stopped.", "timeout"
        except (ToolError, RunFailed) as error:
            text = str(error)
        return ToolMessage(tool_call_id=effect.call.id, content=text, outcome=outcome)

    async def cancel_children(self, run: Run) -> None:
        """Cancel the runs of agents that the last answer called."""
        for key, call in run.keyed_calls():
            if (child := self._setup.children.get(call.name)) is not None:
                await child.cancel(_child_run(f"{run.conversation.id}/{key}"))

    async def _settle(self, run: Run, effect: CallTool, bound: BoundCall) -> ToolMessage | None:
        """Return the result of a call that an earlier execution began, or None to run it again."""
        await self._journal.check_owner()
        message = await settle(run, effect, bound, self.context)
        doubtful = message is not None and message.outcome == "unknown"
        log = warn if doubtful else emit
        named = {"run": self._input.run, "agent": self._setup.name, "worker": self._setup.worker}
        log("call_in_doubt", key=effect.key, known=not doubtful, **named)
        if doubtful:
            doubt = DoubtfulCall(
                agent=self._setup.name,
                run_id=self._input.run,
                effect=effect.key,
                tool=bound.tool.name,
                call_id=effect.call.id,
                key=run.call_key(effect),
            )
            await asyncio.to_thread(self._setup.tables.add_doubt, doubt)
        return message


Settle = Callable[[Run, CallTool, BoundCall], Awaitable[ToolMessage | None]]


class _CallJournal:
    """The journal of one call, whose begin and result are steps of the engine.

    `settle` decides about a call that an earlier execution began; it is None for all other calls.
    `facts` are recorded with the result.
    """

    def __init__(self, settle: Settle | None) -> None:
        self._settle = settle
        self.facts: Fields = {}

    async def begin(self, run: Run, effect: CallTool, bound: BoundCall) -> ToolMessage | None:
        """Return the result of a call that must not run again."""
        if self._settle is None:
            return None
        message = await self._settle(run, effect, bound)
        self.facts = {"again": True} if message is None else {"doubt": message.outcome}
        return message

    async def end(self, message: ToolMessage) -> None:
        """Do nothing: the step records the result."""


def _child_run(key: str) -> str:
    """Return the id of the run that a call of a sub-agent starts."""
    return key.replace(SEPARATOR, "-")
