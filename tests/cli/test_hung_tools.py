"""A tool that cannot be stopped keeps neither `serve` nor a worker from ending."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from command_line import PATIENCE_SECONDS, PROGRAM, Server, environment, serving, until
from pathors_agent import AsyncAgent, tool
from pathors_agent.durable import DurableAgent
from pathors_agent.testing import AsyncScriptedTransport

pytestmark = pytest.mark.slow

TOOLS = '''
import os
import time

from pathors_agent import AsyncAgent, tool
from pathors_agent.testing import AsyncScriptedTransport, calls

HANG_SECONDS = 600


class Script(AsyncScriptedTransport):
    def __init__(self):
        super().__init__(calls(("hang", {})), "Done.")

    async def __aexit__(self, *_):
        """Leave the rest of the script."""


def hang() -> str:
    """Hang in a thread."""
    with open(os.environ["BEGUN"], "w"):
        pass
    time.sleep(HANG_SECONDS)
    return "late"


timed = tool(name="hang", timeout=0.1)(hang)
agent = AsyncAgent(Script(), tools=[timed])
'''

PROJECTS = """
[projects.demo]
transport = "hung_tools_of_tests:Script"
tools = "hung_tools_of_tests:{tool}"

[server]
grace_seconds = 0.1
"""


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    (tmp_path / "hung_tools_of_tests.py").write_text(TOOLS)
    return tmp_path / "begun"


def ask(server: Server) -> threading.Thread:
    asking = threading.Thread(target=server.ask, args=("Hi",))
    server.key("demo")
    asking.start()
    return asking


@pytest.mark.parametrize("tool", ["timed", "untimed"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_served_tool_that_hangs_keeps_no_server_after_sigterm(
    tmp_path: Path, begun: Path, tool: str, workers: str
) -> None:
    if tool == "untimed":
        code = TOOLS + "untimed = tool(name='hang')(hang)\n"
        (tmp_path / "hung_tools_of_tests.py").write_text(code)
    config = tmp_path / "projects.toml"
    config.write_text(PROJECTS.format(tool=tool))
    database = f"sqlite:///{tmp_path}/sessions.db"
    options = ["--config", str(config), "--workers", workers]
    with serving(database, *options, BEGUN=str(begun)) as server:
        asking = ask(server)
        until(begun.exists)

        server.signal()

        status, _ = server.end()
        asking.join(PATIENCE_SECONDS)
    assert status == 0


@tool
def hang() -> str:
    """Hang in a thread."""
    raise NotImplementedError  # it runs in the worker


def test_tool_that_hangs_keeps_no_worker_after_sigterm(tmp_path: Path, begun: Path) -> None:
    database = f"sqlite:///{tmp_path}/runs.db"
    command = ["worker", "--app", "hung_tools_of_tests:agent", "--queue", "q"]

    async def run() -> str:
        agent = AsyncAgent(AsyncScriptedTransport(), tools=[hang])
        async with DurableAgent(agent, database=database, queue="q", version="1") as durable:
            return (await (await durable.start("Go.")).result()).output

    with subprocess.Popen(
        [*PROGRAM, *command, "--database", database, "--app-version", "1"],
        cwd=tmp_path,
        env=environment(BEGUN=str(begun)),
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        try:
            assert asyncio.run(asyncio.wait_for(run(), PATIENCE_SECONDS)) == "Done."
            worker.terminate()
            worker.communicate(timeout=PATIENCE_SECONDS)
        finally:
            worker.kill()

    assert begun.exists()
    assert worker.returncode == 0


PROGRAM_THAT_STAYS = """
import threading
from pathors_agent.concurrency.lifetime import end_process_within

{told}
threading.Thread(target=threading.Event().wait).start()
"""


def test_process_that_a_thread_keeps_is_ended() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM_THAT_STAYS.format(told="end_process_within(0.1)")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )

    assert ended.returncode == 1
    assert ended.stderr == "error: the process was ended, because a tool still ran in it\n"


def test_process_that_stopped_in_time_is_not_killed() -> None:
    told = "end_process_within(0.2)()\nthreading.Event().wait(0.4)\nraise SystemExit(3)"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM_THAT_STAYS.format(told=told)],
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )

    assert done.returncode == 3
