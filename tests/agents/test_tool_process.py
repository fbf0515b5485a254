"""A tool in a process of its own gives its value, fails in words, and is really stopped."""

import gc
import json
import os
import select
import signal
import threading
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

import process_tools
from pathors_agent.agents.agent import AsyncAgent
from pathors_agent.agents.perform.bound import call_tool, call_tool_async
from pathors_agent.agents.perform.child import MAX_ANSWER_BYTES
from pathors_agent.agents.perform.process import ToolProcess
from pathors_agent.agents.perform.tool_thread import ToolThread
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.errors import ToolError
from pathors_agent.messages import ToolMessage
from pathors_agent.testing import AsyncScriptedTransport, calls
from process_calls import (
    LONG,
    PARENT,
    Dispatch,
    Function,
    bound,
    call_in_process,
    in_process,
    start_parent,
)
from ways import WAYS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(os, "pidfd_open"), reason="ends of processes are watched with pidfd (Linux)"
    ),
]

# Six times what a process needs to start and to write its id.
ENOUGH = 2.0


@pytest.fixture(params=WAYS)
def dispatch(request: pytest.FixtureRequest) -> Dispatch:
    return partial(call_in_process, request.param)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """Return a pipe to which a tool writes its id; a reader waits until the tool runs."""
    path = tmp_path / "pid"
    os.mkfifo(path)
    return path


class Watched:
    """A process whose end can be waited for, whichever process is its parent."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    @classmethod
    def read(cls, pipe: Path) -> "Watched":
        return cls(int(pipe.read_text()))

    def ends_within(self, seconds: float) -> bool:
        try:
            return bool(select.select([self._descriptor], [], [], seconds)[0])
        finally:
            os.close(self._descriptor)


def is_gone(pid: int) -> bool:
    """Whether a process has ended and was waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# - what comes back


def test_value_is_returned_from_another_process(dispatch: Dispatch) -> None:
    assert dispatch(process_tools.double, {"number": 21}).content == "42"


def test_process_has_its_own_group_and_ends_with_its_answer(dispatch: Dispatch) -> None:
    told = json.loads(dispatch(process_tools.where).text)

    assert told["parent"] == os.getpid() != told["process"] == told["group"]
    assert is_gone(told["process"])


@pytest.mark.parametrize(
    ("function", "arguments", "text"),
    [
        (process_tools.raise_value_error, {}, "ValueError: no such day"),
        (process_tools.raise_without_text, {}, "KeyError"),
        (process_tools.raise_tool_error, {"retryable": True}, "Ask for a day."),
        (process_tools.raise_unpicklable, {}, "NeedsTwo: 1 and 2"),
        (process_tools.recurse, {}, "RecursionError: maximum recursion depth exceeded"),
        (
            process_tools.exit_at_once,
            {"code": 3},
            "Its process ended with exit code 3 before it gave a result.",
        ),
        (
            process_tools.exit_politely,
            {"code": 0},
            "Its process ended with exit code 0 before it gave a result.",
        ),
        (
            process_tools.kill_itself,
            {"number": int(signal.SIGSEGV)},
            "Its process was killed by SIGSEGV before it gave a result.",
        ),
        (
            process_tools.kill_itself,
            {"number": int(signal.SIGRTMIN) + 1},
            f"Its process was killed by signal {int(signal.SIGRTMIN) + 1} before it gave a result.",
        ),
        (
            process_tools.give_unpicklable,
            {},
            "It ran, but its result (a function) cannot be sent from its process (AttributeError).",
        ),
        (
            process_tools.give_odd,
            {},
            "It ran, but its result cannot be read from its process (ValueError).",
        ),
        (
            process_tools.give,
            {"count": 100_000_000},
            "Its result is larger than 16,777,216 bytes; it should return less.",
        ),
    ],
)
def test_call_without_a_value_is_an_error_with_a_text(
    dispatch: Dispatch, function: Function, arguments: dict[str, Any], text: str
) -> None:
    message = dispatch(function, arguments)

    assert (message.outcome, message.text) == ("error", text)
    assert not message.ends_tool


