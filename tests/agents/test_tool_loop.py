"""A blocking agent's async tools run on one event loop for as long as the agent is used."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctrl_c import CtrlC
from pathors_agent import Agent, AsyncAgent, Conversation, Limits, ToolMessage, tool
from pathors_agent.errors import ToolLoopError
from pathors_agent.testing import AsyncScriptedTransport, Entry, ScriptedTransport, calls
from servers import PATIENCE_SECONDS


def turns(name: str, times: int) -> list[Entry]:
    """Script runs that call one tool each."""
    return [calls((name, {})), "Done."] * times


def results(agent: Agent[Any], times: int = 1) -> list[str]:
    """Run an agent several times; return the results of its tools."""
    runs = [agent.run("Go.").messages for _ in range(times)]
    return [m.text for messages in runs for m in messages if isinstance(m, ToolMessage)]


class Loops:
    """A tool that notes where it runs."""

    def __init__(self) -> None:
        self.loops: list[asyncio.AbstractEventLoop] = []
        self.threads: list[threading.Thread] = []

    def note(self) -> None:
        self.loops.append(asyncio.get_running_loop())
        self.threads.append(threading.current_thread())


def noting(loops: Loops) -> Callable[..., Any]:
    @tool
    async def look() -> str:
        """Look."""
        loops.note()
        return "seen"

    return look


def ended(thread: threading.Thread) -> bool:
    thread.join(PATIENCE_SECONDS)
    return not thread.is_alive()


def test_objects_of_async_tools_work_in_the_next_run() -> None:
    kept: dict[str, Any] = {}
    inner = AsyncAgent(
        AsyncScriptedTransport(*turns("count", 3)), tools=[counting := _counting(kept)]
    )

    @tool
    async def ask() -> str:
        """Let an agent count, under a lock."""
        lock = kept.setdefault("lock", asyncio.Lock())
        async with lock:
            await inner.run("Count.")
        return str(kept["count"])

    with Agent(ScriptedTransport(*turns("ask", 3)), tools=[ask]) as agent:
        assert results(agent, times=3) == ["1", "2", "3"]
    assert counting is not None


def _counting(kept: dict[str, Any]) -> Callable[..., Any]:
    @tool
    async def count() -> int:
        """Count, with what belongs to the first event loop."""
        queue = kept.setdefault("queue", asyncio.Queue(maxsize=1))
        adding = asyncio.ensure_future(queue.put("one more"))
        await queue.get()
        await adding
        kept["count"] = kept.get("count", 0) + 1
        return int(kept["count"])

    return count


def test_runs_share_one_event_loop_and_a_with_block_ends_it() -> None:
    loops = Loops()

    with Agent(ScriptedTransport(*turns("look", 3)), tools=[noting(loops)]) as agent:
        results(agent, times=3)

    assert len(set(loops.loops)) == 1
    assert loops.loops[0].is_closed()
    assert not loops.threads[0].is_alive()


class Reopened(ScriptedTransport):
    """A script that goes on after a `with` block."""

    def __exit__(self, *_: object) -> None:
        """Leave the rest for later."""


def test_agent_can_be_used_again_after_its_with_block() -> None:
    loops = Loops()
    agent = Agent(Reopened(*turns("look", 2)), tools=[noting(loops)])
    with agent:
        results(agent)

    assert results(agent) == ["seen"]
    assert len(set(loops.loops)) == 2


def test_event_loop_ends_with_an_agent_that_nothing_refers_to() -> None:
    loops = Loops()

    results(Agent(ScriptedTransport(*turns("look", 1)), tools=[noting(loops)]))
    gc.collect()

    assert ended(loops.threads[0])


def test_stream_keeps_the_event_loop_of_an_agent_that_nothing_else_refers_to() -> None:
    loops = Loops()
    transport = ScriptedTransport(calls(("look", {})), calls(("look", {})), "Done.")

    with Agent(transport, tools=[noting(loops)]).stream("Go.") as stream:
        for _ in stream:
            gc.collect()

    assert len(loops.loops) == 2
    assert len(set(loops.loops)) == 1


def test_tasks_of_tools_clean_up_when_their_agent_closes() -> None:
    told: list[str] = []
    kept: list[object] = []

    async def listen() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            told.append("closed")

    @tool
    async def begin() -> None:
        """Begin to listen."""
        kept.append(asyncio.ensure_future(listen()))
        await asyncio.sleep(0)

    with Agent(ScriptedTransport(*turns("begin", 1)), tools=[begin]) as agent:
        results(agent)
        assert told == []

    assert told == ["closed"]


def test_threads_share_an_agent_and_its_event_loop() -> None:
    loops, together = Loops(), threading.Barrier(2)
    both: list[asyncio.Event] = []

    @tool
    async def look() -> str:
        """Wait until the other has come, too."""
        loops.note()
        both.append(asyncio.Event())
        if len(both) == 2:
            for event in both:
                event.set()
        await both[0].wait()
        return "seen"

    agent = Agent(ScriptedTransport(*[calls(("look", {}))] * 2, "Done.", "Done."), tools=[look])

    def run() -> None:
        together.wait(PATIENCE_SECONDS)
        agent.run("Go.")

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()

    assert all(ended(thread) for thread in threads)
    assert len(loops.loops) == 2
    assert len(set(loops.loops)) == 1


def test_async_tool_may_run_its_own_blocking_agent() -> None:
    depths: list[int] = []

    @tool
    async def again() -> str:
        """Ask the same agent once more."""
        depths.append(len(depths))
        return agent.run("Again.").output if len(depths) < 3 else "deep"

    called = calls(("again", {}))
    agent = Agent(
        ScriptedTransport(called, called, called, "Three.", "Two.", "One."), tools=[again]
    )

    assert agent.run("Go.").output == "One."
    assert depths == [0, 1, 2]


def test_async_tools_of_two_blocking_agents_may_run_each_other() -> None:
    agents: dict[str, Agent[Any]] = {}
    asked: list[str] = []

    def asking(name: str) -> Callable[..., Any]:
        @tool
        async def ask() -> str:
            """Ask the other agent."""
            asked.append(name)
            return "enough" if len(asked) == 4 else agents[name].run("And you?").output

        return ask

    called = calls(("ask", {}))
    for name, other in (("Ada", "Bob"), ("Bob", "Ada")):
        transport = ScriptedTransport(called, called, f"{name} 2.", f"{name} 1.")
        agents[name] = Agent(transport, tools=[asking(other)])

    assert agents["Ada"].run("Go.").output == "Ada 1."
    assert asked == ["Bob", "Ada", "Bob", "Ada"]


def test_closed_agent_ends_a_run_of_another_thread_whose_call_stays_open() -> None:
    waits = threading.Event()
    conversation = Conversation()
    raised: list[BaseException] = []

    @tool
    async def wait() -> None:
        """Wait."""
        waits.set()
        await asyncio.Event().wait()

    agent = Agent(ScriptedTransport(calls(("wait", {}))), tools=[wait])

    def run() -> None:
        try:
            agent.run("Go.", conversation=conversation)
        except ToolLoopError as error:
            raised.append(error)

    running = threading.Thread(target=run)
    with agent:
        running.start()
        waits.wait(PATIENCE_SECONDS)

    assert ended(running)
    assert [str(error) for error in raised] == [
        "The agent was closed while an async tool ran; the call is still open."
    ]
    assert [call.name for call in conversation.open_calls] == ["wait"]


def test_event_loop_that_a_tool_blocks_is_left_at_ctrl_c_and_the_next_run_has_another() -> None:
    loops, free = Loops(), threading.Event()

    @tool
    async def look() -> str:
        """Block the event loop, at first."""
        loops.note()
        if len(loops.loops) == 1:
            ctrl_c.press()
            free.wait(PATIENCE_SECONDS)
        return "seen"

    called = calls(("look", {}))
    agent = Agent(ScriptedTransport(called, called, "Done."), tools=[look])
    try:
        with CtrlC() as ctrl_c, pytest.raises(KeyboardInterrupt):
            agent.run("Go.")
        assert results(agent) == ["seen"]
    finally:
        free.set()

    assert len(set(loops.loops)) == 2
    assert ended(loops.threads[0])


# - programs of their own

PROGRAMS = Path(__file__).parents[1] / "loop_programs.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "output"),
    [
        ("two_greenlets", "Done. Done.\n"),
        ("greenlets_that_share_an_agent", "Done. Done. Done.\n"),
        ("greenlet_that_is_killed", "released\n"),
        ("others_run_meanwhile", "True\n"),
        ("greenlets_with_generators", "[1, 2] [1, 2]\n"),
        ("forked", "Done. Done.\n"),
    ],
)
def test_program_with_a_blocking_agent_says(program: str, output: str) -> None:
    done = run_program(program)

    assert (done.stdout, done.stderr, done.returncode) == (output, "", 0)


@pytest.mark.slow
def test_event_loop_that_cannot_start_fails_the_run() -> None:
    done = run_program("no_event_loop")

    assert (done.stdout, done.returncode) == ("OSError\n", 0)


def run_program(name: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(PROGRAMS), name],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "arguments"), [("count", '{"up_to": "many"}'), ("count", "{oops"), ("cuont", "{}")]
)
def test_endless_invalid_calls_of_a_tool_are_refused(name: str, arguments: str) -> None:
    @tool
    def count(up_to: int) -> int:
        """Count."""
        return up_to

    model = ScriptedTransport(*[calls((name, arguments))] * 4, "I cannot count.")

    result = Agent(model, tools=[count], limits=Limits(call_retries=2)).run("Count.")

    outcomes = [m.outcome for m in result.messages if isinstance(m, ToolMessage)]
    assert outcomes == ["error", "error", "error", "not_run"]
    assert result.output == "I cannot count."
