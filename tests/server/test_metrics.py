"""What a server counts, as Prometheus reads it."""

from typing import Any

import anyio
import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request

from command_line import serving, until
from live_server import Live, live, project
from pathors_agent import tool
from pathors_agent.errors import StoreError
from pathors_agent.messages import Usage
from pathors_agent.server import Principal, ServerSettings, create_app
from pathors_agent.stores import MemoryStore, Session
from pathors_agent.testing import answer, calls, http_error

COUNTED = ServerSettings(metrics=True)


def used(prompt: int, completion: int) -> Usage:
    total = prompt + completion
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total)


def read(text: str) -> dict[str, float]:
    """Read the values by name and labels, without buckets and times of creation."""
    return {
        f"{sample.name}{sorted(sample.labels.items()) or ''}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def counts(server: Live) -> dict[str, float]:
    answered = httpx2.get(f"{server.url}/metrics")
    assert answered.status_code == 200
    assert answered.headers["content-type"].startswith("text/plain; version=0.0.4")
    return read(answered.text)


@tool
def look(where: str) -> str:
    """Look."""
    if where == "nowhere":
        raise LookupError(where)
    return "seen"


class Full(MemoryStore):
    async def save_turn(self, *_: object, **__: object) -> Session:
        raise StoreError("The disk is full.")


def test_turns_tokens_and_tool_calls_are_counted() -> None:
    asked: tuple[tuple[str, dict[str, Any]], ...] = (
        ("look", {"where": "here"}),
        ("look", {"where": "nowhere"}),
        ("made_up", {}),
    )
    wanted = answer(calls=asked, usage=used(1, 1))
    script = (wanted, answer("done", usage=used(10, 3)), answer("again", usage=used(5, 2)))
    with live(project(*script, http_error(500, "x"), tools=[look]), settings=COUNTED) as server:
        assert server.complete("Hi").status_code == 200
        assert server.complete("Hi", stream=True).status_code == 200
        assert server.complete("Hi").status_code == 502
        found = counts(server)

    demo = ("project", "demo")
    assert found[f"pathors_turns_total{[demo, ('status', '200')]}"] == 2
    assert found[f"pathors_turns_total{[demo, ('status', '502')]}"] == 1
    assert found[f"pathors_turn_seconds_count{[demo]}"] == 3
    assert found[f"pathors_tokens_total{[('kind', 'prompt'), demo]}"] == 16
    assert found[f"pathors_tokens_total{[('kind', 'completion'), demo]}"] == 6
    tools = {name: value for name, value in found.items() if name.startswith("pathors_tool_calls")}
    assert tools == {
        f"pathors_tool_calls_total{[('outcome', 'value'), demo, ('tool', 'look')]}": 1,
        f"pathors_tool_calls_total{[('outcome', 'error'), demo, ('tool', 'look')]}": 1,
        f"pathors_tool_calls_total{[('outcome', 'error'), demo, ('tool', '_OTHER')]}": 1,
    }
    assert found[f"pathors_requests_running{[demo]}"] == 0
    assert found["pathors_leases"] == 0
    assert found["pathors_store_errors_total"] == 0


def test_failures_of_the_store_are_counted() -> None:
    with live(project("one"), settings=COUNTED, store=Full()) as server:
        assert server.complete("Hi").status_code == 503
        assert counts(server)["pathors_store_errors_total"] == 1


async def anybody(request: Request) -> Principal:
    return Principal(project="demo", id="anybody")


def test_running_and_waiting_turns_and_held_sessions_are_counted() -> None:
    begun, may_end = anyio.Event(), anyio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        begun.set()
        await may_end.wait()
        return "done"

    async def ask() -> tuple[dict[str, float], dict[str, float]]:
        settings = ServerSettings(metrics=True, turns_per_key=1)
        served = project(calls(("wait", {})), "x", "y", tools=[wait])
        app = create_app([served], MemoryStore(), settings, authenticate=anybody)
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:

            async def turn() -> None:
                body = {"messages": [{"role": "user", "content": "Hi"}]}
                await client.post("/v1/projects/demo/chat/completions", json=body)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(turn)
                await begun.wait()
                tasks.start_soon(turn)
                await anyio.wait_all_tasks_blocked()
                meanwhile = read((await client.get("/metrics")).text)
                may_end.set()
            after = read((await client.get("/metrics")).text)
        await app.state.runtime.stop()
        return meanwhile, after

    names = ("pathors_requests_running", "pathors_requests_waiting")
    wanted = [f"{name}{[('project', 'demo')]}" for name in names] + ["pathors_leases"]
    meanwhile, after = anyio.run(ask)
    assert [meanwhile[name] for name in wanted] == [1, 1, 1]
    assert [after[name] for name in wanted] == [0, 0, 0]


def test_there_are_no_metrics_unless_they_are_asked_for() -> None:
    with live(project("one")) as server:
        assert httpx2.get(f"{server.url}/metrics").status_code == 404


@pytest.mark.slow
def test_each_worker_answers_for_all_and_dead_ones_hold_nothing(tmp_path: Any) -> None:
    database = f"sqlite:///{tmp_path}/sessions.db"
    with serving(database, "--metrics", "--workers", "2") as server:
        for _ in range(6):  # each on a connection of its own
            assert server.ask("Hi").status == 200
        turns = f"pathors_turns_total{[('project', 'demo'), ('status', '200')]}"
        # A turn is counted after its answer has gone out.
        until(lambda: read(server.get("/metrics").body)[turns] == 6)
        seen = [read(server.get("/metrics").body)[turns] for _ in range(6)]
        server.signal()
        status, _ = server.end()

    assert seen == [6] * 6
    assert status == 0
