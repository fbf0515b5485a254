"""Drive one segment of a run: each effect is a step of the engine, recorded under the run's key.

Nothing of the run's logic is here: what is owed says `Run`, and on a replay the recorded messages
go through `Run.record` as new ones do.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from dbos import DBOS, DBOSClient, StepOptions

from pathors_agent.agents.agent import AsyncAgent
from pathors_agent.agents.ask import Bindings
from pathors_agent.agents.control import RunControl, TimeIsUp
from pathors_agent.agents.perform.batches import bind, side_by_side, with_notes
from pathors_agent.agents.perform.dispatch import call_tool_async
from pathors_agent.agents.perform.doubt import settle
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import CallModel, CallTool, GiveFeedback, Run, Status
from pathors_agent.durable.asking import ask
from pathors_agent.durable.engine import LostOwnership, owns
from pathors_agent.durable.history import BEGIN, STARTED, Past, read_past
from pathors_agent.durable.records import Fields, Order, dump, load, write_failure
from pathors_agent.durable.tables import DoubtfulCall, Tables
from pathors_agent.errors import ConversationError, ToolMissing
from pathors_agent.messages import ToolMessage
from pathors_agent.telemetry.events import emit
from pathors_agent.tools.registry import BoundCall
from pathors_agent.wire.messages import read_message, write_message

Work = Callable[[], Coroutine[Any, Any, Fields]]

CLOSED = "Cancelled: the run was ended; if this call had begun, it may have been carried out."


class _Stopped(Exception):
    """Raised to end a segment with what it is to say of itself."""

    def __init__(self, output: Fields) -> None:
        super().__init__()
        self.output = output


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What segments run with in this process."""

    agent: AsyncAgent[Any]
    client: DBOSClient
    tables: Tables
    name: str
    """The agent's name."""
    worker: str
    context: object = None


async def run_segment(place: Place, segment: str, fields: Fields) -> Fields:
    """Carry a segment out, or go on with it; give how it ended."""
    order = Order.load(fields)
    try:
        return await _Segment(place, segment, order).run()
    except _Stopped as stop:
        return stop.output


