"""What a turn costs the database does not depend on the turns before it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from pathors_agent import Conversation, tool
from pathors_agent.durable import DurableAgent
from pathors_agent.durable.engine import sql
from pathors_agent.durable.history import MAX_KEPT_MESSAGES, Histories, RecordedSession
from pathors_agent.durable.records import segment_id
from pathors_agent.durable.timeline import read_timeline
from pathors_agent.messages import UserMessage
from pathors_agent.testing import calls
from stored_runs import Script, opened

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

# One session whose turns are counted: at its beginning, and after this many runs.
RUNS = 20


@contextmanager
def statements(*engines: sa.Engine) -> Iterator[Counter[str]]:
    """Count the statements about messages: reads of steps, and all that concerns sessions."""
    counted: Counter[str] = Counter()

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        for table in ("operation_outputs", "pathors_durable_segments", "pathors_durable_sessions"):
            if table in statement:
                counted[f"{statement.split(maxsplit=1)[0]} {table}"] += 1

    for engine in engines:
        sa.event.listen(engine, "after_cursor_execute", count)
    try:
        yield counted
    finally:
        for engine in engines:
            sa.event.remove(engine, "after_cursor_execute", count)


def engines(durable: DurableAgent[Any]) -> list[sa.Engine]:
    """Return the connections of the client, and those of the worker."""
    return [sql(durable.runs.client), *(sql(worker._client) for worker in durable._workers)]


async def turn(durable: DurableAgent[Any], prompt: str) -> Counter[str]:
    with statements(*engines(durable)) as counted:
        handle = await durable.send("s", prompt)
        # Waiting polls: only what carries the run out is counted.
        while await handle.status() in ("queued", "running"):
            pass
    return counted


@pytest.mark.parametrize("kept", [True, False], ids=["in-memory", "read"])
async def test_turn_of_a_long_session_makes_the_statements_of_a_short_one(
    database: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr("pathors_agent.durable.history.MAX_KEPT_MESSAGES", 0)
    answers = [f"answer {number}" for number in range(RUNS + 2)]
    async with opened(database, *answers) as durable:
        await turn(durable, "first")
        early = await turn(durable, "second")
        for number in range(RUNS - 2):
            await turn(durable, f"more {number}")
        late = await turn(durable, "last")
        model = durable.agent.transport
        assert isinstance(model, Script)
        assert len(model.requests[-1]["messages"]) == 2 * RUNS + 1

    assert late == early
    reads = 0 if kept else 1
    # The segment's own steps are read once, before its first step.
    assert early["SELECT operation_outputs"] == 1 + reads


async def test_decision_and_result_make_a_fixed_number_of_statements(database: str) -> None:
    @tool(approve=True)
    async def pay(cents: int) -> str:
        return f"paid {cents}"

    script = [calls(("pay", {"cents": number})) for number in range(RUNS)]
    counted: list[Counter[str]] = []
    async with opened(database, *script, "done", tools=[pay]) as durable:
        handle = await durable.start("pay", id="run")
        for _ in range(RUNS - 1):
            await durable.runs.settled("run")
            with statements(sql(durable.runs.client)) as now:
                [approval] = (await handle.result()).approvals
            counted.append(now)
            await durable.approve("run", approval)
        await durable.runs.settled("run")
        with statements(sql(durable.runs.client)) as now:
            await durable.runs.segments("run")
            await handle.result()

    assert counted[0] == counted[-1]
    # The steps of the run, however many times it was approved.
    assert counted[0]["SELECT operation_outputs"] == 1
    assert now["SELECT operation_outputs"] == 1


async def test_idempotent_call_has_one_record(database: str) -> None:
    @tool(idempotent=True)
    async def look() -> str:
        return "nothing"

    @tool
    async def pay() -> str:
        return "paid"

    script = [calls(("look", {}), ("pay", {})), "done"]
    async with opened(database, *script, tools=[look, pay]) as durable:
        await (await durable.start("go", id="run")).result()
        steps = await durable.runs.steps(segment_id("agent", "run", 1))
        timeline = await read_timeline(durable.runs, "run")

    assert [step["function_name"] for step in steps] == [
        *("begin", "model/0"),
        *("tool/0/0", "tool/0/1/started", "tool/0/1"),
        "model/1",
    ]
    assert [call.name for call in timeline.calls] == ["model", "look", "pay", "model"]


def test_kept_histories_are_bounded_by_their_messages() -> None:
    histories = Histories(None)  # type: ignore[arg-type]  # nothing is read
    said = [UserMessage(content="x")] * (MAX_KEPT_MESSAGES // 2)
    half = RecordedSession(history=Conversation(said))

    a, b, c, d, e = ((segment, "token") for segment in "abcde")
    for segment in (a, b, c):
        histories.keep(segment, half)

    assert list(histories._kept) == [b, c]
    histories.keep(d, half, instead_of=c)
    assert list(histories._kept) == [b, d]
    histories.keep(e, RecordedSession(history=Conversation(said * 3)))
    assert list(histories._kept) == []


async def test_memory_of_a_deleted_session_is_never_read_again(database: str) -> None:
    """Two workers, one of which still remembers a run whose id was used again."""
    async with opened(database, "old", "answer", queue="q") as one:
        async with one.working(poll=0.05):
            await (await one.send("s", "secret", id="1")).result()
        await one.delete_session("s")
        async with opened(database, "new", queue="q") as other, other.working(poll=0.05):
            await (await other.send("s", "hello", id="1")).result()
        async with one.working(poll=0.05):
            await (await one.send("s", "again", id="2")).result()
        model = one.agent.transport
        assert isinstance(model, Script)

    assert [m["content"] for m in model.requests[-1]["messages"]] == ["hello", "new", "again"]
