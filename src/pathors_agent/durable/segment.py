"""Drive one segment of a run: each effect is a step of its journal, named by the effect's key.

The logic of runs is in `Run`: it decides which calls are pending. On a replay, `Run.record` takes
the recorded messages in the same way as new ones.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from secrets import token_hex
from time import monotonic
from typing import Any

from pathors_agent.agents.answers import AnswerType
from pathors_agent.agents.ask import ask_async
from pathors_agent.agents.base import load_settings
from pathors_agent.agents.control import RunControl
from pathors_agent.agents.drivers import side_by_side
from pathors_agent.agents.setup import RunSetup
from pathors_agent.agents.stream import prepare_run
from pathors_agent.core.run import CallModel, CallTool, GiveFeedback, Run, Status
from pathors_agent.durable.calls import SegmentCalls, SegmentSetup
from pathors_agent.durable.deltas import DeltaWriter
from pathors_agent.durable.engine import write_failure
from pathors_agent.durable.history import (
    BEGIN,
    STARTED,
    RecordedSession,
    apply_input,
    check_key,
    note_answer,
)
from pathors_agent.durable.journal import StepJournal, Work
from pathors_agent.durable.records import Fields, SegmentInput, load, segment_number
from pathors_agent.errors import ConversationError, LimitReached, ToolMissing
from pathors_agent.messages import ToolMessage, write_message
from pathors_agent.telemetry.events import emit, warn
from pathors_agent.wire.messages import read_message


class _Stopped(Exception):
    """Raised to end a segment with this output."""

    def __init__(self, output: Fields) -> None:
        super().__init__()
        self.output = output


async def run_segment(setup: SegmentSetup, journal: StepJournal, fields: Fields) -> Fields:
    """Carry out a segment, or continue it; return how it ended."""
    segment_input = SegmentInput.load(fields)
    named = {"run": segment_input.run, "agent": setup.name, "worker": setup.worker}
    emit("run_taken", segment=segment_number(journal.segment), **named)
    began = monotonic()
    try:
        output = await _Segment(setup, journal, segment_input).run()
    except _Stopped as stop:
        output = stop.output
    seconds = round(monotonic() - began, 3)
    if output["status"] == "failed":
        warn("run_failed", kind=output["failure"]["kind"], seconds=seconds, **named)
    else:
        emit(f"run_{output['status']}", seconds=seconds, **named)
    return output


class _Segment:
    def __init__(
        self, setup: SegmentSetup, journal: StepJournal, segment_input: SegmentInput
    ) -> None:
        self._setup = setup
        self._journal = journal
        self._id = journal.segment
        self._input = segment_input
        # The id of this execution; an execution after a crash has another id.
        self._attempt = token_hex(8)
        self._recorded = RecordedSession()
        self._opened: tuple[Run, RunSetup] | None = None
        self._deltas: DeltaWriter | None = None
        if setup.stores_deltas:
            self._deltas = DeltaWriter(setup.tables, self._id, self._attempt)
        self._calls = SegmentCalls(setup, journal, segment_input, self._deltas)
        self._last: tuple[str, str] | None = None
        # Until this execution calls the model, an earlier execution may have begun the pending
        # calls.
        self._may_repeat = False

    async def run(self) -> Fields:
        if self._deltas is not None:
            await self._deltas.open()
        begin = await self._journal.step(BEGIN, self._begin)
        if "refused" in begin:
            raise _Stopped({"status": "failed", "failure": begin["refused"]})
        await asyncio.to_thread(
            self._setup.tables.advance,
            self._setup.name,
            self._input.session,
            after=begin["previous"],
            to=self._id,
            token=begin.get("attempt", ""),
        )
        run, run_setup = self._opened or await self._replay(begin)
        self._may_repeat = begin.get("attempt") != self._attempt
        run_setup.telemetry.started_by = self._input.trace
        run_setup.telemetry.add_denied(
            message
            for message in load(begin["added"])
            if isinstance(message, ToolMessage) and message.outcome == "not_run"
        )
        if self._input.closes:
            await self._calls.cancel_children(run)
        else:
            await self._drive(run, run_setup)
        self._keep(run, token=begin.get("attempt", ""))
        if self._input.closes:
            return {"status": "cancelled"}
        output: Fields = {"status": str(run.status), "limit": run.limit}
        if run.status is Status.SUSPENDED:
            waiting = run_setup.approvals.open()
            output["waiting"] = [
                [a.call.id, a.call.name, a.digest] for a in waiting
            ]  # in call order
        return output

    # - the beginning -

    async def _begin(self) -> Fields:
        """Read the session's history, and add the messages and decisions of the input."""
        last = await asyncio.to_thread(
            self._setup.tables.last_segment, self._setup.name, self._input.session
        )
        self._last = last
        previous, token = last or (None, None)
        run, run_setup = await self._open(previous, token=token)
        try:
            added = apply_input(run.conversation, run_setup, self._input)
        except ConversationError as error:
            return {"previous": previous, "added": [], "refused": write_failure(error)}
        self._opened = run, run_setup
        by = {"by": self._setup.worker, "attempt": self._attempt}
        return {"previous": previous, "added": added, **by}

    async def _replay(self, begin: Fields) -> tuple[Run, RunSetup]:
        """Begin the segment in the same way as the earlier execution."""
        run, run_setup = await self._open(begin["previous"])
        for message in load(begin["added"]):
            run.conversation.append(message)
        run_setup.approvals.decide(d for d in self._input.decisions if d.approved)
        return run, run_setup

    async def _open(
        self, previous: str | None, *, token: str | None = None
    ) -> tuple[Run, RunSetup]:
        # Outside of any step: segments that have ended do not change, so nothing is recorded again.
        self._recorded = await self._setup.histories.read(
            self._setup.name, self._input.session, previous, token=token
        )
        run, _, run_setup = prepare_run(
            self._setup.agent,
            self._recorded.conversation(self._input),
            context=self._calls.context,
            settings=load_settings(self._input.settings),
        )
        return run, run_setup

    def _keep(self, run: Run, *, token: str) -> None:
        """Keep the history in memory for the next run of the session."""
        recorded = self._recorded
        recorded.history, recorded.endpoint_session = run.conversation, run.conversation.session_id
        self._setup.histories.keep((self._id, token), recorded, instead_of=self._last)

    # - the loop -

    async def _drive(self, run: Run, run_setup: RunSetup) -> None:
        with run_setup.telemetry.follow(run), RunControl(run, run_setup.budgets) as control:
            if run.conversation.open_calls:
                await run_setup.choose_tools_async(run)
            while True:
                if run_setup.answers is not None:
                    await self._check_answer(run, run_setup.answers, control)
                if not (effects := run.effects()):
                    break
                match effects[0]:
                    case CallModel() as effect:
                        await run_setup.begin_turn_async(run)
                        await self._ask_model(run, effect, run_setup, control)
                    case CallTool():
                        calls = effects
                        self._refuse_missing(calls, run_setup)
                        await self._call(run, calls, run_setup, control)
                    case GiveFeedback() as effect:
                        fields = {"message": write_message(effect.message)}
                        await self._step(run, effect.key, partial(_value, fields))

    async def _check_answer(self, run: Run, answers: AnswerType[Any], control: RunControl) -> None:
        """Await an async output function for the last answer.

        Its verdict is recorded as a step, but not its value: a reader of the result awaits the
        function again.
        """
        for place, text in enumerate(answers.unchecked(run.conversation.messages)):

            async def checking(text: str = text) -> Fields:
                in_time = asyncio.timeout(control.left())
                try:
                    async with in_time:
                        refused = await answers.check_text(text)
                except Exception as error:  # noqa: BLE001  (recorded, as that of a model call is)
                    stop = {"limit": "seconds"} if in_time.expired() else None
                    return stop or {"failure": write_failure(error)}
                return {"refused": refused, "by": self._setup.worker}

            output = await self._journal.step(check_key(run, place), checking)
            _raise_stop(output)
            answers.note_check(text, output["refused"])

    def _record(self, run: Run, output: Fields) -> None:
        _raise_stop(output)
        if "known" in output:
            note_answer(self._recorded, output)
            run.conversation.session_id = (
                self._recorded.endpoint_session or run.conversation.session_id
            )
        run.record(read_message(output["message"]))  # type: ignore[arg-type]  # what effects produce

    async def _ask_model(
        self, run: Run, effect: CallModel, run_setup: RunSetup, control: RunControl
    ) -> None:
        async def asking() -> Fields:
            self._may_repeat = False
            try:
                transport = self._setup.agent.transport
                deltas = self._deltas.writing(effect.key) if self._deltas else nullcontext()
                async with deltas as report:
                    message = await ask_async(run, effect, run_setup, control, transport, report)
            except LimitReached as stop:
                return {"limit": stop.limit}
            except BaseException as error:  # recorded, and raised when the result is read
                if self._journal.is_stop(error):
                    raise
                return {"failure": write_failure(error)}
            known = [c.name for c in message.tool_calls if c.name in run_setup.tools]
            return {
                "message": write_message(message),
                "known": known,
                "idempotent": [name for name in known if run_setup.tools[name].idempotent],
                "endpoint_session": run.conversation.session_id,
                "by": self._setup.worker,
            }

        await self._step(run, effect.key, asking)

    async def _step(self, run: Run, key: str, work: Work, *, number: int | None = None) -> None:
        """Perform an effect as a step, and record its message."""
        output = await self._journal.step(key, work, number=number)
        if self._deltas is not None:
            await self._deltas.done(key)
        self._record(run, output)

    def _refuse_missing(self, calls: Sequence[CallTool], run_setup: RunSetup) -> None:
        """Stop before a batch with calls of tools that no longer exist."""
        for name in (effect.call.name for effect in calls):
            if name in self._recorded.known and name not in run_setup.tools:
                missing = ToolMissing(
                    f"the model called the tool {name!r}, which the agent no longer has: add the tool"
                    " again, and resume the run"
                )
                raise _Stopped({"status": "failed", "failure": write_failure(missing)})

    # - tools -

    async def _call(
        self, run: Run, effects: Sequence[CallTool], run_setup: RunSetup, control: RunControl
    ) -> None:
        """Run the calls of one answer side by side: one step records a call's begin, one its result.

        A tool that was idempotent when the model called it needs no record of the begin, because
        its call may run again. The steps are numbered in call order.
        """
        may_run_again = self._recorded.idempotent
        numbers = {
            effect.key: (
                None if effect.call.name in may_run_again else self._journal.reserve(),
                self._journal.reserve(),
            )
            for effect in effects
        }
        places = asyncio.Semaphore(run.limits.max_concurrency)

        async def call(effect: CallTool) -> None:
            started, ended = numbers[effect.key]
            async with places:
                left = control.left()
                began_before = self._may_repeat
                if started is not None:
                    name = effect.key + STARTED
                    attempt = {"attempt": self._attempt, "by": self._setup.worker}
                    begin = partial(_value, attempt)
                    note = await self._journal.step(name, begin, number=started)
                    began_before = note["attempt"] != self._attempt
                began_before = began_before or effect.key in self._recorded.begun

                async def calling() -> Fields:
                    return await self._calls.perform(
                        run, effect, run_setup, left, began_before=began_before
                    )

                await self._step(run, effect.key, calling, number=ended)
                self._recorded.begun.discard(effect.key)

        for batch in side_by_side(effects, run_setup.tools):
            await all_of(call(effect) for effect in batch)


def _raise_stop(output: Fields) -> None:
    """Raise the limit or the failure that a step recorded instead of a message."""
    if "limit" in output:
        raise LimitReached(output["limit"])
    if "failure" in output:
        raise _Stopped({"status": "failed", "failure": output["failure"]})


async def _value(fields: Fields) -> Fields:
    return fields


async def all_of(work: Iterable[Awaitable[None]]) -> None:
    """Wait for all; if one fails, cancel the others and raise its error unchanged."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
