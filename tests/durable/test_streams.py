"""A run is followed from another process: messages, deltas, and from any position on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from pathors_agent import AsyncAgent, AsyncResponse, AsyncTransport, Request, TextDelta, tool
from pathors_agent.durable import DurableAgent, RunEvent, RunNotFound
from pathors_agent.durable.deltas import DeltaReader, _merge, _write
from pathors_agent.durable.engine import sql
from pathors_agent.durable.handle import _events, _RunPosition
from pathors_agent.durable.records import Step
from pathors_agent.durable.tables import DELTAS, StoredDeltas
from pathors_agent.errors import InvalidSetting
from pathors_agent.messages import AssistantMessage, UserMessage, write_message
from pathors_agent.testing import AsyncScriptedTransport, calls
from pathors_agent.wire.deltas import (
    CallBuilder,
    Delta,
    ReasoningDelta,
    ToolCallDelta,
    ToolProgressDelta,
)

slow = pytest.mark.slow


class SlowModel(AsyncTransport):
    """Streams the beginning of an answer, and the rest when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        yield AsyncResponse(status=200, pieces=self._pieces())

    async def _pieces(self) -> AsyncIterator[bytes]:
        for text in ("He", "llo"):
            yield chunk({"content": text}, None)
        await self.go.wait()
        yield chunk({"content": ", world"}, None)
        yield chunk({}, "stop")
        yield b"data: [DONE]\n\n"


def chunk(delta: dict[str, str], reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    body = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**body, "choices": [choice]}).encode() + b"\n\n"


def stored_deltas(durable: DurableAgent[Any]) -> int:
    with sql(durable.runs.client).begin() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(DELTAS)).scalar_one()


@slow
@pytest.mark.anyio
async def test_deltas_of_an_answer_arrive_in_another_process_before_its_end(database: str) -> None:
    model = SlowModel()
    agent = AsyncAgent(model)
    client: DurableAgent[Any]
    async with (
        DurableAgent(agent, database=database, queue="q", deltas=True) as durable,
        durable.working(poll=0.05),
        DurableAgent.client("agent", database=database) as client,
    ):
        handle = await client.start("go")
        said, messages = "", []
        async for event in handle.stream():
            if isinstance(event.item, TextDelta):
                said += event.item.text
            elif not isinstance(event.item, Delta):
                messages.append(event.item)
            if said == "Hello":
                model.go.set()

        assert [message.text for message in messages] == ["go", "Hello, world"]
        assert said in ("Hello", "Hello, world")
        assert stored_deltas(client) == 0


@slow
@pytest.mark.anyio
async def test_progress_of_a_tool_arrives_and_without_deltas_only_messages(database: str) -> None:
    go = asyncio.Event()

    @tool
    async def search() -> AsyncIterator[Any]:
        yield {"found": 1}
        yield {"found": 2}  # a value is progress as soon as the next one has come
        await go.wait()
        yield "done"

    for deltas in (True, False):
        go.clear()
        script = AsyncScriptedTransport(calls(("search", {})), "fine")
        agent = AsyncAgent(script, tools=[search])
        async with DurableAgent(agent, database=database, deltas=deltas) as durable:
            handle = await durable.start("go")
            seen: list[object] = []
            async for event in handle.stream():
                if isinstance(event.item, ToolProgressDelta):
                    if event.item.value == {"found": 1}:
                        seen.append((event.item.call.name, event.item.value))
                    go.set()
                elif not isinstance(event.item, Delta):
                    seen.append(event.item.role)
                    if not deltas:
                        go.set()

            progress = [("search", {"found": 1})] if deltas else []
            assert seen == ["user", "assistant", *progress, "tool", "assistant"]
            assert stored_deltas(durable) == 0


@slow
@pytest.mark.anyio
async def test_stream_continues_behind_any_position(database: str) -> None:
    @tool(approve=True)
    async def pay(cents: int) -> str:
        return f"paid {cents}"

    script = AsyncScriptedTransport(calls(("pay", {"cents": 1}), ("pay", {"cents": 2})), "done")
    async with DurableAgent(AsyncAgent(script, tools=[pay]), database=database) as durable:
        handle = await durable.start("go", id="run")
        await handle.result()
        first, second = await durable.approvals("run")
        await durable.deny("run", first)
        await handle.result()
        await durable.approve("run", second)
        await handle.result()
        whole = [event async for event in handle.stream()]

        assert [e.item.role for e in whole if not isinstance(e.item, Delta)] == [
            *("user", "assistant", "tool", "tool", "assistant")
        ]
        for place, event in enumerate(whole):
            rest = [later async for later in handle.stream(after=event.position)]
            assert rest == whole[place + 1 :]
        for wrong in ("x", "1", "1.2", "-1.0.0", "9.0.0"):
            with pytest.raises(InvalidSetting, match="position"):
                [event async for event in handle.stream(after=wrong)]
        with pytest.raises(RunNotFound):
            await durable.get("other")