class _Segment:
    def __init__(self, place: Place, segment: str, order: Order) -> None:
        self._place = place
        self._id = segment
        self._order = order
        # This execution; another one, after a crash, has another.
        self._attempt = token_hex(8)
        self._past = Past()

    async def run(self) -> Fields:
        begin = await self._step(BEGIN, self._begin)
        if "refused" in begin:
            raise _Stopped({"status": "failed", "failure": begin["refused"]})
        await asyncio.to_thread(
            self._place.tables.advance,
            self._place.name,
            self._order.session,
            after=begin["previous"],
            to=self._id,
        )
        self._past = await self._read(begin["previous"])
        run, bindings = self._open(self._past)
        bindings.telemetry.started_by = self._order.trace
        added = load(begin["added"])
        bindings.telemetry.denied(
            m for m in added if isinstance(m, ToolMessage) and m.outcome == "not_run"
        )
        for message in added:
            run.conversation.append(message)
        bindings.approvals.decide(d for d in self._order.decisions if d.approved)
        if self._order.closes:
            return {"status": "cancelled"}
        await self._drive(run, bindings)
        output: Fields = {"status": str(run.status), "limit": run.limit}
        if run.status is Status.SUSPENDED:
            output["waiting"] = {each.call.id: each.digest for each in bindings.approvals.open()}
        return output

    # - the beginning -

    async def _begin(self) -> Fields:
        """Find where the session stands, and take what was said and decided into it."""
        previous = await asyncio.to_thread(
            self._place.tables.last_segment, self._place.name, self._order.session
        )
        run, bindings = self._open(await self._read(previous))
        before = len(run.conversation)
        try:
            added = open_segment(run.conversation, bindings, self._order)
        except ConversationError as error:
            return {"previous": previous, "added": [], "refused": write_failure(error)}
        assert len(run.conversation) == before + len(added)
        return {"previous": previous, "added": added, "by": self._place.worker}

    async def _read(self, previous: str | None) -> Past:
        # Outside of any step: what has ended does not change, so nothing of it is recorded again.
        return await asyncio.to_thread(read_past, previous, self._place.client.list_workflow_steps)

    def _open(self, past: Past) -> tuple[Run, Bindings]:
        conversation = past.conversation(self._order)
        run, _, bindings = self._place.agent._start(conversation, None, self._place.context)
        return run, bindings

    # - the loop -

    async def _drive(self, run: Run, bindings: Bindings) -> None:
        with bindings.telemetry.of(run), RunControl(run) as control:
            if run.conversation.open_calls:
                await bindings.choose_tools_async(run)
            while effects := run.effects():
                match effects[0]:
                    case CallModel() as effect:
                        await bindings.choose_tools_async(run)
                        await self._ask_model(run, effect, bindings, control)
                    case CallTool():
                        calls = effects
                        self._refuse_missing(calls, bindings)
                        await self._call(run, calls, bindings, control)
                    case GiveFeedback() as effect:
                        self._record(run, await self._step(effect.key, _saying(effect)))

    async def _step(self, name: str, work: Work) -> Fields:
        # No arguments: the engine's log shows them.
        return await DBOS.run_step_async({"name": name, "preemptible": True}, work)

    def _record(self, run: Run, output: Fields) -> None:
        if "time_is_up" in output:
            raise TimeIsUp
        if "failure" in output:
            raise _Stopped({"status": "failed", "failure": output["failure"]})
        if session := output.get("endpoint_session"):
            run.conversation.session_id = session
        self._past.known |= set(output.get("known", ()))
        run.record(read_message(output["message"]))  # type: ignore[arg-type]  # what effects produce

    async def _ask_model(
        self, run: Run, effect: CallModel, bindings: Bindings, control: RunControl
    ) -> None:
        async def asking() -> Fields:
            try:
                message = await ask(run, effect, self._place.agent.transport, bindings, control)
            except TimeIsUp:
                return {"time_is_up": True}
            except Exception as error:  # noqa: BLE001  (recorded, and raised for who asks for the result)
                return {"failure": write_failure(error)}
            return {
                "message": write_message(message),
                "known": [c.name for c in message.tool_calls if c.name in bindings.tools],
                "endpoint_session": run.conversation.session_id,
                "by": self._place.worker,
            }

        self._record(run, await self._step(effect.key, asking))

    def _refuse_missing(self, calls: Sequence[CallTool], bindings: Bindings) -> None:
        """Stop before a batch whose tools were there when the model called them, and are not."""
        for name in (effect.call.name for effect in calls):
            if name in self._past.known and name not in bindings.tools:
                missing = ToolMissing(
                    f"the tool {name!r} was called, and the agent has it no more: give it back,"
                    " and resume the run"
                )
                raise _Stopped({"status": "failed", "failure": write_failure(missing)})

    # - tools -

    async def _call(
        self, run: Run, effects: Sequence[CallTool], bindings: Bindings, control: RunControl
    ) -> None:
        """Run the calls of one answer side by side, each in two steps.

        The numbers of the steps are drawn in call order before any of them runs: a replay finds
        them again, whichever call was fastest.
        """
        steps = {effect.key: (DBOS.reserve_step(), DBOS.reserve_step()) for effect in effects}
        places = asyncio.Semaphore(run.limits.max_concurrency)

        async def call(effect: CallTool) -> None:
            started, step = steps[effect.key]
            async with places:
                left = control.left()
                note = await started.run_async({"name": effect.key + STARTED}, self._note_start)

                async def calling() -> Fields:
                    return await self._call_one(run, effect, bindings, left, note["attempt"])

                options: StepOptions = {"name": effect.key, "preemptible": True}
                self._record(run, await step.run_async(options, calling))

        for batch in side_by_side(effects, bindings.tools):
            await all_of(call(effect) for effect in batch)

    async def _note_start(self) -> Fields:
        return {"attempt": self._attempt, "by": self._place.worker}

    async def _call_one(
        self, run: Run, effect: CallTool, bindings: Bindings, left: float | None, attempt: str
    ) -> Fields:
        bound = bind(run, effect, bindings)
        if not isinstance(bound, BoundCall):
            return {"message": write_message(bound)}
        facts: Fields = {"by": self._place.worker}
        if attempt != self._attempt or effect.key in self._past.begun:
            message = await self._settle(run, effect, bound)
            if message is not None:
                bindings.report_answered(effect, message)
                return {"message": write_message(message), "doubt": message.outcome, **facts}
            facts["again"] = True
        operation = bindings.telemetry.begin_tool(effect.key, bound)
        seconds = run.limits.tool_seconds
        message = await call_tool_async(bound, operation, seconds=seconds, left=left)
        return {"message": write_message(with_notes(message, effect, bindings)), **facts}

    async def _settle(self, run: Run, effect: CallTool, bound: BoundCall) -> ToolMessage | None:
        """Decide about a call that an execution before this one had begun."""
        if not await asyncio.to_thread(owns, self._place.client, self._id):
            raise LostOwnership[1](self._id)
        message = await settle(run, effect, bound, self._place.context)
        doubtful = message is not None and message.outcome == "unknown"
        emit("call_in_doubt", run=self._order.run, key=effect.key, known=not doubtful)
        if doubtful:
            doubt = DoubtfulCall(
                agent=self._place.name,
                run_id=self._order.run,
                effect=effect.key,
                tool=bound.tool.name,
                call_id=effect.call.id,
                key=run.call_key(effect),
            )
            await asyncio.to_thread(self._place.tables.add_doubt, doubt)
        return message


def _saying(effect: GiveFeedback) -> Work:
    async def saying() -> Fields:
        return {"message": write_message(effect.message)}

    return saying


def open_segment(conversation: Conversation, bindings: Bindings, order: Order) -> list[Fields]:
    """Take an order into the history; give the messages that it added."""
    calls = {call.id for call in conversation.open_calls}
    before = len(conversation)
    bindings.approvals.decide(order.decisions)
    denied = [m for m in conversation.messages if _answers(m, calls)]
    for message in order.messages:
        conversation.append(message)
    if order.closes:
        closed = [
            ToolMessage(tool_call_id=call.id, content=CLOSED, outcome="cancelled")
            for call in conversation.open_calls
        ]
        for result in closed:
            conversation.append(result)
        return dump([*denied, *order.messages, *closed])
    assert len(conversation) == before + len(denied) + len(order.messages)
    return dump([*denied, *order.messages])


def _answers(message: object, calls: set[str]) -> bool:
    return isinstance(message, ToolMessage) and message.tool_call_id in calls


async def all_of(work: Iterable[Awaitable[None]]) -> None:
    """Wait for all of it; where one fails, cancel the others and raise that error as it is."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
