"""Store the deltas of running calls of durable runs, for readers in other processes.

They are for display only: a worker stores them a few times a second while a model call or a tool
runs, and deletes them when the message is recorded.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import sqlalchemy as sa
from pydantic_core import to_jsonable_python

from pathors_agent.durable.tables import StoredDeltas, Tables
from pathors_agent.messages import JSONValue, ToolCall
from pathors_agent.telemetry.events import emit
from pathors_agent.wire.deltas import (
    CallBuilder,
    Delta,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolProgressDelta,
)

# Frequent enough for a reader, and at most four small writes a second.
WRITE_SECONDS = 0.25

Add = Callable[[Iterable[Delta]], Awaitable[None]]


class DeltaWriter:
    """Stores the deltas of one execution of a segment."""

    def __init__(self, tables: Tables, segment: str, attempt: str) -> None:
        self._tables = tables
        self._segment = segment
        self._attempt = attempt
        self._last = 0
        self._stored: set[str] = set()

    async def open(self) -> None:
        """Delete the deltas of an earlier execution."""
        await asyncio.to_thread(self._tables.delete_deltas, self._segment)

    @asynccontextmanager
    async def writing(self, effect: str) -> AsyncIterator[Add]:
        """Store the deltas that are added inside the block."""
        waiting: list[JSONValue] = []
        has_more, is_over = asyncio.Event(), asyncio.Event()

        async def add(deltas: Iterable[Delta]) -> None:
            for delta in deltas:
                _merge(waiting, _write(delta))
                has_more.set()

        task = asyncio.create_task(self._store(effect, waiting, has_more, is_over))
        try:
            yield add
        finally:
            # A write that has begun ends before the message is recorded and its deltas are deleted.
            is_over.set()
            has_more.set()
            await asyncio.wait([task])

    async def done(self, effect: str) -> None:
        """Delete the deltas of an effect whose message is recorded."""
        if effect in self._stored:
            self._stored.discard(effect)
            delete = self._tables.delete_deltas
            await asyncio.to_thread(delete, self._segment, effect=effect)

    async def _store(
        self, effect: str, waiting: list[JSONValue], has_more: asyncio.Event, is_over: asyncio.Event
    ) -> None:
        while True:
            await has_more.wait()
            if is_over.is_set():
                return
            has_more.clear()
            # Larger than all earlier numbers, including those of dead workers.
            self._last = max(self._last + 1, int(time.time() * 1000))
            deltas = StoredDeltas(
                number=self._last, effect=effect, attempt=self._attempt, text=json.dumps(waiting)
            )
            waiting.clear()
            self._stored.add(effect)
            try:
                await asyncio.to_thread(self._tables.add_deltas, self._segment, deltas)
            except sa.exc.SQLAlchemyError as error:  # nothing depends on them
                emit("deltas_lost", error=type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(WRITE_SECONDS):
                    await is_over.wait()


def _write(delta: Delta) -> list[JSONValue]:
    match delta:
        case TextDelta():
            return ["text", delta.text]
        case ReasoningDelta():
            return ["reasoning", delta.text]
        case ToolCallDelta():
            return ["call", delta.index, delta.id, delta.name, delta.arguments]
        case ToolProgressDelta():
            call = delta.call
            value = to_jsonable_python(delta.value, serialize_unknown=True)
            return ["progress", call.id, call.name, call.arguments, value]


def _merge(waiting: list[JSONValue], delta: list[JSONValue]) -> None:
    """Add a delta, to the last one if both are pieces of the same text."""
    last: Any = waiting[-1] if waiting else None
    is_piece = delta[0] in ("text", "reasoning") or delta[0] == "call"
    if last is not None and is_piece and last[0] == delta[0] and last[1:-1] == delta[1:-1]:
        last[-1] += delta[-1]
    else:
        waiting.append(delta)


class DeltaReader:
    """Reads stored deltas, and joins the pieces of a call as they arrive."""

    def __init__(self) -> None:
        self._attempts: dict[str, str] = {}
        self._calls: dict[tuple[str, int], CallBuilder] = {}

    def read(self, stored: StoredDeltas) -> tuple[list[Delta], bool]:
        """Return deltas, and True if their effect begins again after a crash."""
        before = self._attempts.get(stored.effect)
        again = before is not None and before != stored.attempt
        self._attempts[stored.effect] = stored.attempt
        if again:
            self._calls = {key: c for key, c in self._calls.items() if key[0] != stored.effect}
        return [self._read(stored.effect, delta) for delta in json.loads(stored.text)], again

    def _read(self, effect: str, delta: list[Any]) -> Delta:
        match delta:
            case ["text", text]:
                return TextDelta(text)
            case ["reasoning", text]:
                return ReasoningDelta(text)
            case ["call", index, call_id, name, arguments]:
                call = self._calls.setdefault((effect, index), CallBuilder(index))
                call.id, call.name = call_id, name
                call.add("", arguments)
                return ToolCallDelta(arguments, call)
            case ["progress", call_id, name, arguments, value]:
                return ToolProgressDelta(
                    ToolCall(id=call_id, name=name, arguments=arguments), value
                )
            case _:
                raise ValueError(f"unknown delta {delta[0]!r}")
