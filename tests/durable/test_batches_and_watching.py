"""Batches from files, and what can be seen of runs: on the command line, and as a page."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pathors_agent import AsyncAgent, tool
from pathors_agent.cli.app import app
from pathors_agent.cli.workers import placed
from pathors_agent.durable import BatchRefused, DurableAgent, read_batch, run_batch, write_batch
from pathors_agent.durable.timeline import Timeline, as_html, as_text, read_timeline
from pathors_agent.telemetry.timeline import TimedCall
from pathors_agent.testing import AsyncScriptedTransport, calls, http_error
from pathors_agent.testing.script import Entry
from pathors_agent.testing.scripted_transport import AsyncPlayerTransport
from pathors_agent.wire.profiles import DEFAULT_PROFILE

pytestmark = [pytest.mark.slow, pytest.mark.anyio]


class Echo(AsyncPlayerTransport):
    """Answers with what was said, and breaks where `broken` is said, as long as it is."""

    def __init__(self, broken: str) -> None:
        super().__init__(cut=None, profile=DEFAULT_PROFILE)
        self.broken = broken

    def _entry(self, number: int, body: Mapping[str, Any]) -> Entry:
        said = body["messages"][-1]["content"]
        return http_error(500, "broken") if said == self.broken else f"echo {said}"


async def test_batch_keeps_errors_and_tries_only_them_again(tmp_path: Path) -> None:
    texts = ['{"id": "a", "prompt": "one"}', "", '{"prompt": "two"}', '{"prompt": "three"}']
    lines = read_batch(texts)
    transport = Echo(broken="two")
    durable = DurableAgent(AsyncAgent(transport), database=f"sqlite:///{tmp_path / 'runs.db'}")
    seen: list[tuple[int, int]] = []
    async with durable:
        first = await run_batch(
            durable, lines, name="batch", progress=lambda *done: seen.append(done)
        )
        transport.broken = ""
        second = await run_batch(durable, lines, name="batch")
    write_batch(second, tmp_path / "out.jsonl")

    assert [result["id"] for result in first] == ["a", "3", "4"]
    assert [result.get("output") for result in first] == ["echo one", None, "echo three"]
    assert first[1]["error"] == {
        "kind": "ProviderError",
        "message": "the run stopped: ProviderError: the provider answered 500: broken",
    }
    assert seen[-1] == (3, 1)
    assert [result.get("output") for result in second] == ["echo one", "echo two", "echo three"]
    assert len(transport.requests) == 4
    kept = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in kept] == ["a", "3", "4"]


async def test_line_with_messages_is_a_conversation_so_far(tmp_path: Path) -> None:
    said = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "bye"},
    ]
    lines = read_batch([json.dumps({"messages": said})])
    transport = Echo(broken="")
    durable = DurableAgent(AsyncAgent(transport), database=f"sqlite:///{tmp_path / 'runs.db'}")
    async with durable:
        [result] = await run_batch(durable, lines, name="batch")

    assert result["output"] == "echo bye"
    assert [m["content"] for m in transport.requests[0]["messages"]] == [m["content"] for m in said]


def test_every_bad_line_is_named() -> None:
    lines = ['{"id": "a", "prompt": "x"}', "no", '{"id": "a", "prompt": "y"}', "[]", '{"id": 1}']
    with pytest.raises(BatchRefused) as caught:
        read_batch([*lines, "{}", '{"messages": [{"role": "nobody"}]}'])

    problems = str(caught.value).split("; ")
    assert [problem.split(":")[0] for problem in problems] == [
        *("line 2", "line 4", "line 5", "line 6", "line 7", "line 3")
    ]


def test_first_of_many_bad_lines_are_named() -> None:
    with pytest.raises(BatchRefused, match=r"line 20: is not JSON; and 980 more$") as caught:
        read_batch(["no"] * 1000)
    assert len(str(caught.value).split("; ")) == 21


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[" * 100_000, "is not JSON"),
        ('{"prompt": "x", "messages": []}', "must have a prompt or messages, not both"),
    ],
    ids=["deep", "both"],
)
def test_line_that_cannot_be_carried_out_is_refused(line: str, problem: str) -> None:
    with pytest.raises(BatchRefused, match=f"^line 1: {problem}$"):
        read_batch([line])


@pytest.mark.parametrize("line_id", ["", " ", "a\x00", "\ud800", "x" * 501])
def test_id_that_no_run_can_have_is_named(line_id: str) -> None:
    with pytest.raises(BatchRefused, match="line 1: id: must be a string of 1 to 500 bytes"):
        read_batch([json.dumps({"id": line_id, "prompt": "x"})])


def test_files_of_other_programs_are_read(tmp_path: Path) -> None:
    """Windows programs write a mark at the start, and `\\r\\n`; texts may hold any character."""
    text = "one\u2028two\x85three"
    lines = [{"id": "a", "prompt": text}, {"id": "b", "prompt": "four"}]
    written = [json.dumps(line, ensure_ascii=False) for line in lines]
    (tmp_path / "in.jsonl").write_bytes(("\ufeff" + "\r\n".join(written)).encode())
    with (tmp_path / "in.jsonl").open(encoding="utf-8") as file:
        read = read_batch(file)

    assert [(line.id, line.messages[0].text) for line in read] == [("a", text), ("b", "four")]


def test_any_result_is_written(tmp_path: Path) -> None:
    write_batch([{"id": "a", "output": "\ud800 \u2028"}], tmp_path / "out.jsonl")

    [line] = (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert json.loads(line) == {"id": "a", "output": "\ufffd \u2028"}


async def test_timeline_shows_calls_and_their_outcomes(tmp_path: Path) -> None:
    @tool
    async def good() -> str:
        return "fine"

    @tool
    async def bad() -> str:
        raise ValueError("no")

    script = AsyncScriptedTransport(calls(("good", {}), ("bad", {})), "done")
    agent = AsyncAgent(script, tools=[good, bad])
    async with DurableAgent(agent, database=f"sqlite:///{tmp_path / 'runs.db'}") as durable:
        await (await durable.start("go", id="run")).result()
        timeline = await read_timeline(durable.runs, "run")

    assert (timeline.run, timeline.status) == ("run", "finished")
    assert [(call.key, call.name, call.outcome, call.notes) for call in timeline.calls] == [
        ("model/0", "model", "value", ()),
        ("tool/0/0", "good", "value", ()),
        ("tool/0/1", "bad", "error", ()),
        ("model/1", "model", "value", ()),
    ]
    assert len(list(as_text(timeline))) == 5


def test_timeline_is_drawn_with_its_workers() -> None:
    first = TimedCall("model", "model", "model/0", 0.0, 0.1, "value")
    second = TimedCall("tool", "t", "tool/0/0", 0.05, None, "running", notes=("run again",))
    timeline = Timeline(run="r-1", status="running", calls=(first, second), workers=("a", "b"))

    page = as_html(timeline)

    assert "<h1>Run r-1</h1>\n<p>running; workers: a, b</p>" in page
    assert "<em>run again</em>" in page
    assert [*as_text(timeline)] == [
        "r-1  running",
        "  model/0      model                value            100 ms",
        "  tool/0/0     t                    running             ...  (run again)",
    ]


AGENT = """
from pathors_agent import AsyncAgent
from pathors_agent.offline import AsyncOfflineTransport
agent = AsyncAgent(AsyncOfflineTransport())
shop, bank = AsyncAgent(AsyncOfflineTransport()), AsyncAgent(AsyncOfflineTransport())
"""

AGENTS = [("shop", "day"), ("bank", "night")]


@pytest.fixture
def command(tmp_path: Path) -> Any:
    """Run the program in a folder with an agent, on a database there."""
    (tmp_path / "my_agent.py").write_text(AGENT)
    env = {**os.environ, "PATHORS_DATABASE": f"sqlite:///{tmp_path / 'runs.db'}"}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        line = [sys.executable, "-m", "pathors_agent", *arguments]
        return subprocess.run(
            line, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=40
        )

    return run


@pytest.mark.timeout(240)  # eight programs, one after another
def test_batch_and_runs_on_the_command_line(command: Any, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "hello"}\n')
    done = command("batch", "in.jsonl", "--output", "out.jsonl", "--app", "my_agent:agent")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    [result] = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert result["status"] == "finished"

    listed = json.loads(command("runs", "list", "--json").stdout)
    [run] = listed["data"]
    assert (run["id"], run["status"], listed["total"]) == (result["run"], "finished", 1)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", run["created_at"])
    assert "model/0" in command("runs", "show", result["run"]).stdout
    assert command("runs", "show", result["run"], "--html", "run.html").returncode == 0
    assert (tmp_path / "run.html").read_text().startswith("<!doctype html>")
    assert "it is finished, not failed or" in command("runs", "resume", result["run"]).stderr
    assert command("runs", "doubts").returncode == 0
    missing = command("runs", "cancel", "nothing")
    assert (missing.returncode, missing.stderr) == (
        1,
        f"error: there is no run 'nothing' in sqlite:///{tmp_path / 'runs.db'}\n",
    )


@pytest.mark.timeout(120)
def test_batch_reads_lines_of_utf_8_only(command: Any, tmp_path: Path) -> None:
    line = json.dumps({"id": "a", "prompt": "one\u2028two"}, ensure_ascii=False)
    (tmp_path / "in.jsonl").write_text(line, encoding="utf-8")
    (tmp_path / "wide.jsonl").write_text(line, encoding="utf-16")
    more = ("--output", "out.jsonl", "--app", "my_agent:agent")

    assert command("batch", "in.jsonl", *more).returncode == 0
    refused = command("batch", "wide.jsonl", *more)
    assert (refused.returncode, refused.stderr) == (1, "error: wide.jsonl is not UTF-8 (byte 0)\n")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("output", ["in.jsonl", "nowhere/out.jsonl", "."])
def test_batch_whose_results_cannot_be_written_is_refused(
    command: Any, tmp_path: Path, output: str
) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "hello"}\n')

    refused = command("batch", "in.jsonl", "--output", output, "--app", "my_agent:agent")

    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"error: --output {output}: ")
    assert (tmp_path / "in.jsonl").read_text() == '{"prompt": "hello"}\n'
    assert not (tmp_path / "runs.db").exists()


def test_worker_takes_runs_until_a_signal(tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(AGENT)
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    line = [sys.executable, "-m", "pathors_agent", "worker", "--database", database]
    line += ["--app", "my_agent:agent", "--queue", "q"]
    with subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        assert worker.stderr.readline().startswith("Taking runs from the queue q")
        worker.send_signal(signal.SIGTERM)

        assert worker.stderr.read() == (
            "Stopping: runs have 20 seconds to end. A second signal stops at once.\n"
        )
    assert worker.returncode == 0


def test_worker_carries_out_runs_of_several_agents_and_queues(tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(AGENT)
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    line = [sys.executable, "-m", "pathors_agent", "worker", "--database", database]
    for name, queue in AGENTS:
        line += ["--app", f"my_agent:{name}", "--queue", queue]
    with subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        began = {worker.stderr.readline().rpartition(" tools-")[0] for _ in AGENTS}
        said = asyncio.run(carried_out(database))
        worker.send_signal(signal.SIGTERM)
        worker.stderr.read()

    assert began == {f"Taking runs from the queue {queue}, for {name}" for name, queue in AGENTS}
    assert set(said) == set(AGENTS)
    assert all(text.startswith("I am a stand-in") for text in said.values())
    assert worker.returncode == 0


async def carried_out(database: str) -> dict[tuple[str, str], str]:
    """Store a run for each agent in each queue; return the answers."""
    said = {}
    for name, queue in AGENTS:
        agent: AsyncAgent[str] = AsyncAgent(AsyncScriptedTransport())
        async with DurableAgent(agent, database=database, name=name, queue=queue) as durable:
            handle = await durable.start("What is 2 + 2?", id="run")
            said[name, queue] = (await handle.result()).output
    return said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--app a:b --app c:d --name x", "--name: 1 names for 2 apps"),
        ("--app a:b --app c:b", "--name: two apps have the same name"),
        ("--app a:b --app c:d --app e:f --queue r", "--queue: 2 queues for 3 apps"),
        ("--app a:b --queue q", "--queue: the same queue twice"),
    ],
)
def test_apps_without_a_name_or_a_queue_are_refused(arguments: str, said: str) -> None:
    shown = CliRunner().invoke(app, ["worker", "--queue", "q", *arguments.split()])

    assert shown.exit_code == 2
    assert shown.stderr.startswith(f"error: {said}")


def test_apps_have_names_and_queues_of_their_own() -> None:
    assert placed(["m:a"], [], ["q"]) == [("m:a", "agent", "q")]
    assert placed(["m:a"], ["x"], ["q", "r"]) == [("m:a", "x", "q"), ("m:a", "x", "r")]
    assert placed(["m:a", "n:b"], [], ["q"]) == [("m:a", "a", "q"), ("n:b", "b", "q")]
    assert placed(["m:a", "n:b"], ["x", "y"], ["q", "r"]) == [("m:a", "x", "q"), ("n:b", "y", "r")]