def recorded(number: int, name: str, text: str) -> Step:
    message = write_message(AssistantMessage(content=text))
    return {"function_id": number, "function_name": name, "output": {"message": message}}


def texts(events: list[RunEvent]) -> list[str]:
    return [e.item.text for e in events if isinstance(e.item, AssistantMessage | TextDelta)]


def test_result_that_is_recorded_early_waits_for_the_call_before_it() -> None:
    place, reader = _RunPosition(step=3), DeltaReader()
    third, fourth, fifth = (recorded(n, f"tool/0/{n}", str(n)) for n in (4, 5, 6))

    assert texts([*_events(place, reader, [], [fifth], has_ended=False)]) == []
    assert texts([*_events(place, reader, [], [third, fifth], has_ended=False)]) == ["4"]
    assert texts([*_events(place, reader, [], [third, fourth, fifth], has_ended=False)]) == [
        *("5", "6")
    ]
    # The run ended, and the call before it was never recorded.
    place = _RunPosition(step=3)
    assert texts([*_events(place, reader, [], [fifth], has_ended=True)]) == ["6"]


def stored(number: int, text: str, *, attempt: str = "a") -> StoredDeltas:
    deltas = json.dumps([["text", text]])
    return StoredDeltas(number=number, effect="model/0", attempt=attempt, text=deltas)


def test_deltas_of_a_recorded_message_are_left_out() -> None:
    place = _RunPosition(step=1)
    events = [
        *_events(
            place, DeltaReader(), [stored(7, "He")], [recorded(2, "model/0", "Hi")], has_ended=False
        )
    ]

    assert texts(events) == ["Hi"]


def test_answer_that_begins_again_after_a_crash_is_marked() -> None:
    given_deltas = [stored(1, "one"), stored(2, "two", attempt="b"), stored(3, "3", attempt="b")]
    events = [*_events(_RunPosition(step=1), DeltaReader(), given_deltas, [], has_ended=False)]

    assert [(texts([event]), event.again) for event in events] == [
        (["one"], False),
        (["two"], True),
        (["3"], False),
    ]
    assert [event.position for event in events] == ["1.1.0+1", "1.1.0+2", "1.1.0+3"]


def call_delta(index: int, arguments: str) -> ToolCallDelta:
    call = CallBuilder(index)
    call.id, call.name = f"call_{index}", "look"
    return ToolCallDelta(arguments, call)


DELTAS_OF_AN_ANSWER = st.lists(
    st.builds(TextDelta, st.text())
    | st.builds(ReasoningDelta, st.text())
    | st.builds(call_delta, st.integers(0, 1), st.text())
)


@given(DELTAS_OF_AN_ANSWER)
@settings(max_examples=examples(60))
def test_stored_deltas_are_joined_and_keep_every_text_in_order(deltas: list[Delta]) -> None:
    waiting: list[Any] = []
    for delta in deltas:
        _merge(waiting, _write(delta))
    text = json.dumps(waiting)
    read, again = DeltaReader().read(
        StoredDeltas(number=1, effect="model/0", attempt="a", text=text)
    )

    assert not again
    assert len(read) <= len(deltas)
    assert whole(read) == whole(deltas)
    kinds = [(type(delta), getattr(delta, "index", None)) for delta in read]
    assert all(one != other for one, other in pairwise(kinds))


def whole(deltas: list[Delta]) -> dict[object, str]:
    """Return the text of each kind of delta, put together."""
    said: dict[object, str] = {}
    for delta in deltas:
        match delta:
            case TextDelta() | ReasoningDelta():
                said[type(delta)] = said.get(type(delta), "") + delta.text
            case ToolCallDelta():
                key = (delta.index, delta.id, delta.name)
                said[key] = said.get(key, "") + delta.arguments
            case ToolProgressDelta():
                raise AssertionError("not made here")
    return said


def test_progress_of_any_value_can_be_stored() -> None:
    from pathors_agent.messages import ToolCall

    call = ToolCall(id="c", name="look", arguments="{}")
    for value in (1, {"a": [1]}, object(), {1, 2}, UserMessage(content="x"), float("nan")):
        json.dumps(_write(ToolProgressDelta(call, value)))