def test_tool_error_that_is_not_retryable_ends_the_tool(dispatch: Dispatch) -> None:
    assert dispatch(process_tools.raise_tool_error, {"retryable": False}).ends_tool


def test_more_memory_than_allowed_is_an_error_and_less_is_none(dispatch: Dispatch) -> None:
    refused = dispatch(process_tools.take, {"count": 1_000_000_000}, memory=500_000_000)
    given = dispatch(process_tools.take, {"count": 1_000_000}, memory=500_000_000)

    assert (refused.outcome, refused.text) == (
        "error",
        "MemoryError: it may take 500,000,000 bytes of memory, and wanted more.",
    )
    assert given.content == "1000000"


def test_tool_is_not_run_where_its_memory_cannot_be_limited(dispatch: Dispatch) -> None:
    # No system takes this number; Windows and macOS take none.
    message = dispatch(process_tools.take, {"count": 1}, memory=2**70)

    assert message.outcome == "error"
    assert f"memory={2**70} of the tool cannot be enforced on this system" in message.text
    assert message.text.endswith("The tool was not run")


def test_death_of_a_process_with_little_memory_says_how_much_it_had(dispatch: Dispatch) -> None:
    message = dispatch(process_tools.exit_at_once, {"code": 1}, memory=500_000_000)

    assert message.text == (
        "Its process ended with exit code 1 (it may take 500,000,000 bytes of memory) before it "
        "gave a result."
    )


def test_largest_answer_is_taken_whole(dispatch: Dispatch) -> None:
    # A pickle of bytes is at most 100 bytes longer.
    message = dispatch(process_tools.give, {"count": MAX_ANSWER_BYTES - 100})

    assert message.outcome == "value"


def test_process_with_a_running_thread_is_not_waited_for(dispatch: Dispatch) -> None:
    assert dispatch(process_tools.give_beside_a_thread).content == "given"


def test_exit_handlers_run(dispatch: Dispatch, tmp_path: Path) -> None:
    path = tmp_path / "pid"

    assert dispatch(process_tools.at_exit, {"path": str(path)}).content == "done"
    assert is_gone(int(path.read_text()))


