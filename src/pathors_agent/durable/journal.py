"""The journal of one execution of a segment: steps that are recorded once, and never run again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import sqlalchemy as sa
from dbos import DBOSClient

from pathors_agent.concurrency.event_loops import task_is_cancelled
from pathors_agent.durable import engine
from pathors_agent.durable.engine import JSONSerializer
from pathors_agent.durable.records import Fields, run_of
from pathors_agent.telemetry.events import emit

# How long a record is tried again while the database refuses it (a full disk, a restart), because
# the value of the tool is only in memory. After that, the run returns to its queue.
RECORD_SECONDS = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0

T = TypeVar("T")

Work = Callable[[], Awaitable[Fields]]


class StepJournal:
    """The recorded steps of a segment, written by the execution that owns it."""

    def __init__(self, client: DBOSClient, segment: str, owner: str) -> None:
        self.segment = segment
        self._client = client
        self._owner = owner
        self._recorded: dict[str, Fields] = {}
        self._last_number = 0
        self._is_closed = False

    async def open(self) -> None:
        """Read what earlier executions of the segment recorded."""
        steps = await asyncio.to_thread(self._client.list_workflow_steps, self.segment)
        for step in steps:
            self._last_number = max(self._last_number, step["function_id"])
            if (output := step["output"]) is not None:
                self._recorded[step["function_name"]] = output

    def close(self) -> None:
        """Begin no more steps; a running step may still be recorded."""
        self._is_closed = True

    def is_stop(self, error: BaseException) -> bool:
        """Return whether an exception ends this execution, and not the run.

        A `CancelledError` of something that the run awaited is an error of the run.
        """
        if isinstance(error, asyncio.CancelledError):
            return self._is_closed or task_is_cancelled()
        return isinstance(error, (KeyboardInterrupt, GeneratorExit))

    def reserve(self) -> int:
        """Return the number of the next step: steps are read back in the order of their numbers."""
        self._last_number += 1
        return self._last_number

    async def step(self, name: str, work: Work, *, number: int | None = None) -> Fields:
        """Run a step and record its output, unless it is already recorded; return the output."""
        if name in self._recorded:
            return self._recorded[name]
        if self._is_closed:
            raise asyncio.CancelledError
        started = _milliseconds()
        output = await work()
        step = {
            "workflow_uuid": self.segment,
            "function_id": self.reserve() if number is None else number,
            "function_name": name,
            "output": JSONSerializer().serialize(output),
            "error": None,
            "serialization": JSONSerializer().name(),
            "started_at_epoch_ms": started,
            "child_workflow_id": None,
        }
        # The same time at each try, by which the engine recognises a record that it already has.
        ended = _milliseconds()
        await self._insist(
            partial(engine.record, self._client, step, ended=ended, owner=self._owner)
        )
        self._recorded[name] = output
        return output

    async def check_owner(self) -> None:
        """Raise `LostOwnership` unless this execution still owns the segment."""
        query = sa.select(engine.STATUS.c.owner_xid).where(
            engine.STATUS.c.workflow_uuid == self.segment
        )

        def owner() -> object:
            with engine.sql(self._client).begin() as connection:
                return connection.execute(query).scalar()

        if await asyncio.to_thread(owner) != self._owner:
            raise engine.LostOwnership(self.segment)

    async def finish(self, output: Fields) -> None:
        """Record how the segment ended."""
        write = partial(engine.finish, self._client, self.segment, owner=self._owner)
        if not await self._insist(partial(write, output=output)):
            raise engine.LostOwnership(self.segment)

    async def _insist(self, write: Callable[[], T]) -> T:
        deadline, pause = time.monotonic() + RECORD_SECONDS, _FIRST_PAUSE
        while True:
            try:
                return await asyncio.to_thread(write)
            except sa.exc.SQLAlchemyError as error:
                if time.monotonic() >= deadline or self._is_closed:
                    raise
                emit("record_failed", run=run_of(self.segment), error=type(error).__name__)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


def _milliseconds() -> int:
    return int(time.time() * 1000)
