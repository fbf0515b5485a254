"""Handles to durable runs from any process: their status, results, messages and deltas."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol

from pathors_agent.agents.answers import OutputT
from pathors_agent.agents.result import RunResult
from pathors_agent.durable.deltas import DeltaReader
from pathors_agent.durable.history import new_messages
from pathors_agent.durable.records import Step
from pathors_agent.durable.run_list import AT_WORK, RunStatus
from pathors_agent.durable.runs import LONGEST_LOOK_SECONDS, LOOK_SECONDS, Runs, status_of
from pathors_agent.durable.tables import StoredDeltas
from pathors_agent.errors import InvalidSetting
from pathors_agent.messages import Message
from pathors_agent.wire.deltas import Delta

_POSITION = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})(?:\+(\d{1,15}))?")


@dataclass(frozen=True, slots=True)
class RunEvent:
    """A delta or a message of a run that is followed.

    `position` continues the stream after this event. `again` is True for the first delta of an
    answer or a tool call that begins again after a crash: discard its earlier deltas.
    """

    position: str
    item: Delta | Message = field(repr=False)
    again: bool = False


@dataclass(slots=True)
class _RunPosition:
    """How far a reader has come: a segment, its step, messages of the step, and deltas."""

    segment: int = 1
    step: int = 0
    messages: int = 0
    deltas: int = 0

    @classmethod
    def read(cls, position: str) -> "_RunPosition":
        found = _POSITION.fullmatch(position)
        if position and found is None:
            raise InvalidSetting(f"{position!r} is not a position of a run's stream")
        return cls(*(int(part or 0) for part in found.groups())) if found else cls()

    def __str__(self) -> str:
        text = f"{self.segment}.{self.step}.{self.messages}"
        return f"{text}+{self.deltas}" if self.deltas else text


class OpenAgent(Protocol[OutputT]):
    """The interface of a durable agent for its handles."""

    @property
    def runs(self) -> Runs[OutputT]:
        """The runs in the database; raise `RuntimeError` unless the agent is open."""


class RunHandle(Generic[OutputT]):
    """A run that any process can read: its messages so far, and its result."""

    def __init__(self, agent: OpenAgent[OutputT], run_id: str) -> None:
        self._agent = agent
        self.id = run_id

    def __repr__(self) -> str:
        return f"<RunHandle {self.id!r}>"

    async def status(self) -> RunStatus:
        """Return the status of the run."""
        return status_of((await self._agent.runs.segments(self.id))[-1])

    async def result(self) -> RunResult[OutputT]:
        """Wait until the run ends or is suspended; return its result.

        The status of a run that waits for approvals or a client's results is SUSPENDED. Raises
        `RunFailed` if an error stopped the run.
        """
        runs = self._agent.runs
        return await runs.result(await runs.settled(self.id))

    async def events(self) -> AsyncIterator[Message]:
        """Yield the messages of the run, from the first one, until it ends or is suspended.

        The results of parallel tool calls are yielded in the order of the calls.
        """
        async for event in self.stream():
            if not isinstance(event.item, Delta):
                yield event.item

    def stream(self, *, after: str = "") -> AsyncIterator[RunEvent]:
        """Yield the messages of the run, and the deltas of running calls, from any process.

        Agents with `deltas=True` store the deltas; several may be yielded as one. The stream ends
        when the run ends or is suspended. `after` is the `position` of an event: the stream
        continues after it, without the deltas of messages that were recorded meanwhile.
        """
        return follow(self._agent.runs, self.id, after)

    async def cancel(self) -> None:
        """Cancel the run permanently."""
        await self._agent.runs.cancel(self.id)


async def follow(runs: Runs[Any], run: str, after: str) -> AsyncIterator[RunEvent]:
    """Yield the events of a run after a position, until it ends or waits for a person."""
    place, deltas, pause = _RunPosition.read(after), DeltaReader(), LOOK_SECONDS
    while True:
        segments = await runs.segments(run, patiently=True)
        if place.segment > len(segments):
            raise InvalidSetting(f"run {run!r} has no position {after!r}")
        row = segments[place.segment - 1]
        has_ended = status_of(row) not in AT_WORK
        read = partial(runs.tables.news, row.workflow_id, step=place.step, deltas=place.deltas)
        news = await runs.patiently(partial(asyncio.to_thread, read))
        has_news = False
        for event in _events(place, deltas, *news, has_ended=has_ended):
            has_news = True
            yield event
        if has_ended and place.segment == len(segments):
            return
        if has_ended:
            place, deltas = _RunPosition(segment=place.segment + 1), DeltaReader()
            continue
        pause = LOOK_SECONDS if has_news else min(pause * 2, LONGEST_LOOK_SECONDS)
        await asyncio.sleep(pause)


def _events(
    place: _RunPosition,
    reader: DeltaReader,
    stored: Sequence[StoredDeltas],
    steps: Sequence[Step],
    *,
    has_ended: bool,
) -> Iterable[RunEvent]:
    for step in steps:
        # The steps of parallel calls are recorded in any order, and yielded in the order of the calls.
        number = step["function_id"]
        if not has_ended and place.step and number > place.step + 1:
            break
        if number > place.step:
            place.step, place.messages = number, 0
        for message in new_messages(step)[place.messages :]:
            place.messages += 1
            yield RunEvent(str(place), message)
    recorded = {step["function_name"] for step in steps}
    for deltas in stored:
        place.deltas = deltas.number
        if deltas.effect not in recorded and not has_ended:
            found, again = reader.read(deltas)
            for delta in found:
                yield RunEvent(str(place), delta, again)
                again = False