def test_tool_in_a_process_prints_to_stderr_and_reads_nothing(
    dispatch: Dispatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(process_tools.talk).content == ""
    said = capfd.readouterr()
    assert said.out == ""
    assert sorted(said.err.splitlines()) == ["said to stderr", "said to stdout"]


def test_context_reaches_the_process(dispatch: Dispatch) -> None:
    message = dispatch(process_tools.tell_context, context={"user": "Ada"})

    context, session_id, call_id, key, left = json.loads(message.text)
    assert (context, session_id, call_id, key) == ({"user": "Ada"}, "session_1", "call_1", "key_1")
    assert 0 < left <= LONG


def test_context_that_cannot_be_pickled_is_reported(dispatch: Dispatch) -> None:
    message = dispatch(process_tools.tell_context, context=lambda: None)

    assert message.outcome == "error"
    assert message.text.startswith(
        "Not run: its arguments, or the run's context, cannot be sent to a process ("
    )


def test_nothing_is_left_open(dispatch: Dispatch) -> None:
    dispatch(process_tools.double, {"number": 1})  # what is opened once, and stays
    before = os.listdir("/proc/self/fd")  # noqa: PTH208  (the numbers are wanted)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for function in (process_tools.where, process_tools.raise_value_error):
            dispatch(function)
        dispatch(process_tools.exit_at_once, {"code": 3})
        gc.collect()

    assert len(os.listdir("/proc/self/fd")) <= len(before)  # noqa: PTH208


# - how it is stopped


def test_process_is_killed_when_its_time_is_over(dispatch: Dispatch, tmp_path: Path) -> None:
    path = tmp_path / "pid"

    message = dispatch(process_tools.hang, {"path": str(path)}, timeout=ENOUGH)

    assert (message.outcome, message.text) == (
        "timeout",
        "Not finished after 2 s; its process was killed.",
    )
    assert is_gone(int(path.read_text()))


@pytest.mark.parametrize(
    "function", [process_tools.ignore_sigterm, process_tools.hang_without_the_lock]
)
def test_process_that_does_not_want_to_end_is_killed_when_its_time_is_over(
    tmp_path: Path, function: Function
) -> None:
    path = tmp_path / "pid"

    with ToolThread() as thread:
        message = call_tool(bound(function, {"path": str(path)}, None, timeout=ENOUGH), thread)

    assert message.outcome == "timeout"
    assert is_gone(int(path.read_text()))


def test_time_over_before_the_function_began_kills_too(dispatch: Dispatch) -> None:
    message = dispatch(process_tools.hang, {"path": "/nowhere/at/all"}, timeout=0.001)

    assert message.outcome == "timeout"


def test_children_of_a_killed_process_are_killed(pipe: Path) -> None:
    watched: list[Watched] = []
    reader = threading.Thread(target=lambda: watched.append(Watched.read(pipe)))
    reader.start()

    made = bound(process_tools.start_another, {"path": str(pipe)}, None, timeout=2 * ENOUGH)
    with ToolThread() as thread:
        message = call_tool(made, thread)
    reader.join()

    assert message.outcome == "timeout"
    assert watched[0].ends_within(20)


@pytest.mark.parametrize("function", [process_tools.leave_another, process_tools.leave_a_fork])
def test_children_of_a_process_are_killed_after_its_answer(
    dispatch: Dispatch, function: Function
) -> None:
    pid = int(dispatch(function).text)

    assert is_gone(pid) or Watched(pid).ends_within(20)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "function",
    [process_tools.hang, process_tools.ignore_sigterm, process_tools.hang_without_the_lock],
)
async def test_cancellation_kills_the_process_at_once_and_the_call_is_pending(
    pipe: Path, function: Function
) -> None:
    conversation = Conversation()
    script = calls(("look", {"path": str(pipe)}))
    agent = AsyncAgent(AsyncScriptedTransport(script), tools=[in_process(function)])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: agent.run("Go.", conversation=conversation))
        watched = await run_sync(Watched.read, pipe)
        tasks.cancel_scope.cancel()
        cancelled = time.monotonic()

    assert time.monotonic() - cancelled < 15  # at once, but for a busy machine
    assert is_gone(watched.pid)
    assert watched.ends_within(0)
    assert [call.name for call in conversation.open_calls] == ["look"]


@pytest.mark.anyio
async def test_call_that_is_cancelled_before_it_began_starts_no_process(tmp_path: Path) -> None:
    made = bound(process_tools.hang, {"path": str(tmp_path / "pid")}, None)

    with anyio.CancelScope() as scope:
        scope.cancel()
        await call_tool_async(made)

    assert scope.cancelled_caught
    assert not (tmp_path / "pid").exists()


def test_process_that_is_stopped_before_it_began_is_never_begun(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    process = ToolProcess(in_process(process_tools.write_pid), {"path": str(path)})

    process.stop()

    with pytest.raises(ToolError):
        process.run(LONG)
    assert not path.exists()


@pytest.mark.anyio
async def test_time_of_the_run_kills_the_process_and_the_result_says_so(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    script = calls(("look", {"path": str(path)}))
    agent = AsyncAgent(
        AsyncScriptedTransport(script),
        tools=[in_process(process_tools.hang)],
        limits=Limits(seconds=ENOUGH),
    )

    result = await agent.run("Go.")

    assert result.limit == "seconds"
    assert [m.outcome for m in result.messages if isinstance(m, ToolMessage)] == ["timeout"]
    assert is_gone(int(path.read_text()))


@pytest.mark.parametrize(
    ("way", "function", "number"),
    [
        *((way, "hang", signal.SIGKILL) for way in WAYS),
        *((way, "hang", signal.SIGINT) for way in WAYS),
        ("blocking", "hang", signal.SIGTERM),
        ("blocking", "ignore_sigterm", signal.SIGTERM),
        ("blocking", "hang_without_the_lock", signal.SIGKILL),
    ],
)
def test_process_ends_with_its_parent(
    pipe: Path, way: str, function: str, number: signal.Signals
) -> None:
    with start_parent("-c", PARENT, way, function, str(pipe)) as parent:
        watched = Watched.read(pipe)
        parent.send_signal(number)
        parent.communicate(timeout=20)

    assert watched.ends_within(20)
    assert parent.returncode != 0
