"""Sessions, runs and the keys of tool calls belong to an agent's name."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pathors_agent import AsyncAgent, ToolContext, tool
from pathors_agent.durable import DurableAgent, RunNotFound
from pathors_agent.stores.database import read_url
from pathors_agent.testing import calls
from stored_runs import Script

pytestmark = pytest.mark.anyio

Open = Callable[..., AbstractAsyncContextManager[DurableAgent[Any]]]


@asynccontextmanager
async def working(
    name: str, database: str, *script: Any, tools: Any = ()
) -> AsyncIterator[DurableAgent[Any]]:
    agent: AsyncAgent[Any] = AsyncAgent(Script(*script), tools=tools)
    durable = DurableAgent(agent, database=database, name=name, queue="q", version="1")
    async with durable, durable.working(poll=0.05):
        yield durable


async def texts(durable: DurableAgent[Any], run: str) -> list[str]:
    return [message.text async for message in (await durable.get(run)).events()]


@pytest.mark.parametrize(
    ("one", "other"), [("a", "b"), ("a/b", "a"), ("a#2", "a"), ("A", "a"), ("a%2Fb", "a/b")]
)
async def test_agents_with_equal_ids_see_nothing_of_each_other(
    tmp_path: Path, one: str, other: str
) -> None:
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    async with working(one, database, "first") as durable:
        await (await durable.start("secret", session_id="s", id="run")).result()
    async with working(other, database, "second", "third") as durable:
        with pytest.raises(RunNotFound):
            await durable.get("run")
        for act in (durable.cancel, durable.resume, durable.approvals):
            with pytest.raises(RunNotFound):
                await act("run")
        assert len(await durable.list()) == 0

        await (await durable.start("hello", session_id="s", id="run")).result()
        await (await durable.start("again", session_id="s", id="run-2")).result()

        assert await texts(durable, "run") == ["hello", "second"]
        assert [run.id for run in await durable.list()] == ["run-2", "run"]
        model = durable.agent.transport
        assert isinstance(model, Script)
        sent = [[m["content"] for m in request["messages"]] for request in model.requests]
        assert sent == [["hello"], ["hello", "second", "again"]]
    async with working(one, database) as durable:
        assert await texts(durable, "run") == ["secret", "first"]


async def test_keys_of_tool_calls_differ_between_agents(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    keys: list[str] = []

    @tool
    async def charge(context: ToolContext) -> str:
        keys.append(context.key)
        return "charged"

    for name in ("a", "b/a", "b"):
        script = (calls(("charge", {})), "done")
        async with working(name, database, *script, tools=[charge]) as durable:
            session = "a/s" if name == "b" else "s"
            await (await durable.start("go", session_id=session, id="run")).result()

    assert keys == ["a/s/tool/0/0", "b%2Fa/s/tool/0/0", "b/a/s/tool/0/0"]


FIRST_FORMAT = """
DROP TABLE pathors_durable_sessions;
DROP TABLE pathors_durable_doubts;
DROP TABLE pathors_durable_queues;
DROP TABLE pathors_durable_segments;
CREATE TABLE pathors_durable_sessions (session TEXT PRIMARY KEY, last_segment TEXT NOT NULL);
CREATE TABLE pathors_durable_doubts (run TEXT, effect TEXT, tool TEXT NOT NULL,
    call_id TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (run, effect));
INSERT INTO pathors_durable_sessions VALUES ('shared', 'b-1'), ('pays', 'a-2');
INSERT INTO pathors_durable_doubts VALUES ('a-1', 'tool/0/0', 'pay', 'call_1', 'shared/tool/0/0');
UPDATE pathors_durable_format SET format = 1
"""


def to_first_format(database: str) -> None:
    """Rewrite what this version stored as format 1: ids without the names of agents."""
    engine = sa.create_engine(read_url(database))
    schema = "" if engine.dialect.name == "sqlite" else "dbos."
    with engine.begin() as connection:
        steps = f"SELECT workflow_uuid, output FROM {schema}operation_outputs"
        for segment, output in connection.execute(
            sa.text(f"{steps} WHERE function_name = 'begin'")
        ).all():
            begin = json.loads(output)
            # Format 1 knew one history of a session, whichever agent it was.
            begin["previous"] = "a-1" if segment == "b/b-1" else None
            connection.execute(
                sa.text(
                    f"UPDATE {schema}operation_outputs SET output = :output"
                    " WHERE workflow_uuid = :segment AND function_name = 'begin'"
                ),
                {"output": json.dumps(begin), "segment": segment},
            )
        for segment, inputs in connection.execute(
            sa.text(f"SELECT workflow_uuid, inputs FROM {schema}workflow_input")
        ).all():
            order = json.loads(inputs)
            del order["args"][0]["keys"]
            connection.execute(
                sa.text(f"UPDATE {schema}workflow_input SET inputs = :i WHERE workflow_uuid = :s"),
                {"i": json.dumps(order), "s": segment},
            )
        tables = ("operation_outputs", "workflow_input", "workflow_output", "workflow_status")
        for table in tables:
            connection.execute(
                sa.text(f"UPDATE {schema}{table} SET workflow_uuid = substr(workflow_uuid, 3)")
            )
        for statement in FIRST_FORMAT.split(";\n"):
            connection.execute(sa.text(statement))
    engine.dispose()


async def test_runs_of_the_first_format_continue_under_their_agent(database: str) -> None:
    keys: list[str] = []

    @tool(approve=True)
    async def pay(context: ToolContext) -> str:
        keys.append(context.key)
        return "paid"

    async with working("a", database, "one", calls(("pay", {})), tools=[pay]) as durable:
        await (await durable.start("hello", session_id="shared", id="a-1")).result()
        await (await durable.start("pay", session_id="pays", id="a-2")).result()
    async with working("b", database, "two") as durable:
        await (await durable.start("hi", session_id="shared", id="b-1")).result()
    to_first_format(database)

    async with working("a", database, "done", "more", tools=[pay]) as durable:
        assert {run.id: run.status for run in await durable.list()} == {
            "a-1": "finished",
            "a-2": "suspended",
        }
        [approval] = await durable.approvals("a-2")
        assert (await (await durable.approve("a-2", approval)).result()).output == "done"
        # The run keeps the keys that it began with.
        assert keys == ["pays/tool/0/0"]
        await (await durable.send("shared", "go on", id="a-3")).result()
        model = durable.agent.transport
        assert isinstance(model, Script)
        assert [m["content"] for m in model.requests[-1]["messages"]] == ["hello", "one", "go on"]
        [doubt] = await durable.in_doubt()
        assert (doubt.agent, doubt.run_id, doubt.key) == ("a", "a-1", "shared/tool/0/0")
    async with working("b", database, "three") as durable:
        assert [run.id for run in await durable.list()] == ["b-1"]
        assert await durable.in_doubt() == []
        # The first format sent one agent's turns to the other's model: that history stays.
        await (await durable.send("shared", "and on")).result()
        model = durable.agent.transport
        assert isinstance(model, Script)
        sent = [m["content"] for m in model.requests[-1]["messages"]]
        assert sent == ["hello", "one", "hi", "two", "and on"]
